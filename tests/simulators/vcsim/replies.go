package main

import (
	"fmt"
	"log"
	"reflect"
	"runtime/debug"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// refusal is a response that has only a fault.
type refusal struct {
	Fault_ *soap.Fault
}

// Fault is the SOAP fault.
func (r *refusal) Fault() *soap.Fault { return r.Fault_ }

// refuse makes the call itself fail.
func refuse(fault types.BaseMethodFault) soap.HasFault {
	return &refusal{simulator.Fault("", fault)}
}

// taskReply answers with a task: every body has a field Res, and every *_TaskResponse the one field Returnval.
// The body's own type matters, since its tags name the XML element.
func taskReply[Body any](task types.ManagedObjectReference) soap.HasFault {
	body := new(Body)
	res := reflect.ValueOf(body).Elem().FieldByName("Res")
	res.Set(reflect.New(res.Type().Elem()))
	res.Elem().FieldByName("Returnval").Set(reflect.ValueOf(task))
	return any(body).(soap.HasFault)
}

// taskReplies are the methods whose task can fail or linger on demand.
var taskReplies = map[string]func(types.ManagedObjectReference) soap.HasFault{
	"ApplyStorageDrsRecommendationToPod_Task": taskReply[methods.ApplyStorageDrsRecommendationToPod_TaskBody],
	"ApplyStorageDrsRecommendation_Task":      taskReply[methods.ApplyStorageDrsRecommendation_TaskBody],
	"CloneVM_Task":                            taskReply[methods.CloneVM_TaskBody],
	"ConfigureStorageDrsForPod_Task":          taskReply[methods.ConfigureStorageDrsForPod_TaskBody],
	"ConsolidateVMDisks_Task":                 taskReply[methods.ConsolidateVMDisks_TaskBody],
	"CopyDatastoreFile_Task":                  taskReply[methods.CopyDatastoreFile_TaskBody],
	"CopyVirtualDisk_Task":                    taskReply[methods.CopyVirtualDisk_TaskBody],
	"CreateScreenshot_Task":                   taskReply[methods.CreateScreenshot_TaskBody],
	"CreateSnapshotEx_Task":                   taskReply[methods.CreateSnapshotEx_TaskBody],
	"CreateSnapshot_Task":                     taskReply[methods.CreateSnapshot_TaskBody],
	"CreateVirtualDisk_Task":                  taskReply[methods.CreateVirtualDisk_TaskBody],
	"CreateVM_Task":                           taskReply[methods.CreateVM_TaskBody],
	"CustomizeVM_Task":                        taskReply[methods.CustomizeVM_TaskBody],
	"DeleteDatastoreFile_Task":                taskReply[methods.DeleteDatastoreFile_TaskBody],
	"DeleteVirtualDisk_Task":                  taskReply[methods.DeleteVirtualDisk_TaskBody],
	"Destroy_Task":                            taskReply[methods.Destroy_TaskBody],
	"ExtendVirtualDisk_Task":                  taskReply[methods.ExtendVirtualDisk_TaskBody],
	"InstantClone_Task":                       taskReply[methods.InstantClone_TaskBody],
	"MoveIntoFolder_Task":                     taskReply[methods.MoveIntoFolder_TaskBody],
	"MoveDatastoreFile_Task":                  taskReply[methods.MoveDatastoreFile_TaskBody],
	"MoveVirtualDisk_Task":                    taskReply[methods.MoveVirtualDisk_TaskBody],
	"PowerOffVM_Task":                         taskReply[methods.PowerOffVM_TaskBody],
	"PowerOnVM_Task":                          taskReply[methods.PowerOnVM_TaskBody],
	"ReconfigureComputeResource_Task":         taskReply[methods.ReconfigureComputeResource_TaskBody],
	"ReconfigVM_Task":                         taskReply[methods.ReconfigVM_TaskBody],
	"RegisterVM_Task":                         taskReply[methods.RegisterVM_TaskBody],
	"RelocateVM_Task":                         taskReply[methods.RelocateVM_TaskBody],
	"RemoveAllSnapshots_Task":                 taskReply[methods.RemoveAllSnapshots_TaskBody],
	"RemoveSnapshot_Task":                     taskReply[methods.RemoveSnapshot_TaskBody],
	"Rename_Task":                             taskReply[methods.Rename_TaskBody],
	"ResetVM_Task":                            taskReply[methods.ResetVM_TaskBody],
	"RevertToCurrentSnapshot_Task":            taskReply[methods.RevertToCurrentSnapshot_TaskBody],
	"RevertToSnapshot_Task":                   taskReply[methods.RevertToSnapshot_TaskBody],
	"SuspendVM_Task":                          taskReply[methods.SuspendVM_TaskBody],
}

// fail puts the fault where a vCenter puts it: into the task of a method that has one, else into the call.
func (c *call) fail(fault types.BaseMethodFault) soap.HasFault {
	if _, ok := taskReplies[c.name]; !ok {
		return refuse(fault)
	}
	return c.task(func() (types.AnyType, types.BaseMethodFault) { return nil, fault })
}

// task answers with a task that does the work while the target stays locked. A mistake of ours is the task's error
// and a line of the log; unrecovered, it would end the process.
func (c *call) task(work func() (types.AnyType, types.BaseMethodFault)) soap.HasFault {
	run := func(*simulator.Task) (result types.AnyType, fault types.BaseMethodFault) {
		defer func() {
			if wrong := recover(); wrong != nil {
				log.Printf("%s: %v\n%s", c.name, wrong, debug.Stack())
				result, fault = nil, &types.SystemError{Reason: fmt.Sprint(wrong)}
			}
		}()
		return work()
	}
	task := simulator.CreateTask(c.entity(), taskName(c.name), run)
	return taskReplies[c.name](task.Run(c.ctx))
}

// entity is what a task is about: a snapshot's task belongs to its machine, a file manager's to a datacenter.
func (c *call) entity() types.ManagedObjectReference {
	if c.about != nil {
		return *c.about
	}
	if vm := c.machine(); vm != nil {
		return vm.Self
	}
	if dc, ok := c.managed(); ok {
		return dc
	}
	return c.Self
}

// outcome waits for the task of a reply and takes it out of sight, so that a client sees one task per call.
func (c *call) outcome(answer soap.HasFault) (types.AnyType, types.BaseMethodFault) {
	return c.outcomeFor(answer, c.entity())
}

// outcomeFor is outcome for a task that another entity lists among its recent ones.
func (c *call) outcomeFor(answer soap.HasFault, entity types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	if fault := answer.Fault(); fault != nil {
		return nil, fault.VimFault().(types.BaseMethodFault)
	}
	ref, ok := reflect.ValueOf(answer).Elem().FieldByName("Res").Elem().FieldByName("Returnval").
		Interface().(types.ManagedObjectReference)
	if !ok {
		return nil, nil
	}
	task, ok := c.double.registry.Get(ref).(*simulator.Task)
	if !ok {
		return ref, nil
	}
	task.Wait()
	c.double.forget(c.ctx, ref, entity)
	if task.Info.Error != nil {
		return nil, task.Info.Error.Fault
	}
	return task.Info.Result, nil
}

// forget removes an inner task from the registry and from its entity's recent tasks.
func (d *Double) forget(ctx *simulator.Context, task, entity types.ManagedObjectReference) {
	if vm, ok := d.registry.Get(entity).(*simulator.VirtualMachine); ok {
		recent := append([]types.ManagedObjectReference(nil), vm.RecentTask...)
		simulator.RemoveReference(&recent, task)
		d.registry.Update(ctx, vm, []types.PropertyChange{{Name: "recentTask", Val: recent}})
	}
	d.registry.Remove(ctx, task)
}

// taskName is how the simulator wants it to make TaskInfo.name "PowerOnVM_Task", as a vCenter has it.
func taskName(method string) string {
	return method[:len(method)-len("_Task")] + "Task"
}
