package main

import (
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["RenameSnapshot"] = renameSnapshot
}

// renameSnapshot changes name and description, each if it is given. Source: VirtualMachineSnapshot.RenameSnapshot.
func renameSnapshot(c *call) soap.HasFault {
	request, vm := c.body.(*types.RenameSnapshot), c.machine()
	c.ctx.WithLock(vm, func() {
		eachTree(vm.Snapshot.RootSnapshotList, func(tree *types.VirtualMachineSnapshotTree) {
			if tree.Snapshot != c.Self {
				return
			}
			if request.Name != "" {
				tree.Name = request.Name
			}
			if request.Description != "" {
				tree.Description = request.Description
			}
		})
	})
	c.double.treeChanged(c.ctx, vm)
	return &methods.RenameSnapshotBody{Res: &types.RenameSnapshotResponse{}}
}
