package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// guestFacts is what VMware Tools report: GuestInfo of the API reference.
type guestFacts struct {
	VM       string     `json:"vm"`
	IP       string     `json:"ip"`
	HostName string     `json:"host_name"`
	Tools    string     `json:"tools"` // guestToolsRunning, guestToolsNotRunning, guestToolsExecutingScripts
	Net      []guestNIC `json:"net"`
	OnBoot   bool       `json:"on_boot"` // at each power-on from now, instead of at once
}

type guestNIC struct {
	MAC     string   `json:"mac"`
	Network string   `json:"network"`
	IPs     []string `json:"ips"`
	Device  int32    `json:"device"` // deviceConfigId, the card's key
}

func init() {
	for _, method := range []string{"ShutdownGuest", "RebootGuest", "StandbyGuest"} {
		checks[method] = append(checks[method], needsTools)
	}
	replacements["ShutdownGuest"] = shutdownGuest
}

func toolsRun(vm *simulator.VirtualMachine) bool {
	return vm.Guest != nil && vm.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

// needsTools refuses guest power acts where no tools run; the wrong power state comes first.
// Source: VirtualMachine.ShutdownGuest, faults InvalidPowerState and ToolsUnavailable.
func needsTools(c *call) types.BaseMethodFault {
	vm := c.machine()
	on := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	if on && !toolsRun(vm) && c.double.enabled("tools_needed") {
		return &types.ToolsUnavailable{}
	}
	return nil
}

// shutdownGuest asks the guest, who may be deaf. Source: ShutdownGuest "returns immediately and does not wait for
// the guest operating system to complete the operation".
func shutdownGuest(c *call) soap.HasFault {
	c.double.mu.Lock()
	deaf := c.double.shutdown == "deaf"
	c.double.mu.Unlock()
	if deaf && c.machine().Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		return &methods.ShutdownGuestBody{Res: &types.ShutdownGuestResponse{}}
	}
	return c.original()
}

// setGuest makes the tools of a machine report.
func (d *Double) setGuest(facts guestFacts) error {
	vm, err := d.find(facts.VM)
	if err != nil {
		return err
	}
	if facts.OnBoot {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.onBoot[vm.Self] = facts
		return nil
	}
	ctx := &simulator.Context{Map: d.registry}
	ctx.WithLock(vm, func() { d.registry.Update(ctx, vm, facts.changes()) })
	return nil
}

func (f guestFacts) changes() []types.PropertyChange {
	var changes []types.PropertyChange
	set := func(name string, value any) {
		changes = append(changes, types.PropertyChange{Name: name, Val: value})
	}
	if f.Tools != "" {
		set("guest.toolsRunningStatus", f.Tools)
		set("summary.guest.toolsRunningStatus", f.Tools)
		status := types.VirtualMachineToolsStatusToolsNotRunning
		if f.Tools == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
			status = types.VirtualMachineToolsStatusToolsOk
		}
		set("guest.toolsStatus", status)
	}
	if f.IP != "" {
		set("guest.ipAddress", f.IP)
		set("summary.guest.ipAddress", f.IP)
	}
	if f.HostName != "" {
		set("guest.hostName", f.HostName)
		set("summary.guest.hostName", f.HostName)
	}
	if f.Net != nil {
		var nics []types.GuestNicInfo
		for _, nic := range f.Net {
			nics = append(nics, types.GuestNicInfo{
				MacAddress: nic.MAC, Network: nic.Network, IpAddress: nic.IPs, Connected: true, DeviceConfigId: nic.Device,
			})
		}
		set("guest.net", nics)
	}
	return changes
}

// watcher sees every machine that is made and every change of one.
type watcher struct {
	Self   types.ManagedObjectReference
	double *Double
}

func (w *watcher) Reference() types.ManagedObjectReference { return w.Self }

// PutObject fills two enumerations that the simulator sends empty, which pyvmomi cannot decode: without them it
// fails on the whole `runtime` and `summary`. Source: VirtualMachineRuntimeInfo, VirtualMachineFaultToleranceState.
func (w *watcher) PutObject(_ *simulator.Context, object mo.Reference) {
	vm, ok := object.(*simulator.VirtualMachine)
	if !ok {
		return
	}
	for _, runtime := range []*types.VirtualMachineRuntimeInfo{&vm.Runtime, &vm.Summary.Runtime} {
		runtime.FaultToleranceState = types.VirtualMachineFaultToleranceStateNotConfigured
		runtime.RecordReplayState = types.VirtualMachineRecordReplayStateInactive
	}
}

// UpdateObject lets the tools and the boot time come and go with the power. Source: GuestInfo.toolsRunningStatus; the address of a
// machine that is off is stale, as it can be in a vCenter.
func (w *watcher) UpdateObject(ctx *simulator.Context, object mo.Reference, changes []types.PropertyChange) {
	if task, ok := object.(*mo.Task); ok {
		w.double.taskFailed(task)
		return
	}
	vm, ok := object.(*mo.VirtualMachine)
	if !ok {
		return
	}
	for _, change := range changes {
		if change.Name == "config.hardware.device" {
			w.double.fitDisks(vm)
		}
		if change.Name != "runtime.powerState" {
			continue
		}
		target := w.double.registry.Get(vm.Self)
		w.double.registry.Update(ctx, target, append(bootTime(vm), w.double.guestChanges(vm)...))
	}
}

// bootTime comes with the power and goes with it. Source: VirtualMachineRuntimeInfo.bootTime, "the timestamp when the
// virtual machine was most recently powered on", cleared when it is powered off.
func bootTime(vm *mo.VirtualMachine) []types.PropertyChange {
	var at any
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		at = time.Now()
	}
	return []types.PropertyChange{{Name: "runtime.bootTime", Val: at}, {Name: "summary.runtime.bootTime", Val: at}}
}

func (d *Double) guestChanges(vm *mo.VirtualMachine) []types.PropertyChange {
	if vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		d.mu.Lock()
		defer d.mu.Unlock()
		facts := d.onBoot[vm.Self]
		return facts.changes()
	}
	facts := guestFacts{Tools: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)}
	if vm.Guest == nil || vm.Guest.ToolsRunningStatus == facts.Tools ||
		vm.Guest.ToolsStatus == types.VirtualMachineToolsStatusToolsNotInstalled {
		return nil
	}
	return facts.changes()
}

// RemoveObject takes a machine out of its cluster's rules; not at once, as somebody may hold the cluster now.
func (w *watcher) RemoveObject(_ *simulator.Context, ref types.ManagedObjectReference) {
	if ref.Type == "VirtualMachine" {
		go w.double.forgetInRules(ref)
	}
}

func (d *Double) watchMachines() {
	w := &watcher{Self: types.ManagedObjectReference{Type: "Watcher", Value: "watcher"}, double: d}
	for _, vm := range d.machines() {
		w.PutObject(nil, vm)
		d.fitDisks(&vm.VirtualMachine)
	}
	d.registry.AddHandler(w)
}
