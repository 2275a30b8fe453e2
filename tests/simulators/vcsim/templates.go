package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["MarkAsTemplate"] = markAsTemplate
	replacements["MarkAsVirtualMachine"] = markAsMachine
}

// markAsTemplate takes the machine out of its pool, whose list the simulator forgets: views would show it for ever.
func markAsTemplate(c *call) soap.HasFault {
	vm := c.machine()
	pool := vm.ResourcePool
	answer := c.original()
	if answer.Fault() == nil && pool != nil {
		c.inPool(*pool, c.double.registry.RemoveReference)
	}
	return answer
}

func markAsMachine(c *call) soap.HasFault {
	answer := c.original()
	if pool := c.machine().ResourcePool; answer.Fault() == nil && pool != nil {
		c.inPool(*pool, c.double.registry.AddReference)
	}
	return answer
}

type changeReferences func(*simulator.Context, mo.Reference, *[]types.ManagedObjectReference, types.ManagedObjectReference)

func (c *call) inPool(ref types.ManagedObjectReference, change changeReferences) {
	if pool, ok := c.double.registry.Get(ref).(*simulator.ResourcePool); ok {
		c.ctx.WithLock(pool, func() { change(c.ctx, pool, &pool.Vm, c.Self) })
	}
}
