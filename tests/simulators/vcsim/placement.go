package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["ConfigureStorageDrsForPod_Task"] = configurePod
	replacements["RecommendDatastores"] = recommendDatastores
	replacements["ApplyStorageDrsRecommendation_Task"] = applyRecommendation
	replacements["ApplyStorageDrsRecommendationToPod_Task"] = applyRecommendation
}

// storageRules are what POST /storage_drs switches.
type storageRules struct {
	First string `json:"first"` // name of the datastore that is recommended first
	None  bool   `json:"none"`  // nothing can be recommended
}

// recommendation is one that was given and not applied yet.
type recommendation struct {
	spec      types.StoragePlacementSpec
	pod       types.ManagedObjectReference
	datastore *simulator.Datastore
}

// configurePod does the simulator's work under a task about the pod, see retold.
func configurePod(c *call) soap.HasFault {
	c.about = &c.body.(*types.ConfigureStorageDrsForPod_Task).Pod
	return c.task(func() (types.AnyType, types.BaseMethodFault) { return c.outcome(c.original()) })
}

// recommendDatastores offers every datastore of the pod that has room, the emptiest first. Source:
// StorageResourceManager.RecommendDatastores, StoragePlacementSpec; without room StoragePlacementResult.drsFault.
func recommendDatastores(c *call) soap.HasFault {
	spec := c.body.(*types.RecommendDatastores).StorageSpec
	pod, fault := c.placementPod(&spec)
	if fault != nil {
		return refuse(fault)
	}
	needed := c.placementSize(&spec)
	c.double.mu.Lock()
	rules := c.double.storage
	c.double.mu.Unlock()
	var found []*simulator.Datastore
	for _, ref := range pod.ChildEntity {
		datastore, ok := c.double.registry.Get(ref).(*simulator.Datastore)
		if ok && datastore.Summary.Accessible && datastore.Summary.FreeSpace >= needed && !rules.None &&
			(datastore.Summary.MaintenanceMode == "" || datastore.Summary.MaintenanceMode == "normal") {
			found = append(found, datastore)
		}
	}
	slices.SortFunc(found, func(a, b *simulator.Datastore) int {
		switch {
		case (a.Name == rules.First) != (b.Name == rules.First):
			return map[bool]int{true: -1, false: 1}[a.Name == rules.First]
		case a.Summary.FreeSpace != b.Summary.FreeSpace:
			return map[bool]int{true: -1, false: 1}[a.Summary.FreeSpace > b.Summary.FreeSpace]
		}
		return strings.Compare(a.Name, b.Name)
	})
	result := types.StoragePlacementResult{}
	for i, datastore := range found {
		result.Recommendations = append(result.Recommendations, c.recommend(&spec, pod, datastore, needed, max(5-i, 1)))
	}
	if len(found) == 0 {
		fault := types.LocalizedMethodFault{Fault: &types.InsufficientStorageSpace{}, LocalizedMessage: "no room"}
		result.DrsFault = &types.ClusterDrsFaults{
			Reason:     "storagePlacement",
			FaultsByVm: []types.BaseClusterDrsFaultsFaultsByVm{&types.ClusterDrsFaultsFaultsByVm{Vm: spec.Vm, Fault: []types.LocalizedMethodFault{fault}}},
		}
	}
	return &methods.RecommendDatastoresBody{Res: &types.RecommendDatastoresResponse{Returnval: result}}
}

// placementPod checks a specification as the simulator does, and finds its pod.
func (c *call) placementPod(spec *types.StoragePlacementSpec) (*simulator.StoragePod, types.BaseMethodFault) {
	missing := func(property string) (*simulator.StoragePod, types.BaseMethodFault) {
		return nil, &types.InvalidArgument{InvalidProperty: property}
	}
	switch types.StoragePlacementSpecPlacementType(spec.Type) {
	case types.StoragePlacementSpecPlacementTypeCreate:
		switch {
		case spec.ResourcePool == nil:
			return missing("resourcePool")
		case spec.ConfigSpec == nil:
			return missing("configSpec")
		case spec.Folder == nil:
			return missing("folder")
		}
	case types.StoragePlacementSpecPlacementTypeClone:
		switch {
		case spec.Folder == nil:
			return missing("folder")
		case spec.Vm == nil:
			return missing("vm")
		case spec.CloneName == "":
			return missing("cloneName")
		case spec.CloneSpec == nil:
			return missing("cloneSpec")
		}
	case types.StoragePlacementSpecPlacementTypeReconfigure, types.StoragePlacementSpecPlacementTypeRelocate:
		if spec.Vm == nil {
			return missing("vm")
		}
	default:
		return missing("type")
	}
	ref := spec.PodSelectionSpec.StoragePod
	for i := range spec.PodSelectionSpec.InitialVmConfig {
		ref = &spec.PodSelectionSpec.InitialVmConfig[i].StoragePod
	}
	if ref == nil {
		return missing("podSelectionSpec.storagePod")
	}
	pod, ok := c.double.registry.Get(*ref).(*simulator.StoragePod)
	if !ok || !pod.PodStorageDrsEntry.StorageDrsConfig.PodConfig.Enabled {
		return missing("podSelectionSpec.storagePod")
	}
	return pod, nil
}

// placementSize is how many bytes the new disks may come to.
func (c *call) placementSize(spec *types.StoragePlacementSpec) int64 {
	var size int64
	add := func(device types.BaseVirtualDevice) {
		if disk, ok := device.(*types.VirtualDisk); ok {
			size += max(disk.CapacityInBytes, disk.CapacityInKB*1024)
		}
	}
	if spec.Vm != nil && spec.Type != string(types.StoragePlacementSpecPlacementTypeReconfigure) {
		if vm, ok := c.double.registry.Get(*spec.Vm).(*simulator.VirtualMachine); ok {
			for _, device := range vm.Config.Hardware.Device {
				add(device)
			}
		}
	}
	if spec.ConfigSpec != nil {
		for _, change := range spec.ConfigSpec.DeviceChange {
			add(change.GetVirtualDeviceConfigSpec().Device)
		}
	}
	return size
}

func (c *call) recommend(
	spec *types.StoragePlacementSpec, pod *simulator.StoragePod, datastore *simulator.Datastore, needed int64, rating int,
) types.ClusterRecommendation {
	key := uuid.NewString()
	c.double.mu.Lock()
	c.double.recommended[key] = &recommendation{*spec, pod.Self, datastore}
	c.double.mu.Unlock()
	relocate := types.VirtualMachineRelocateSpec{Datastore: &datastore.Self}
	for _, config := range spec.PodSelectionSpec.InitialVmConfig {
		for _, disk := range config.Disk {
			relocate.Disk = append(relocate.Disk, types.VirtualMachineRelocateSpecDiskLocator{
				DiskId: disk.DiskId, Datastore: datastore.Self, DiskMoveType: disk.DiskMoveType, DiskBackingInfo: disk.DiskBackingInfo,
			})
		}
	}
	used := func(more int64) float32 {
		capacity := max(datastore.Summary.Capacity, 1)
		return float32(100 * float64(capacity-datastore.Summary.FreeSpace+more) / float64(capacity))
	}
	return types.ClusterRecommendation{
		Key: key, Type: "V1", Time: time.Now(), Rating: int32(rating), Reason: "storagePlacement", Target: &pod.Self,
		ReasonText: "Satisfy storage initial placement requests",
		Action: []types.BaseClusterAction{&types.StoragePlacementAction{
			ClusterAction: types.ClusterAction{Type: "StoragePlacementV1"}, Vm: spec.Vm, RelocateSpec: relocate,
			Destination: datastore.Self, SpaceUtilBefore: used(0), SpaceUtilAfter: used(needed),
		}},
	}
}

// applyRecommendation does what was asked for, on the recommended datastore. Source:
// StorageResourceManager.ApplyStorageDrsRecommendation_Task, ApplyStorageRecommendationResult.vm; a key is good once.
func applyRecommendation(c *call) soap.HasFault {
	var keys []string
	switch request := c.body.(type) {
	case *types.ApplyStorageDrsRecommendation_Task:
		keys = request.Key
	case *types.ApplyStorageDrsRecommendationToPod_Task:
		keys = []string{request.Key}
	}
	c.double.mu.Lock()
	var chosen *recommendation
	for _, key := range keys {
		chosen = c.double.recommended[key]
		delete(c.double.recommended, key)
	}
	c.double.mu.Unlock()
	if chosen == nil {
		return refuse(&types.InvalidArgument{InvalidProperty: "key"})
	}
	c.about = &chosen.pod
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		inner, fault := c.applied(chosen)
		if fault != nil {
			return nil, fault
		}
		result, fault := inner.outcome(inner.work())
		if fault != nil {
			return nil, fault
		}
		made, ok := result.(types.ManagedObjectReference)
		if !ok {
			made = *chosen.spec.Vm
		}
		return types.ApplyStorageRecommendationResult{Vm: &made}, nil
	})
}

// applied turns a recommendation into the call that its client would have made of it.
func (c *call) applied(r *recommendation) (*call, types.BaseMethodFault) {
	spec := &r.spec
	switch types.StoragePlacementSpecPlacementType(spec.Type) {
	case types.StoragePlacementSpecPlacementTypeCreate:
		config := *spec.ConfigSpec
		config.Files = &types.VirtualMachineFileInfo{VmPathName: "[" + r.datastore.Name + "]"}
		r.placeDisks(config.DeviceChange)
		request := &types.CreateVM_Task{This: *spec.Folder, Config: config, Pool: *spec.ResourcePool, Host: spec.Host}
		return c.on(*spec.Folder, "CreateVM_Task", request), nil
	case types.StoragePlacementSpecPlacementTypeClone:
		clone := *spec.CloneSpec
		clone.Location.Datastore = &r.datastore.Self
		if clone.Location.Pool == nil {
			clone.Location.Pool = spec.ResourcePool
		}
		request := &types.CloneVM_Task{This: *spec.Vm, Folder: *spec.Folder, Name: spec.CloneName, Spec: clone}
		return c.on(*spec.Vm, "CloneVM_Task", request), nil
	case types.StoragePlacementSpecPlacementTypeReconfigure:
		if spec.ConfigSpec == nil {
			return nil, &types.InvalidArgument{InvalidProperty: "configSpec"}
		}
		r.placeDisks(spec.ConfigSpec.DeviceChange)
		return c.on(*spec.Vm, "ReconfigVM_Task", &types.ReconfigVM_Task{This: *spec.Vm, Spec: *spec.ConfigSpec}), nil
	}
	relocate := types.VirtualMachineRelocateSpec{}
	if spec.RelocateSpec != nil {
		relocate = *spec.RelocateSpec
	}
	relocate.Datastore = &r.datastore.Self
	return c.on(*spec.Vm, "RelocateVM_Task", &types.RelocateVM_Task{This: *spec.Vm, Spec: relocate}), nil
}

func (r *recommendation) placeDisks(changes []types.BaseVirtualDeviceConfigSpec) {
	for _, change := range changes {
		disk, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk)
		if ok && backingOf(disk) != nil && !strings.Contains(backingOf(disk).FileName, "/") {
			backingOf(disk).FileName, backingOf(disk).Datastore = "["+r.datastore.Name+"]", &r.datastore.Self
		}
	}
}

func (d *Double) setStorage(rules storageRules) (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.storage = rules
	return nil, nil
}

// storeFacts are what a datastore shows.
type storeFacts struct {
	Name        string `json:"name"`
	Free        *int64 `json:"free"`
	Capacity    *int64 `json:"capacity"`
	Accessible  *bool  `json:"accessible"`
	Maintenance string `json:"maintenance"` // normal, enteringMaintenance, inMaintenance
}

func (d *Double) setDatastore(facts storeFacts) (any, error) {
	for _, entity := range d.registry.All("Datastore") {
		datastore, ok := entity.(*simulator.Datastore)
		if !ok || datastore.Name != facts.Name {
			continue
		}
		var changes []types.PropertyChange
		set := func(name string, value any) {
			changes = append(changes, types.PropertyChange{Name: name, Val: value})
		}
		if facts.Free != nil {
			set("summary.freeSpace", *facts.Free)
			datastore.Info.GetDatastoreInfo().FreeSpace = *facts.Free
		}
		if facts.Capacity != nil {
			set("summary.capacity", *facts.Capacity)
		}
		if facts.Accessible != nil {
			set("summary.accessible", *facts.Accessible)
		}
		if facts.Maintenance != "" {
			set("summary.maintenanceMode", facts.Maintenance)
		}
		d.registry.AtomicUpdate(&simulator.Context{Map: d.registry}, datastore, changes)
		return nil, nil
	}
	return nil, fmt.Errorf("no datastore %q", facts.Name)
}
