package main

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["HasPrivilegeOnEntities"] = hasPrivileges
	replacements["HasPrivilegeOnEntity"] = hasPrivileges
}

// privileges is what each method needs on its target. Source: the "Required Privileges" of each method in the API
// reference. Those of VirtualMachine.Config differ by what is changed; one stands for all of them.
var privileges = map[string]string{
	"AcquireTicket":                   "VirtualMachine.Interact.ConsoleInteract",
	"AnswerVM":                        "VirtualMachine.Interact.AnswerQuestion",
	"CloneVM_Task":                    "VirtualMachine.Provisioning.Clone",
	"CreateFolder":                    "Folder.Create",
	"CreateScreenshot_Task":           "VirtualMachine.Interact.CreateScreenshot",
	"CreateSnapshot_Task":             "VirtualMachine.State.CreateSnapshot",
	"CreateVM_Task":                   "VirtualMachine.Inventory.Create",
	"CustomizeVM_Task":                "VirtualMachine.Provisioning.Customize",
	"Destroy_Task":                    "VirtualMachine.Inventory.Delete",
	"ExportVm":                        "VApp.Export",
	"ImportVApp":                      "VApp.Import",
	"InstantClone_Task":               "VirtualMachine.Inventory.CreateFromExisting",
	"MarkAsTemplate":                  "VirtualMachine.Provisioning.MarkAsTemplate",
	"MarkAsVirtualMachine":            "VirtualMachine.Provisioning.MarkAsVM",
	"PowerOffVM_Task":                 "VirtualMachine.Interact.PowerOff",
	"PowerOnVM_Task":                  "VirtualMachine.Interact.PowerOn",
	"QueryChangedDiskAreas":           "VirtualMachine.Provisioning.DiskRandomRead",
	"RebootGuest":                     "VirtualMachine.Interact.Reset",
	"ReconfigVM_Task":                 "VirtualMachine.Config.Settings",
	"ReconfigureComputeResource_Task": "Host.Inventory.EditCluster",
	"RelocateVM_Task":                 "Resource.ColdMigrate",
	"RemoveAllSnapshots_Task":         "VirtualMachine.State.RemoveSnapshot",
	"RemoveSnapshot_Task":             "VirtualMachine.State.RemoveSnapshot",
	"Rename_Task":                     "VirtualMachine.Config.Rename",
	"ResetVM_Task":                    "VirtualMachine.Interact.Reset",
	"RevertToCurrentSnapshot_Task":    "VirtualMachine.State.RevertToSnapshot",
	"RevertToSnapshot_Task":           "VirtualMachine.State.RevertToSnapshot",
	"ShutdownGuest":                   "VirtualMachine.Interact.PowerOff",
	"SuspendVM_Task":                  "VirtualMachine.Interact.Suspend",
	"UnregisterVM":                    "VirtualMachine.Inventory.Unregister",
}

// needed is what a method needs on the objects that its request names.
var needed = map[string]string{
	"Datastore":                   "Datastore.AllocateSpace",
	"DistributedVirtualPortgroup": "Network.Assign",
	"Network":                     "Network.Assign",
	"ResourcePool":                "Resource.AssignVMToPool",
}

// denial takes a privilege on one object away from everybody.
type denial struct {
	VM        string `json:"vm"`     // a machine, as everywhere
	Entity    string `json:"entity"` // or any object's id: "datastore-52"
	Privilege string `json:"privilege"`

	ref types.ManagedObjectReference
}

func (d *Double) deny(wanted denial) (any, error) {
	if wanted.VM != "" {
		vm, err := d.find(wanted.VM)
		if err != nil {
			return nil, err
		}
		wanted.ref = vm.Self
	}
	for _, entity := range d.registry.All("") {
		if wanted.Entity != "" && entity.Reference().Value == wanted.Entity {
			wanted.ref = entity.Reference()
		}
	}
	if wanted.ref.Value == "" {
		return nil, fmt.Errorf("no object %q", wanted.Entity)
	}
	if wanted.Privilege == "" {
		return nil, fmt.Errorf("no privilege is named")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.denied = append(d.denied, &wanted)
	return nil, nil
}

func (d *Double) denies(ref types.ManagedObjectReference, privilege string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.denied, func(each *denial) bool { return each.ref == ref && each.Privilege == privilege })
}

// noPermission refuses a call whose privilege is denied on its target or on what it names.
func (d *Double) noPermission(method *simulator.Method) types.BaseMethodFault {
	d.mu.Lock()
	none := len(d.denied) == 0
	d.mu.Unlock()
	if none {
		return nil
	}
	target := method.This
	if snapshot, ok := d.registry.Get(target).(*simulator.VirtualMachineSnapshot); ok {
		target = snapshot.Vm
	}
	privilege, known := privileges[method.Name]
	if known && d.denies(target, privilege) {
		return &types.NoPermission{Object: &target, PrivilegeId: privilege}
	}
	if known {
		for _, ref := range references(reflect.ValueOf(method.Body)) {
			if other := needed[ref.Type]; other != "" && ref != method.This && d.denies(ref, other) {
				return &types.NoPermission{Object: &ref, PrivilegeId: other}
			}
		}
	}
	return nil
}

// privilegeBody is HasPrivilegeOnEntityBody with text for truth: the simulator's own encoder leaves each false out.
type privilegeBody struct {
	Res *privilegeResponse `xml:"urn:vim25 HasPrivilegeOnEntityResponse"`
}

type privilegeResponse struct {
	Granted []string `xml:"returnval"`
}

// Fault is none.
func (*privilegeBody) Fault() *soap.Fault { return nil }

// hasPrivileges tells what is denied; for one entity the simulator answers wrongly. Source:
// AuthorizationManager.HasPrivilegeOnEntities, HasPrivilegeOnEntity: one answer for each privilege.
func hasPrivileges(c *call) soap.HasFault {
	if request, ok := c.body.(*types.HasPrivilegeOnEntity); ok {
		body := &privilegeBody{Res: new(privilegeResponse)}
		for _, privilege := range request.PrivId {
			body.Res.Granted = append(body.Res.Granted, fmt.Sprint(!c.double.denies(request.Entity, privilege)))
		}
		return body
	}
	answer := c.original()
	if body, ok := answer.(*methods.HasPrivilegeOnEntitiesBody); ok && body.Res != nil {
		for _, entity := range body.Res.Returnval {
			for j := range entity.PrivAvailability {
				available := &entity.PrivAvailability[j]
				available.IsGranted = available.IsGranted && !c.double.denies(entity.Entity, available.PrivId)
			}
		}
	}
	return answer
}

var (
	// one object of a property collector's answer; they do not nest
	objectSet   = regexp.MustCompile(`(?s)<(objectSet|objects)( [^>]*)?>.*?</(objectSet|objects)>`)
	objectID    = regexp.MustCompile(`<obj type="([^"]+)"[^>]*>([^<]+)</obj>`)
	propertySet = regexp.MustCompile(`(?s)<(changeSet|propSet)>.*?</(changeSet|propSet)>`)
	pathName    = regexp.MustCompile(`<name>([^<]+)</name>`)
	fetchedFrom = regexp.MustCompile(`<_this [^>]*type="([^"]+)"[^>]*>([^<]+)</_this>`)
)

// hidden says whether reads have to be looked through.
func (d *Double) hidden() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.away) > 0 ||
		slices.ContainsFunc(d.denied, func(each *denial) bool { return strings.HasPrefix(each.Privilege, "System.") })
}

// hide takes out of a property collector's answer what may not, or cannot, be read. Source: ObjectContent.missingSet and
// ObjectUpdate.missingSet with NoPermission, for System.Read; without System.View the object is not there at all.
func (d *Double) hide(content []byte) []byte {
	return objectSet.ReplaceAllFunc(content, func(set []byte) []byte {
		found := objectID.FindSubmatch(set)
		if found == nil {
			return set
		}
		ref := types.ManagedObjectReference{Type: string(found[1]), Value: string(found[2])}
		switch {
		case d.denies(ref, "System.View"):
			return nil
		case !d.denies(ref, "System.Read"):
			return d.unread(ref, set)
		}
		var missing strings.Builder
		for _, property := range propertySet.FindAll(set, -1) {
			if name := pathName.FindSubmatch(property); name != nil {
				fmt.Fprintf(&missing, `<missingSet><path>%s</path><fault><fault xsi:type="NoPermission">`+
					`<object type="%s">%s</object><privilegeId>System.Read</privilegeId></fault>`+
					`<localizedMessage>no permission</localizedMessage></fault></missingSet>`, name[1], ref.Type, ref.Value)
			}
		}
		rest := propertySet.ReplaceAll(set, nil)
		end := strings.LastIndex(string(rest), "</")
		return []byte(string(rest[:end]) + missing.String() + string(rest[end:]))
	})
}

const noPermissionEnvelope = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
 xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode</faultcode>
<faultstring>Permission to perform this operation was denied.</faultstring>
<detail><NoPermissionFault xmlns="urn:vim25" xsi:type="NoPermission">
<object type="%s">%s</object><privilegeId>%s</privilegeId>
</NoPermissionFault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>`

// unreadable is the answer to a single read of an object that may not be read; "" if it may.
func (d *Double) unreadable(request []byte) string {
	found := fetchedFrom.FindSubmatch(request)
	if found == nil {
		return ""
	}
	ref := types.ManagedObjectReference{Type: string(found[1]), Value: string(found[2])}
	for _, privilege := range []string{"System.View", "System.Read"} {
		if d.denies(ref, privilege) {
			return fmt.Sprintf(noPermissionEnvelope, ref.Type, ref.Value, privilege)
		}
	}
	return ""
}
