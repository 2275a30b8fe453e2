package main

import (
	"fmt"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["CreateSnapshot_Task"] = createSnapshot
	replacements["CreateSnapshotEx_Task"] = createSnapshot
	replacements["RevertToSnapshot_Task"] = revertToSnapshot
	replacements["RevertToCurrentSnapshot_Task"] = revertToCurrent
	replacements["RemoveSnapshot_Task"] = removeSnapshot
	replacements["RemoveAllSnapshots_Task"] = removeAllSnapshots
	replacements["ConsolidateVMDisks_Task"] = consolidate
}

// createSnapshot puts every disk on a delta, as the simulator does not. Source: VirtualMachine.CreateSnapshot_Task:
// memory of a machine without power is nothing; quiesce "is ignored" without power or tools, and else may fail with
// FilesystemQuiesceFault.
func createSnapshot(c *call) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		vm := c.machine()
		quiesced := asksQuiesce(c.body) && vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && toolsRun(vm)
		if quiesced && c.double.enabled("quiesce_fails") {
			return nil, &types.FilesystemQuiesceFault{}
		}
		result, fault := c.outcome(c.original())
		if fault != nil {
			return nil, fault
		}
		made := result.(types.ManagedObjectReference)
		own := c.double.chains(c.ctx, vm)
		if fault := own.branch(); fault != nil {
			return nil, fault
		}
		if isTrue(vm.Config.ChangeTrackingEnabled) {
			own.track(made)
		}
		own.save()
		eachTree(vm.Snapshot.RootSnapshotList, func(tree *types.VirtualMachineSnapshotTree) {
			if tree.Snapshot == made {
				tree.Quiesced = quiesced
			}
		})
		c.double.treeChanged(c.ctx, vm)
		return made, nil
	})
}

func asksQuiesce(body any) bool {
	switch request := body.(type) {
	case *types.CreateSnapshot_Task:
		return request.Quiesce
	case *types.CreateSnapshotEx_Task:
		return request.QuiesceSpec != nil
	}
	return false
}

// track gives the disks of a snapshot, and those of the machine above them, their change ids.
func (c *chains) track(snapshot types.ManagedObjectReference) {
	name := func(devices []types.BaseVirtualDevice) {
		for _, disk := range flatDisks(devices) {
			backingOf(disk).ChangeId = c.double.contents.changeID(flatFile(c.path(backingOf(disk))))
		}
	}
	name(c.devices)
	for _, held := range c.held {
		if held.snapshot.Self == snapshot {
			name(held.config.Hardware.Device)
		}
	}
}

func eachTree(trees []types.VirtualMachineSnapshotTree, visit func(*types.VirtualMachineSnapshotTree)) {
	for i := range trees {
		visit(&trees[i])
		eachTree(trees[i].ChildSnapshotList, visit)
	}
}

// treeChanged tells collectors of the tree, and each snapshot of its children.
func (d *Double) treeChanged(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	if vm.Snapshot == nil {
		return
	}
	eachTree(vm.Snapshot.RootSnapshotList, func(tree *types.VirtualMachineSnapshotTree) {
		snapshot, ok := d.registry.Get(tree.Snapshot).(*simulator.VirtualMachineSnapshot)
		if !ok {
			return
		}
		var children []types.ManagedObjectReference
		for _, child := range tree.ChildSnapshotList {
			children = append(children, child.Snapshot)
		}
		d.registry.WithLock(ctx, snapshot, func() { snapshot.ChildSnapshot = children })
	})
	tree := copyOf(*vm.Snapshot)
	d.registry.Update(ctx, vm, []types.PropertyChange{{Name: "snapshot", Val: &tree}})
}

func revertToCurrent(c *call) soap.HasFault {
	vm := c.machine()
	if vm.Snapshot == nil || vm.Snapshot.CurrentSnapshot == nil {
		return refuse(&types.NotFound{})
	}
	suppress := c.body.(*types.RevertToCurrentSnapshot_Task).SuppressPowerOn
	return c.revert(*vm.Snapshot.CurrentSnapshot, isTrue(suppress))
}

func revertToSnapshot(c *call) soap.HasFault {
	return c.revert(c.Self, isTrue(c.body.(*types.RevertToSnapshot_Task).SuppressPowerOn))
}

// revert brings back configuration, disks and power; the simulator moves the pointer only. Source:
// VirtualMachineSnapshot.RevertToSnapshot_Task; without memory in the snapshot the machine is off afterwards. The
// machine's name belongs to the inventory and stays.
func (c *call) revert(ref types.ManagedObjectReference, suppressPowerOn bool) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		vm := c.machine()
		snapshot, ok := c.double.registry.Get(ref).(*simulator.VirtualMachineSnapshot)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: ref}
		}
		if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
			off := vm.PowerOffVMTask(c.ctx, &types.PowerOffVM_Task{This: vm.Self})
			if _, fault := c.outcome(off); fault != nil {
				return nil, fault
			}
		}
		own := c.double.chains(c.ctx, vm)
		var left []*flatBacking
		for _, disk := range flatDisks(own.devices) {
			left = append(left, backingOf(disk))
		}
		config := copyOf(snapshot.Config)
		own.devices = config.Hardware.Device
		if fault := own.branch(); fault != nil {
			return nil, fault
		}
		if isTrue(config.ChangeTrackingEnabled) {
			own.track(types.ManagedObjectReference{})
		}
		own.discard(left)
		if fault := own.consolidate(); fault != nil {
			return nil, fault
		}
		c.double.restore(c.ctx, vm, &config)
		own.save()
		vm.Snapshot.CurrentSnapshot = &ref
		c.double.treeChanged(c.ctx, vm)
		return nil, c.restorePower(ref, suppressPowerOn)
	})
}

// restore makes a configuration the machine's own and tells collectors of its leaves.
func (d *Double) restore(ctx *simulator.Context, vm *simulator.VirtualMachine, config *types.VirtualMachineConfigInfo) {
	now := time.Now()
	config.Name, config.Template, config.Files = vm.Config.Name, vm.Config.Template, vm.Config.Files
	config.Modified, config.ChangeVersion = now, fmt.Sprint(now.UnixNano())
	vm.Config = config
	var networks []types.ManagedObjectReference
	var nics []types.GuestNicInfo
	for _, device := range config.Hardware.Device {
		if connect := device.GetVirtualDevice().Connectable; connect != nil {
			connect.Connected = false
		}
		card, ok := device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		nic := types.GuestNicInfo{MacAddress: card.GetVirtualEthernetCard().MacAddress, DeviceConfigId: device.GetVirtualDevice().Key}
		switch backing := device.GetVirtualDevice().Backing.(type) {
		case *types.VirtualEthernetCardNetworkBackingInfo:
			nic.Network = backing.DeviceName
			if backing.Network != nil {
				networks = append(networks, *backing.Network)
			}
		case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
			group := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: backing.Port.PortgroupKey}
			networks = append(networks, group)
		}
		nics = append(nics, nic)
	}
	hardware := config.Hardware
	d.registry.Update(ctx, vm, []types.PropertyChange{
		{Name: "config.hardware.numCPU", Val: hardware.NumCPU},
		{Name: "config.hardware.memoryMB", Val: hardware.MemoryMB},
		{Name: "config.extraConfig", Val: config.ExtraConfig},
		{Name: "config.annotation", Val: config.Annotation},
		{Name: "config.firmware", Val: config.Firmware},
		{Name: "config.changeVersion", Val: config.ChangeVersion},
		{Name: "summary.config.numCpu", Val: hardware.NumCPU},
		{Name: "summary.config.memorySizeMB", Val: hardware.MemoryMB},
		{Name: "summary.config.numEthernetCards", Val: int32(len(nics))},
		{Name: "summary.config.numVirtualDisks", Val: int32(len(flatDisks(hardware.Device)))},
		{Name: "network", Val: networks},
		{Name: "guest.net", Val: nics},
	})
}

// restorePower brings a machine that is off into the state that its snapshot has in memory.
func (c *call) restorePower(ref types.ManagedObjectReference, suppress bool) types.BaseMethodFault {
	vm := c.machine()
	state := types.VirtualMachinePowerStatePoweredOff
	eachTree(vm.Snapshot.RootSnapshotList, func(tree *types.VirtualMachineSnapshotTree) {
		if tree.Snapshot == ref {
			state = tree.State
		}
	})
	if state == types.VirtualMachinePowerStatePoweredOff || suppress {
		return nil
	}
	_, fault := c.outcome(vm.PowerOnVMTask(c.ctx, &types.PowerOnVM_Task{This: vm.Self}))
	if fault == nil && state == types.VirtualMachinePowerStateSuspended {
		_, fault = c.outcome(vm.SuspendVMTask(c.ctx, &types.SuspendVM_Task{This: vm.Self}))
	}
	return fault
}

// removeSnapshot takes the snapshot out of the tree, its children with it or up, and merges the disks that are no
// longer needed apart. Source: VirtualMachineSnapshot.RemoveSnapshot_Task; without consolidate,
// runtime.consolidationNeeded tells what is left to do.
func removeSnapshot(c *call) soap.HasFault {
	request := c.body.(*types.RemoveSnapshot_Task)
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		vm := c.machine()
		doomed := []types.ManagedObjectReference{c.Self}
		if request.RemoveChildren {
			eachTree(vm.Snapshot.RootSnapshotList, func(tree *types.VirtualMachineSnapshotTree) {
				if tree.Snapshot == c.Self {
					eachTree(tree.ChildSnapshotList, func(child *types.VirtualMachineSnapshotTree) {
						doomed = append(doomed, child.Snapshot)
					})
				}
			})
		}
		var left []*flatBacking
		for i := len(doomed) - 1; i >= 0; i-- { // children first: the current snapshot moves up step by step
			snapshot := c.double.registry.Get(doomed[i]).(*simulator.VirtualMachineSnapshot)
			for _, disk := range flatDisks(snapshot.Config.Hardware.Device) {
				left = append(left, backingOf(disk))
			}
			vm.LayoutEx.Snapshot = nil // its keys are stale, and the simulator deletes the files that they name
			one := &types.RemoveSnapshot_Task{This: doomed[i]}
			if _, fault := c.outcome(snapshot.RemoveSnapshotTask(c.ctx, one)); fault != nil {
				return nil, fault
			}
		}
		return nil, c.afterRemoval(left, request.Consolidate)
	})
}

func removeAllSnapshots(c *call) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		var left []*flatBacking
		for _, snapshot := range c.double.snapshots(c.Self) {
			for _, disk := range flatDisks(snapshot.Config.Hardware.Device) {
				left = append(left, backingOf(disk))
			}
		}
		c.machine().LayoutEx.Snapshot = nil // see removeSnapshot
		if _, fault := c.outcome(c.original()); fault != nil {
			return nil, fault
		}
		return nil, c.afterRemoval(left, c.body.(*types.RemoveAllSnapshots_Task).Consolidate)
	})
}

func (c *call) afterRemoval(left []*flatBacking, wanted *bool) types.BaseMethodFault {
	own := c.double.chains(c.ctx, c.machine())
	own.discard(left)
	if (wanted == nil || *wanted) && c.double.enabled("consolidate") {
		if fault := own.consolidate(); fault != nil {
			return fault
		}
	}
	own.save()
	c.needsConsolidation(own.mergeable() != nil)
	c.double.treeChanged(c.ctx, c.machine())
	return nil
}

func (c *call) needsConsolidation(needed bool) {
	c.double.registry.Update(c.ctx, c.machine(), []types.PropertyChange{
		{Name: "runtime.consolidationNeeded", Val: needed},
		{Name: "summary.runtime.consolidationNeeded", Val: needed},
	})
}

// consolidate merges what snapshots left. Source: VirtualMachine.ConsolidateVMDisks_Task, runtime.consolidationNeeded.
func consolidate(c *call) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		own := c.double.chains(c.ctx, c.machine())
		if fault := own.consolidate(); fault != nil {
			return nil, fault
		}
		own.save()
		c.needsConsolidation(false)
		return nil, nil
	})
}
