package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	checks["CreateVM_Task"] = append(checks["CreateVM_Task"], knownDatastore, nameIsFree, knownNetworks)
}

// nameIsFree refuses a second machine of one name in a folder; the simulator makes two.
// Source: Folder.CreateVM_Task, fault DuplicateName: "if another virtual machine in the same folder already has
// the specified target name".
func nameIsFree(c *call) types.BaseMethodFault {
	folder, ok := c.target.(*simulator.Folder)
	if !ok || !c.double.enabled("duplicate_name") {
		return nil
	}
	name := c.body.(*types.CreateVM_Task).Config.Name
	if other := c.double.registry.FindByName(name, folder.ChildEntity); other != nil {
		return &types.DuplicateName{Name: name, Object: other.Reference()}
	}
	return nil
}
