package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"

	pbmmethods "github.com/vmware/govmomi/pbm/methods"
	pbm "github.com/vmware/govmomi/pbm/simulator"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	for _, method := range []string{"CreateVM_Task", "ReconfigVM_Task", "CloneVM_Task", "RelocateVM_Task"} {
		checks[method] = append(checks[method], knownPolicies)
	}
}

// policies are the storage policies of machines: the home's under key 0, those of disks under theirs.
type policies map[types.ManagedObjectReference]policiesOf

// policiesOf are those of one machine.
type policiesOf map[int32]string

// profileManager answers which policy a machine or disk has; the simulator answers none. Source:
// PbmProfileProfileManager.PbmQueryAssociatedProfile of the Storage Policy API.
type profileManager struct {
	*pbm.ProfileManager

	double *Double
}

// servePolicies puts our manager in the place of the simulator's; call it once that is there.
func (d *Double) servePolicies() {
	registry := pbm.New()
	for _, object := range registry.AllReference("PbmProfileProfileManager") {
		own, ok := object.(*pbm.ProfileManager)
		if ok {
			d.profiles = &profileManager{own, d}
			registry.Put(d.profiles)
		}
	}
	d.service.RegisterSDK(registry)
}

// PbmQueryAssociatedProfile knows virtual machines ("vm-1") and disks ("vm-1:2000").
func (m *profileManager) PbmQueryAssociatedProfile(req *pbmtypes.PbmQueryAssociatedProfile) soap.HasFault {
	res := new(pbmtypes.PbmQueryAssociatedProfileResponse)
	if id := m.double.policyOf(req.Entity.Key); id != "" {
		res.Returnval = append(res.Returnval, pbmtypes.PbmProfileId{UniqueId: id})
	}
	return &pbmmethods.PbmQueryAssociatedProfileBody{Res: res}
}

// PbmQueryAssociatedProfiles answers for many.
func (m *profileManager) PbmQueryAssociatedProfiles(req *pbmtypes.PbmQueryAssociatedProfiles) soap.HasFault {
	res := new(pbmtypes.PbmQueryAssociatedProfilesResponse)
	for _, entity := range req.Entities {
		result := pbmtypes.PbmQueryProfileResult{Object: entity}
		if id := m.double.policyOf(entity.Key); id != "" {
			result.ProfileId = append(result.ProfileId, pbmtypes.PbmProfileId{UniqueId: id})
		}
		res.Returnval = append(res.Returnval, result)
	}
	return &pbmmethods.PbmQueryAssociatedProfilesBody{Res: res}
}

func (d *Double) policyOf(key string) string {
	machine, disk, _ := strings.Cut(key, ":")
	number := int32(0)
	_, _ = fmt.Sscan(disk, &number) // none: the machine's own
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.policies[types.ManagedObjectReference{Type: "VirtualMachine", Value: machine}][number]
}

// all are the policies that there are.
func (m *profileManager) all() []pbmtypes.PbmCapabilityProfile {
	query := m.PbmQueryProfile(&pbmtypes.PbmQueryProfile{ResourceType: pbmtypes.PbmProfileResourceType{ResourceType: "STORAGE"}})
	ids := query.(*pbmmethods.PbmQueryProfileBody).Res.Returnval
	content := m.PbmRetrieveContent(&pbmtypes.PbmRetrieveContent{ProfileIds: ids}).(*pbmmethods.PbmRetrieveContentBody)
	var found []pbmtypes.PbmCapabilityProfile
	for _, profile := range content.Res.Returnval {
		if own, ok := profile.(*pbmtypes.PbmCapabilityProfile); ok {
			found = append(found, *own)
		}
	}
	return found
}

// wanted lists the policies of a request: of the machine's home, and of devices.
func wanted(body any) (home []types.BaseVirtualMachineProfileSpec, devices []types.BaseVirtualDeviceConfigSpec) {
	switch request := body.(type) {
	case *types.CreateVM_Task:
		return request.Config.VmProfile, request.Config.DeviceChange
	case *types.ReconfigVM_Task:
		return request.Spec.VmProfile, request.Spec.DeviceChange
	case *types.RelocateVM_Task:
		return request.Spec.Profile, request.Spec.DeviceChange
	case *types.CloneVM_Task:
		home, devices = request.Spec.Location.Profile, request.Spec.Location.DeviceChange
		if config := request.Spec.Config; config != nil {
			home, devices = append(home, config.VmProfile...), append(devices, config.DeviceChange...)
		}
	}
	return home, devices
}

func profileID(specs []types.BaseVirtualMachineProfileSpec) string {
	for _, spec := range specs {
		if defined, ok := spec.(*types.VirtualMachineDefinedProfileSpec); ok {
			return defined.ProfileId
		}
	}
	return ""
}

// knownPolicies refuses a policy that does not exist. Source: VirtualMachineConfigSpec.vmProfile,
// VirtualDeviceConfigSpec.profile.
func knownPolicies(c *call) types.BaseMethodFault {
	home, devices := wanted(c.body)
	ids := []string{profileID(home)}
	for _, device := range devices {
		ids = append(ids, profileID(device.GetVirtualDeviceConfigSpec().Profile))
	}
	for _, id := range ids {
		if id != "" && !c.double.hasPolicy(id) {
			return &types.InvalidArgument{InvalidProperty: "profileId"}
		}
	}
	return nil
}

func (d *Double) hasPolicy(id string) bool {
	if d.profiles == nil { // a lone host has none
		return false
	}
	for _, profile := range d.profiles.all() {
		if profile.ProfileId.UniqueId == id {
			return true
		}
	}
	return false
}

// asksPolicies says whether a request has to be watched to its end.
func asksPolicies(body any) bool {
	home, devices := wanted(body)
	for _, device := range devices {
		if len(device.GetVirtualDeviceConfigSpec().Profile) > 0 {
			return true
		}
	}
	if clone, ok := body.(*types.CloneVM_Task); ok {
		for _, disk := range clone.Spec.Location.Disk {
			if len(disk.Profile) > 0 {
				return true
			}
		}
	}
	return len(home) > 0
}

// note takes what a request gives a disk: nothing leaves it as it is, the default takes the policy off. Source:
// VirtualDeviceConfigSpec.profile, VirtualMachineDefaultProfileSpec.
func (own policiesOf) note(key int32, profile []types.BaseVirtualMachineProfileSpec) {
	if id := profileID(profile); id != "" {
		own[key] = id
	} else if len(profile) > 0 {
		delete(own, key)
	}
}

// notePolicies remembers what a machine was given; devices have their keys by now.
func (c *call) notePolicies(result types.AnyType) {
	vm := c.machine()
	if ref, ok := result.(types.ManagedObjectReference); ok {
		vm, _ = c.double.registry.Get(ref).(*simulator.VirtualMachine)
	}
	if vm == nil {
		return
	}
	home, devices := wanted(c.body)
	c.double.mu.Lock()
	defer c.double.mu.Unlock()
	own := maps.Clone(c.double.policies[vm.Self])
	if own == nil {
		own = policiesOf{}
	}
	if id := profileID(home); id != "" {
		own[0] = id
	}
	for _, device := range devices {
		spec := device.GetVirtualDeviceConfigSpec()
		own.note(spec.Device.GetVirtualDevice().Key, spec.Profile)
	}
	if clone, ok := c.body.(*types.CloneVM_Task); ok { // a copied disk has its source's key
		for _, disk := range clone.Spec.Location.Disk {
			own.note(disk.DiskId, disk.Profile)
		}
	}
	c.double.policies[vm.Self] = own
}

// storagePolicies are com.vmware.vcenter.storage.Policies.list and com.vmware.vcenter.vm.storage.Policy.get.
func (d *Double) storagePolicies(call restRequest) restAnswer {
	if call.method != http.MethodGet || d.profiles == nil {
		return failed(http.StatusNotFound, "operation_not_found")
	}
	var value any
	parts := strings.Split(call.path, "/")
	switch {
	case call.path == "/rest/vcenter/storage/policies":
		list := []map[string]string{}
		for _, profile := range d.profiles.all() {
			list = append(list, map[string]string{
				"policy": profile.ProfileId.UniqueId, "name": profile.Name, "description": profile.Description,
			})
		}
		value = list
	case len(parts) == 7 && parts[5] == "storage" && parts[6] == "policy":
		ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: parts[4]}
		if d.registry.Get(ref) == nil {
			return failed(http.StatusNotFound, "not_found")
		}
		disks := map[string]string{}
		told := map[string]any{"disks": disks}
		d.mu.Lock()
		for key, id := range d.policies[ref] {
			if key == 0 {
				told["vm_home"] = id
			} else {
				disks[fmt.Sprint(key)] = id
			}
		}
		d.mu.Unlock()
		value = told
	default:
		return failed(http.StatusNotFound, "operation_not_found")
	}
	content, err := json.Marshal(value)
	if err != nil {
		return failed(http.StatusInternalServerError, "internal_server_error")
	}
	return restAnswer{status: http.StatusOK, value: content}
}
