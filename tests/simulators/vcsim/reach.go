package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	for _, method := range []string{"FindAllByUuid", "FindByUuid"} {
		replacements[method] = foundByUUID
	}
}

// reach is how far a vCenter gets to a machine: VirtualMachineConnectionState. Without `config` nothing of the
// configuration can be read. Source: VirtualMachine.config, "the virtual machine configuration is not guaranteed to be
// available. For example, the configuration information would be unavailable if the server is unable to access the virtual
// machine files on disk"; VirtualMachineConnectionState inaccessible and invalid, "no configuration can be returned".
type reach struct {
	VM    string `json:"vm"`
	State string `json:"state"` // connected, disconnected, inaccessible, invalid, orphaned
	// Config says whether the database still has the configuration, as it has of machines of a host that is away.
	Config bool `json:"config"`
	// UUID says whether summary.config.instanceUuid still has the machine's identity. The property is optional
	// (VirtualMachineConfigSummary.instanceUuid); name and vmPathName are there as long as the summary is.
	UUID bool `json:"uuid"`
	// Index says whether the search index has it.
	Index bool `json:"index"`
}

// refusals are why nothing can be done to a machine in a state. Source: the faults of VirtualMachine's tasks,
// HostNotConnected, CannotAccessVmConfig and InvalidVmState.
var refusals = map[types.VirtualMachineConnectionState]func(*simulator.VirtualMachine) types.BaseMethodFault{
	types.VirtualMachineConnectionStateDisconnected: func(*simulator.VirtualMachine) types.BaseMethodFault {
		return &types.HostNotConnected{}
	},
	types.VirtualMachineConnectionStateInaccessible: func(vm *simulator.VirtualMachine) types.BaseMethodFault {
		file := types.FileFault{File: vm.Config.Files.VmPathName}
		return &types.CannotAccessVmConfig{Reason: types.LocalizedMethodFault{Fault: &types.CannotAccessFile{FileFault: file}}}
	},
	types.VirtualMachineConnectionStateInvalid:  invalidState,
	types.VirtualMachineConnectionStateOrphaned: invalidState,
}

func invalidState(vm *simulator.VirtualMachine) types.BaseMethodFault {
	return &types.InvalidVmState{Vm: vm.Self}
}

// setReach takes a machine out of reach, or brings it back.
func (d *Double) setReach(wanted reach) (any, error) {
	vm, err := d.find(wanted.VM)
	if err != nil {
		return nil, err
	}
	state := types.VirtualMachineConnectionState(wanted.State)
	if state == types.VirtualMachineConnectionStateConnected {
		d.mu.Lock()
		delete(d.away, vm.Self)
		d.mu.Unlock()
		d.bringBack(vm.Self)
		return nil, nil
	}
	if refusals[state] == nil {
		return nil, fmt.Errorf("%q is no state", wanted.State)
	}
	d.mu.Lock()
	d.away[vm.Self] = wanted
	d.mu.Unlock()
	d.connection(vm.Self, state)
	return nil, nil
}

// bringBack brings a machine back, and with it all that was out of reach.
func (d *Double) bringBack(ref types.ManagedObjectReference) {
	if d.registry.Get(ref) != nil {
		d.connection(ref, types.VirtualMachineConnectionStateConnected)
	}
}

func (d *Double) connection(ref types.ManagedObjectReference, state types.VirtualMachineConnectionState) {
	d.registry.AtomicUpdate(&simulator.Context{Map: d.registry}, d.registry.Get(ref), []types.PropertyChange{
		{Name: "runtime.connectionState", Val: state}, {Name: "summary.runtime.connectionState", Val: state},
	})
}

func (d *Double) reachOf(ref types.ManagedObjectReference) (reach, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found, away := d.away[ref]
	return found, away
}

// outOfReach refuses what cannot be done to a machine that is away. Taking it off the inventory is all that can.
func (c *call) outOfReach() types.BaseMethodFault {
	vm := c.machine()
	if vm == nil || c.name == "UnregisterVM" {
		return nil
	}
	if found, away := c.double.reachOf(vm.Self); away {
		return refusals[types.VirtualMachineConnectionState(found.State)](vm)
	}
	return nil
}

// ofConfiguration is a property that a machine without its configuration lacks.
var ofConfiguration = regexp.MustCompile(`^(config|summary\.config\.instanceUuid|summary\.config\.uuid)\b`)

// lacks says whether a property cannot be read of an object that is out of reach.
func (d *Double) lacks(ref types.ManagedObjectReference, property string) bool {
	found, away := d.reachOf(ref)
	return away && !found.Config && ofConfiguration.MatchString(property) &&
		!(found.UUID && strings.HasPrefix(property, "summary."))
}

// unread takes what is out of reach out of one object of a property collector's answer.
func (d *Double) unread(ref types.ManagedObjectReference, set []byte) []byte {
	return propertySet.ReplaceAllFunc(set, func(property []byte) []byte {
		if name := pathName.FindSubmatch(property); name != nil && d.lacks(ref, string(name[1])) {
			return nil
		}
		return property
	})
}

// foundByUUID leaves out machines of which the database has forgotten who they are.
func foundByUUID(c *call) soap.HasFault {
	forgotten := func(ref types.ManagedObjectReference) bool {
		found, away := c.double.reachOf(ref)
		return away && !found.Config && !found.Index
	}
	answer := c.original()
	switch body := answer.(type) {
	case *methods.FindAllByUuidBody:
		if body.Res != nil {
			rest := []types.ManagedObjectReference{}
			for _, ref := range body.Res.Returnval {
				if !forgotten(ref) {
					rest = append(rest, ref)
				}
			}
			body.Res.Returnval = rest
		}
	case *methods.FindByUuidBody:
		if body.Res != nil && body.Res.Returnval != nil && forgotten(*body.Res.Returnval) {
			body.Res.Returnval = nil
		}
	}
	return answer
}
