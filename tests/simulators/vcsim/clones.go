package main

import (
	"maps"
	"path"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["CloneVM_Task"] = cloneMachine
	replacements["InstantClone_Task"] = instantClone
	replacements["CustomizeVM_Task"] = customize
	replacements["Destroy_Task"] = destroy
}

const childDisk = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)

// plan is what a clone is made from.
type plan struct {
	name     string
	folder   types.ManagedObjectReference
	location types.VirtualMachineRelocateSpec
	source   types.VirtualMachineConfigInfo
	disks    map[int32]*flatBacking // what each disk is a child or a copy of, by key
	linked   func(disk int32) bool
}

// cloneMachine copies the whole configuration of a machine or snapshot, as the simulator does not, then applies the
// request's on top. Source: VirtualMachine.CloneVM_Task, VirtualMachineCloneSpec (snapshot, config, location.disk),
// VirtualMachineRelocateDiskMoveOptions.createNewChildDiskBacking.
func cloneMachine(c *call) soap.HasFault {
	request := c.body.(*types.CloneVM_Task)
	vm, spec := c.machine(), &request.Spec
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		p := &plan{name: request.Name, folder: request.Folder, location: spec.Location, source: copyOf(*vm.Config)}
		p.linked = linkedBy(&spec.Location)
		if spec.Snapshot != nil {
			p.source = copyOf(c.double.registry.Get(*spec.Snapshot).(*simulator.VirtualMachineSnapshot).Config)
		}
		p.disks = map[int32]*flatBacking{}
		for _, disk := range flatDisks(p.source.Hardware.Device) {
			p.disks[disk.Key] = backingOf(disk)
			if p.linked(disk.Key) && spec.Snapshot == nil {
				return nil, &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
			}
		}
		if p.location.Pool == nil && !vm.Config.Template {
			p.location.Pool = vm.ResourcePool
		}
		c.event(&types.VmBeingClonedEvent{
			VmCloneEvent: types.VmCloneEvent{VmEvent: c.double.vmEvent(vm)}, DestName: request.Name,
			DestFolder: types.FolderEventArgument{Folder: request.Folder},
			DestHost:   *c.double.vmEvent(vm).Host,
		})
		made, fault := c.makeClone(p)
		if fault != nil {
			return nil, fault
		}
		if fault := c.finishClone(made, spec); fault != nil {
			_, _ = c.outcomeFor(made.DestroyTask(c.ctx, &types.Destroy_Task{This: made.Self}), made.Self)
			return nil, fault
		}
		c.event(&types.VmClonedEvent{
			VmCloneEvent: types.VmCloneEvent{VmEvent: c.double.vmEvent(made)}, SourceVm: *c.double.vmEvent(vm).Vm,
		})
		if spec.PowerOn && !spec.Template {
			_, fault = c.outcomeFor(made.PowerOnVMTask(c.ctx, &types.PowerOnVM_Task{This: made.Self}), made.Self)
		}
		return made.Self, fault
	})
}

// linkedBy says which disks become children. Source: VirtualMachineRelocateSpec.diskMoveType, and for one disk
// VirtualMachineRelocateSpecDiskLocator.diskMoveType.
func linkedBy(location *types.VirtualMachineRelocateSpec) func(int32) bool {
	return func(disk int32) bool {
		for _, locator := range location.Disk {
			if locator.DiskId == disk && locator.DiskMoveType != "" {
				return locator.DiskMoveType == childDisk
			}
		}
		return location.DiskMoveType == childDisk
	}
}

// makeClone creates the machine and its disks.
func (c *call) makeClone(p *plan) (*simulator.VirtualMachine, types.BaseMethodFault) {
	folder, ok := c.double.registry.Get(p.folder).(*simulator.Folder)
	switch {
	case !ok:
		return nil, &types.InvalidArgument{InvalidProperty: "folder"}
	case p.location.Pool == nil:
		return nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	if other := c.double.registry.FindByName(p.name, folder.ChildEntity); other != nil {
		return nil, &types.DuplicateName{Name: p.name, Object: other.Reference()}
	}
	host := p.location.Host
	if pool := c.machine().ResourcePool; host == nil && pool != nil && *p.location.Pool == *pool {
		host = c.machine().Runtime.Host
	}
	spec := c.copiedSpec(p)
	create := &types.CreateVM_Task{This: folder.Self, Config: spec, Pool: *p.location.Pool, Host: host}
	result, fault := c.outcomeFor(folder.CreateVMTask(c.ctx, create), folder.Self)
	if fault != nil {
		return nil, fault
	}
	made := c.double.registry.Get(result.(types.ManagedObjectReference)).(*simulator.VirtualMachine)
	return made, c.fillDisks(p, made)
}

// copiedSpec is the source's configuration as a request.
func (c *call) copiedSpec(p *plan) types.VirtualMachineConfigSpec {
	s := &p.source
	directory := object.DatastorePath{Datastore: datastoreOf(c.machine().Config.Files.VmPathName), Path: p.name}
	if p.location.Datastore != nil {
		directory.Datastore = c.double.registry.Get(*p.location.Datastore).(*simulator.Datastore).Name
	}
	spec := types.VirtualMachineConfigSpec{
		Name: p.name, Version: s.Version, GuestId: s.GuestId, AlternateGuestName: s.AlternateGuestName,
		Annotation: s.Annotation, Firmware: s.Firmware, Flags: &s.Flags, BootOptions: s.BootOptions, Tools: s.Tools,
		Files:   &types.VirtualMachineFileInfo{VmPathName: directory.String()},
		NumCPUs: s.Hardware.NumCPU, NumCoresPerSocket: s.Hardware.NumCoresPerSocket, MemoryMB: int64(s.Hardware.MemoryMB),
		VirtualICH7MPresent: s.Hardware.VirtualICH7MPresent, VirtualSMCPresent: s.Hardware.VirtualSMCPresent,
		CpuAllocation: s.CpuAllocation, MemoryAllocation: s.MemoryAllocation, LatencySensitivity: s.LatencySensitivity,
		CpuHotAddEnabled: s.CpuHotAddEnabled, CpuHotRemoveEnabled: s.CpuHotRemoveEnabled,
		MemoryHotAddEnabled: s.MemoryHotAddEnabled, NestedHVEnabled: s.NestedHVEnabled, ManagedBy: s.ManagedBy,
		MemoryReservationLockedToMax: s.MemoryReservationLockedToMax, VAppConfig: copiedVApp(s.VAppConfig),
	}
	for _, option := range s.ExtraConfig {
		if option.GetOptionValue().Key != "govcsim" { // the simulator's own mark
			spec.ExtraConfig = append(spec.ExtraConfig, option)
		}
	}
	devices := object.VirtualDeviceList(s.Hardware.Device)
	for _, device := range copyDevices(s.Hardware.Device) {
		if object.VirtualDeviceList(esx.VirtualDevice).Find(devices.Name(device)) != nil {
			continue // every machine is made with these
		}
		change := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: device}
		switch own := device.(type) {
		case *types.VirtualDisk:
			change.FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
			c.placeDisk(p, own, directory)
		case types.BaseVirtualEthernetCard:
			if card := own.GetVirtualEthernetCard(); card.AddressType != string(types.VirtualEthernetCardMacTypeManual) {
				card.MacAddress = "" // a copy gets an address of its own
			}
		}
		spec.DeviceChange = append(spec.DeviceChange, change)
	}
	return spec
}

// placeDisk clears what the source's disk was called; the new machine's directory names it anew.
func (c *call) placeDisk(p *plan, disk *types.VirtualDisk, directory object.DatastorePath) {
	backing := backingOf(disk)
	if backing == nil {
		return
	}
	backing.FileName, backing.Uuid, backing.ChangeId, backing.Datastore, backing.Parent = "", "", "", nil, nil
	for _, locator := range p.location.Disk {
		datastore, ok := c.double.registry.Get(locator.Datastore).(*simulator.Datastore)
		if locator.DiskId == disk.Key && ok && datastore.Name != directory.Datastore {
			directory.Datastore = datastore.Name
			directory.Path = path.Join(directory.Path, path.Base(p.disks[disk.Key].FileName))
			backing.FileName = directory.String()
		}
	}
	if p.linked(disk.Key) {
		backing.Parent = p.disks[disk.Key]
	}
}

func copiedVApp(config types.BaseVmConfigInfo) types.BaseVmConfigSpec {
	if config == nil {
		return nil
	}
	info := config.GetVmConfigInfo()
	spec := &types.VmConfigSpec{
		Eula: info.Eula, OvfEnvironmentTransport: info.OvfEnvironmentTransport,
		InstallBootRequired: &info.InstallBootRequired, InstallBootStopDelay: info.InstallBootStopDelay,
	}
	add := types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd}
	for i := range info.Product {
		spec.Product = append(spec.Product, types.VAppProductSpec{ArrayUpdateSpec: add, Info: &info.Product[i]})
	}
	for i := range info.Property {
		spec.Property = append(spec.Property, types.VAppPropertySpec{ArrayUpdateSpec: add, Info: &info.Property[i]})
	}
	return spec
}

// fillDisks gives the clone's disks the bytes of the source's. The devices come in the source's order.
func (c *call) fillDisks(p *plan, made *simulator.VirtualMachine) types.BaseMethodFault {
	own := flatDisks(made.Config.Hardware.Device)
	for i, disk := range flatDisks(p.source.Hardware.Device) {
		from := c.double.file(c.Self, p.disks[disk.Key].FileName)
		to := c.double.file(made.Self, backingOf(own[i]).FileName)
		copying := c.double.contents.duplicate
		if p.linked(disk.Key) {
			copying = c.double.contents.fork
		}
		if err := copying(flatFile(from), flatFile(to)); err != nil {
			return &types.FileFault{File: p.disks[disk.Key].FileName}
		}
	}
	return nil
}

// finishClone applies what the request wants different from the source.
func (c *call) finishClone(made *simulator.VirtualMachine, spec *types.VirtualMachineCloneSpec) types.BaseMethodFault {
	var changes []types.VirtualMachineConfigSpec
	if len(spec.Location.DeviceChange) > 0 {
		changes = append(changes, types.VirtualMachineConfigSpec{DeviceChange: spec.Location.DeviceChange})
	}
	if spec.Config != nil {
		config := *spec.Config
		config.Name, config.Files, config.ChangeVersion = "", nil, ""
		changes = append(changes, config)
	}
	for _, change := range changes {
		reconfigure := &types.ReconfigVM_Task{This: made.Self, Spec: change}
		if fault := ownDisks(made, change.DeviceChange); fault != nil {
			return fault
		}
		if _, fault := c.outcomeFor(made.ReconfigVMTask(c.ctx, reconfigure), made.Self); fault != nil {
			return fault
		}
	}
	if spec.Customization != nil {
		customize := &types.CustomizeVM_Task{This: made.Self, Spec: *spec.Customization}
		if _, fault := c.outcomeFor(made.CustomizeVMTask(c.ctx, customize), made.Self); fault != nil {
			return fault
		}
		c.double.noteCustomization(made.Self, *spec.Customization)
	}
	if spec.Template {
		if fault := c.on(made.Self, "MarkAsTemplate", &types.MarkAsTemplate{This: made.Self}).replaced().Fault(); fault != nil {
			return fault.VimFault().(types.BaseMethodFault)
		}
	}
	return nil
}

// ownDisks turns edits of the source's disks into edits of the clone's: the request can only know the former's
// backings. Source: VirtualMachineCloneSpec.config and VirtualMachineRelocateSpec.deviceChange speak in the source's keys.
func ownDisks(made *simulator.VirtualMachine, changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	devices := object.VirtualDeviceList(made.Config.Hardware.Device)
	for i, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		want, ok := spec.Device.(*types.VirtualDisk)
		if !ok || spec.Operation == types.VirtualDeviceConfigSpecOperationAdd || backingOf(want) == nil {
			continue
		}
		own, ok := devices.FindByKey(want.Key).(*types.VirtualDisk)
		if !ok || backingOf(own) == nil {
			continue
		}
		if fault := grows(made, own, want, i); fault != nil {
			return fault
		}
		to, from := backingOf(want), backingOf(own)
		to.FileName, to.Datastore, to.Uuid, to.Parent = from.FileName, from.Datastore, from.Uuid, from.Parent
	}
	return nil
}

// instantClone forks a running machine: both go on, on deltas of the same disks. Source:
// VirtualMachine.InstantClone_Task, VirtualMachineInstantCloneSpec: config holds extraConfig pairs, biosUuid the
// UUID; the instance UUID is always a new one. The source must be powered on, and so is the result.
func instantClone(c *call) soap.HasFault {
	request := c.body.(*types.InstantClone_Task)
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		vm, spec := c.machine(), &request.Spec
		if state := vm.Runtime.PowerState; state != types.VirtualMachinePowerStatePoweredOn {
			return nil, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: state,
			}
		}
		p := &plan{
			name: spec.Name, location: spec.Location, source: copyOf(*vm.Config), folder: *vm.Parent,
			linked: func(int32) bool { return true }, disks: map[int32]*flatBacking{},
		}
		if spec.Location.Folder != nil {
			p.folder = *spec.Location.Folder
		}
		if p.location.Pool == nil {
			p.location.Pool = vm.ResourcePool
		}
		for _, disk := range flatDisks(p.source.Hardware.Device) {
			p.disks[disk.Key] = backingOf(disk)
		}
		made, fault := c.makeClone(p)
		if fault != nil {
			return nil, fault
		}
		own := c.double.chains(c.ctx, vm)
		if fault := own.branch(); fault != nil {
			return nil, fault
		}
		own.save()
		config := types.VirtualMachineConfigSpec{Uuid: spec.BiosUuid, ExtraConfig: spec.Config}
		fault = c.finishClone(made, &types.VirtualMachineCloneSpec{Location: spec.Location, Config: &config})
		if fault == nil {
			_, fault = c.outcomeFor(made.PowerOnVMTask(c.ctx, &types.PowerOnVM_Task{This: made.Self}), made.Self)
		}
		return made.Self, fault
	})
}

// customize keeps the specification where a test can read it. Source: VirtualMachine.CustomizeVM_Task.
func customize(c *call) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		result, fault := c.outcome(c.original())
		if fault == nil {
			c.double.noteCustomization(c.Self, c.body.(*types.CustomizeVM_Task).Spec)
		}
		return result, fault
	})
}

func (d *Double) noteCustomization(vm types.ManagedObjectReference, spec types.CustomizationSpec) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.customized[vm] = spec
}

// destroy leaves linked clones their parents. Source: ManagedEntity.Destroy_Task.
func destroy(c *call) soap.HasFault {
	vm := c.machine()
	if vm == nil {
		return c.original()
	}
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		if vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn { // before any file is touched
			return nil, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: vm.Runtime.PowerState,
			}
		}
		snapshots := c.double.snapshots(vm.Self)
		directory := path.Dir(c.double.file(vm.Self, vm.Config.Files.VmPathName))
		defer c.double.keepShared(c.ctx, vm)()
		_, fault := c.outcome(c.original())
		if fault == nil {
			waitGone(directory)
			for _, snapshot := range snapshots {
				c.double.registry.Remove(c.ctx, snapshot.Self)
			}
		}
		return nil, fault
	})
}

// vmEvent is what every event of a machine tells. Source: VmEvent, Event of the API reference.
func (d *Double) vmEvent(vm *simulator.VirtualMachine) types.VmEvent {
	event := types.VmEvent{Event: types.Event{Vm: &types.VmEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: vm.Name}, Vm: vm.Self,
	}}}
	if host, ok := d.registry.Get(*vm.Runtime.Host).(*simulator.HostSystem); ok {
		event.Host = &types.HostEventArgument{
			EntityEventArgument: types.EntityEventArgument{Name: host.Name}, Host: host.Self,
		}
		if parent, ok := d.registry.Get(*host.Parent).(*simulator.ClusterComputeResource); ok {
			event.ComputeResource = &types.ComputeResourceEventArgument{
				EntityEventArgument: types.EntityEventArgument{Name: parent.Name}, ComputeResource: parent.Self,
			}
		}
	}
	if dc := d.datacenter(vm.Self); dc != nil {
		event.Datacenter = &types.DatacenterEventArgument{
			EntityEventArgument: types.EntityEventArgument{Name: dc.Name}, Datacenter: dc.Self,
		}
	}
	return event
}

func (c *call) event(event types.BaseEvent) {
	manager := c.double.registry.EventManager()
	c.double.registry.WithLock(c.ctx, manager, func() {
		manager.PostEvent(c.ctx, &types.PostEvent{EventToPost: event})
	})
}

// customizations are the specifications by machine.
func (d *Double) customizations() map[types.ManagedObjectReference]types.CustomizationSpec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.customized)
}
