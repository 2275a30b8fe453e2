package main

import (
	"reflect"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// The requests of this file end the simulator's process when they reach it.

func init() {
	checks["ReconfigVM_Task"] = append(checks["ReconfigVM_Task"], knownNetworks)
	checks["CloneVM_Task"] = append(checks["CloneVM_Task"], knownNetworks)
	checks["ImportVApp"] = append(checks["ImportVApp"], knownNetworks)
	checks["StartProgramInGuest"] = append(checks["StartProgramInGuest"], guestOperations)
}

// missingObject refuses a request that names an object that is not there.
// Source: vmodl.fault.ManagedObjectNotFound, "a managed object reference does not refer to a managed object".
func (c *call) missingObject() types.BaseMethodFault {
	for _, ref := range references(reflect.ValueOf(c.body)) {
		switch ref.Type {
		case "ResourcePool", "HostSystem", "Datastore", "Folder", "VirtualMachine", "VirtualMachineSnapshot":
			if c.double.registry.Get(ref) == nil {
				return &types.ManagedObjectNotFound{Obj: ref}
			}
		}
	}
	return nil
}

func references(value reflect.Value) []types.ManagedObjectReference {
	if value.IsValid() && value.Type() == reflect.TypeFor[types.ManagedObjectReference]() {
		return []types.ManagedObjectReference{value.Interface().(types.ManagedObjectReference)}
	}
	var found []types.ManagedObjectReference
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			found = references(value.Elem())
		}
	case reflect.Slice:
		for i := range value.Len() {
			found = append(found, references(value.Index(i))...)
		}
	case reflect.Struct:
		for i := range value.NumField() {
			if value.Type().Field(i).IsExported() {
				found = append(found, references(value.Field(i))...)
			}
		}
	}
	return found
}

// knownDatastore refuses a path on an unknown datastore.
// Source: Folder.CreateVM_Task, fault InvalidDatastore.
func knownDatastore(c *call) types.BaseMethodFault {
	config := c.body.(*types.CreateVM_Task).Config
	if config.Files == nil {
		return nil
	}
	var path object.DatastorePath
	path.FromString(config.Files.VmPathName)
	if c.named(path.Datastore, func(dc *simulator.Datacenter) []types.ManagedObjectReference { return dc.Datastore }) {
		return nil
	}
	return &types.InvalidDatastorePath{
		InvalidDatastore: types.InvalidDatastore{Name: path.Datastore}, DatastorePath: config.Files.VmPathName,
	}
}

// knownNetworks refuses a card on a standard network or port group that does not exist.
// Source: VirtualMachine.ReconfigVM_Task, fault InvalidDeviceBacking with the device's index.
func knownNetworks(c *call) types.BaseMethodFault {
	for _, changes := range deviceChanges(c.body) {
		for i, change := range changes {
			card, ok := change.GetVirtualDeviceConfigSpec().Device.(types.BaseVirtualEthernetCard)
			if !ok || c.knownBacking(card.GetVirtualEthernetCard().Backing) {
				continue
			}
			return &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{
				InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.backing"}, DeviceIndex: int32(i),
			}}
		}
	}
	return nil
}

func (c *call) knownBacking(backing types.BaseVirtualDeviceBackingInfo) bool {
	switch b := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		networks := func(dc *simulator.Datacenter) []types.ManagedObjectReference { return dc.Network }
		return c.named(b.DeviceName, networks)
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		ref := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}
		return c.double.registry.Get(ref) != nil
	}
	return true
}

func deviceChanges(body any) [][]types.BaseVirtualDeviceConfigSpec {
	switch request := body.(type) {
	case *types.CreateVM_Task:
		return [][]types.BaseVirtualDeviceConfigSpec{request.Config.DeviceChange}
	case *types.ReconfigVM_Task:
		return [][]types.BaseVirtualDeviceConfigSpec{request.Spec.DeviceChange}
	case *types.ImportVApp:
		if spec, ok := request.Spec.(*types.VirtualMachineImportSpec); ok {
			return [][]types.BaseVirtualDeviceConfigSpec{spec.ConfigSpec.DeviceChange}
		}
	case *types.CloneVM_Task:
		changes := [][]types.BaseVirtualDeviceConfigSpec{request.Spec.Location.DeviceChange}
		if request.Spec.Config != nil {
			changes = append(changes, request.Spec.Config.DeviceChange)
		}
		return changes
	}
	return nil
}

// named says whether the target's datacenter lists an object of that name.
func (c *call) named(name string, list func(*simulator.Datacenter) []types.ManagedObjectReference) bool {
	dc := c.double.datacenter(c.Self)
	return dc != nil && c.double.registry.FindByName(name, list(dc)) != nil
}

// guestOperations refuses to start a program where no tools run.
// Source: GuestProcessManager.StartProgramInGuest, fault GuestOperationsUnavailable.
func guestOperations(c *call) types.BaseMethodFault {
	vm, ok := c.double.registry.Get(c.body.(*types.StartProgramInGuest).Vm).(*simulator.VirtualMachine)
	if !ok || !toolsRun(vm) {
		return &types.GuestOperationsUnavailable{}
	}
	return nil
}
