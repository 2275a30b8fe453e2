package main

import (
	"bytes"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	checks["ReconfigVM_Task"] = append(checks["ReconfigVM_Task"], sameVersion, hotPlug, growsAlone, annotates)
}

// noAnnotation is how an empty annotation passes Go's decoder, which cannot tell it from none: a vCenter removes the text.
const noAnnotation = "virtrigaud: no annotation"

func markEmptyAnnotation(content []byte) []byte {
	marked := []byte("<annotation>" + noAnnotation + "</annotation>")
	content = bytes.ReplaceAll(content, []byte("<annotation></annotation>"), marked)
	return bytes.ReplaceAll(content, []byte("<annotation/>"), marked)
}

// annotates is the last check: nothing refuses the change any more.
func annotates(c *call) types.BaseMethodFault {
	spec := &c.body.(*types.ReconfigVM_Task).Spec
	if spec.Annotation == noAnnotation {
		spec.Annotation = ""
		c.ctx.Update(c.machine(), []types.PropertyChange{{Name: "config.annotation", Val: ""}})
	}
	return nil
}

// sameVersion refuses a change that was made against an older configuration.
// Source: VirtualMachineConfigSpec.changeVersion and ReconfigVM_Task, fault ConcurrentAccess.
func sameVersion(c *call) types.BaseMethodFault {
	spec, vm := c.body.(*types.ReconfigVM_Task).Spec, c.machine()
	if spec.ChangeVersion == "" || spec.ChangeVersion == vm.Config.ChangeVersion || !c.double.enabled("concurrent_access") {
		return nil
	}
	return &types.ConcurrentAccess{}
}

// hotPlug refuses what a running machine cannot take.
// Source: ReconfigVM_Task, faults CpuHotPlugNotSupported, MemoryHotPlugNotSupported and InvalidPowerState;
// VirtualMachineConfigSpec: cpuHotAddEnabled, memoryHotAddEnabled "can only be set when the machine is off".
func hotPlug(c *call) types.BaseMethodFault {
	spec, vm := c.body.(*types.ReconfigVM_Task).Spec, c.machine()
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn || !c.double.enabled("hot_plug") {
		return nil
	}
	config, cpus, memory := vm.Config, vm.Config.Hardware.NumCPU, int64(vm.Config.Hardware.MemoryMB)
	switch {
	case spec.NumCPUs > cpus && !isTrue(config.CpuHotAddEnabled),
		spec.NumCPUs != 0 && spec.NumCPUs < cpus && !isTrue(config.CpuHotRemoveEnabled):
		return &types.CpuHotPlugNotSupported{}
	case spec.MemoryMB > memory && !isTrue(config.MemoryHotAddEnabled), spec.MemoryMB != 0 && spec.MemoryMB < memory:
		return &types.MemoryHotPlugNotSupported{}
	case differs(spec.CpuHotAddEnabled, config.CpuHotAddEnabled),
		differs(spec.CpuHotRemoveEnabled, config.CpuHotRemoveEnabled),
		differs(spec.MemoryHotAddEnabled, config.MemoryHotAddEnabled),
		differs(spec.NestedHVEnabled, config.NestedHVEnabled),
		spec.Firmware != "" && spec.Firmware != config.Firmware,
		spec.GuestId != "" && spec.GuestId != config.GuestId:
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: vm.Runtime.PowerState,
		}
	}
	return nil
}

func isTrue(flag *bool) bool { return flag != nil && *flag }

func differs(want, have *bool) bool { return want != nil && *want != isTrue(have) }

// growsAlone refuses to grow a disk that has a parent: with a snapshot, or in a linked clone.
// Source: InvalidDeviceOperation, "invalid operation for device '0'. Disks with parents cannot be expanded".
func growsAlone(c *call) types.BaseMethodFault {
	vm := c.machine()
	devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
	for i, change := range c.body.(*types.ReconfigVM_Task).Spec.DeviceChange {
		spec := change.GetVirtualDeviceConfigSpec()
		want, ok := spec.Device.(*types.VirtualDisk)
		if !ok || spec.Operation != types.VirtualDeviceConfigSpecOperationEdit {
			continue
		}
		if have, ok := devices.FindByKey(want.Key).(*types.VirtualDisk); ok {
			if fault := grows(vm, have, want, i); fault != nil {
				return fault
			}
		}
	}
	return nil
}

func grows(vm *simulator.VirtualMachine, have, want *types.VirtualDisk, index int) types.BaseMethodFault {
	if hasParent(vm, have) && (want.CapacityInBytes > have.CapacityInBytes || want.CapacityInKB > have.CapacityInKB) {
		return &types.InvalidDeviceOperation{
			InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: int32(index)},
			BadOp:             types.VirtualDeviceConfigSpecOperationEdit,
		}
	}
	return nil
}

func hasParent(vm *simulator.VirtualMachine, disk *types.VirtualDisk) bool {
	backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return vm.Snapshot != nil || (ok && backing.Parent != nil)
}
