package main

import (
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// slowRule makes tasks of a method linger. The work is done at the end of the time, so a cancelled task leaves
// nothing behind. Source: TaskInfo.progress, TaskInfo.cancelable, Task.CancelTask of the API reference.
type slowRule struct {
	Method     string  `json:"method"`
	Seconds    float64 `json:"seconds"`  // 0: until released
	Progress   bool    `json:"progress"` // move info.progress
	Cancelable *bool   `json:"cancelable"`
	Count      *int    `json:"count"` // default 1; 0 is every call until reset
	VM         string  `json:"vm"`

	question *question // asked while it lingers
}

func init() {
	replacements["CancelTask"] = cancelTask
}

type slowTask struct {
	ref        types.ManagedObjectReference
	method     string
	cancelable bool
	cancel     chan struct{}
	done       chan struct{} // closed: finish now
	asked      bool          // an answer to the machine's question ends it
	cancelOnce sync.Once
	doneOnce   sync.Once
}

func (t *slowTask) release() { t.doneOnce.Do(func() { close(t.done) }) }

func (d *Double) slowRule(c *call) *slowRule {
	if _, ok := taskReplies[c.name]; !ok {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rule := range d.slow {
		if rule.Method == c.name && *rule.Count != 0 && d.concerns(rule.VM, c.Self) {
			*rule.Count--
			return rule
		}
	}
	return nil
}

// descriptionID names the task as a vCenter does: "Folder.createVm", "VirtualMachine.clone", "VirtualMachine.powerOn".
// Source: TaskInfo.descriptionId of the API reference, and the keys of TaskDescription.methodInfo.
func descriptionID(kind, method string) string {
	id := strings.TrimSuffix(method, "_Task")
	switch id {
	case "CreateVM", "RegisterVM":
		id = strings.Replace(id, "VM", "Vm", 1)
	case "ReconfigVM":
		id = "Reconfigure"
	default:
		id = strings.TrimSuffix(id, "VM")
	}
	return kind + "." + strings.ToLower(id[:1]) + id[1:]
}

// startSlow answers with a running task of our own. The simulator's Task.Run would lock the machine against
// reads for the whole time.
func (d *Double) startSlow(c *call, rule *slowRule) soap.HasFault {
	task := simulator.CreateTask(c.entity(), taskName(c.name), nil)
	slow := &slowTask{
		method: c.name, cancel: make(chan struct{}), done: make(chan struct{}),
		cancelable: rule.Cancelable == nil || *rule.Cancelable, asked: rule.question != nil,
	}
	task.Info.Cancelable = slow.cancelable
	task.Info.DescriptionId = descriptionID(c.entity().Reference().Type, c.name)
	if c.ctx.Session != nil { // whose it is. Source: TaskInfo.reason, TaskReasonUser
		task.Info.Reason = &types.TaskReasonUser{UserName: c.ctx.Session.UserName}
	}
	d.registry.Put(task)
	slow.ref = task.Self
	d.registry.AtomicUpdate(c.ctx, task, []types.PropertyChange{
		{Name: "info.key", Val: task.Self.Value},
		{Name: "info.task", Val: task.Self},
		{Name: "info.startTime", Val: time.Now()},
		{Name: "info.state", Val: types.TaskInfoStateRunning},
	})
	d.mu.Lock()
	d.running[slow.ref] = slow
	if vm := c.machine(); vm != nil {
		d.busy[vm.Self] = slow
	}
	d.mu.Unlock()

	own := *c.ctx // locks are held per context: this one must not share the finished call's
	background := *c
	background.ctx = &own
	if vm := c.machine(); vm != nil && rule.question != nil {
		go d.showQuestion(vm, rule.question) // the machine is locked until this call has its answer
	}
	go d.runSlow(&background, rule, task, slow)
	return taskReplies[c.name](slow.ref)
}

func (d *Double) runSlow(c *call, rule *slowRule, task *simulator.Task, slow *slowTask) {
	canceled := d.linger(c, rule, task, slow)
	d.mu.Lock()
	delete(d.running, slow.ref)
	if vm := c.machine(); vm != nil && d.busy[vm.Self] == slow {
		delete(d.busy, vm.Self)
	}
	d.mu.Unlock()

	var result types.AnyType
	var fault types.BaseMethodFault = &types.RequestCanceled{}
	if !canceled {
		c.ctx.WithLock(c, func() { result, fault = c.outcome(c.work()) })
	}
	changes := []types.PropertyChange{
		{Name: "info.completeTime", Val: time.Now()},
		{Name: "info.cancelable", Val: false},
		{Name: "info.cancelled", Val: canceled},
		{Name: "info.state", Val: types.TaskInfoStateSuccess},
		{Name: "info.result", Val: result},
	}
	if fault != nil {
		changes[3].Val, changes[4].Val = types.TaskInfoStateError, nil
		changes = append(changes, types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{Fault: fault}})
	}
	d.registry.AtomicUpdate(c.ctx, task, changes)
}

// linger waits until the time is over or the task is released; true if it was cancelled.
func (d *Double) linger(c *call, rule *slowRule, task *simulator.Task, slow *slowTask) bool {
	const steps = 20
	var over <-chan time.Time
	pace := 50 * time.Millisecond
	if rule.Seconds > 0 {
		total := time.Duration(rule.Seconds * float64(time.Second))
		over, pace = time.After(total), max(total/steps, time.Millisecond)
	}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for step := int32(1); ; step++ {
		select {
		case <-slow.cancel:
			return true
		case <-slow.done:
			return false
		case <-over:
			return false
		case <-ticker.C:
			if rule.Progress {
				progress := []types.PropertyChange{{Name: "info.progress", Val: min(step*100/steps, 99)}}
				d.registry.AtomicUpdate(c.ctx, task, progress)
			}
		}
	}
}

// cancelTask answers NotSupported for a task that cannot be cancelled and InvalidState for one that has ended.
// Source: Task.CancelTask; the simulator lets the work go on and the task succeed later.
func cancelTask(c *call) soap.HasFault {
	c.double.mu.Lock()
	slow := c.double.running[c.Self]
	c.double.mu.Unlock()
	if slow == nil {
		if task, ok := c.target.(*simulator.Task); ok && task.Info.State == types.TaskInfoStateRunning {
			return refuse(&types.NotSupported{})
		}
		return refuse(&types.InvalidState{})
	}
	if !slow.cancelable {
		return refuse(&types.NotSupported{})
	}
	slow.cancelOnce.Do(func() { close(slow.cancel) })
	return &methods.CancelTaskBody{Res: &types.CancelTaskResponse{}}
}

// taskInProgress refuses a second change of a machine that a slow task works on; clones of one source may overlap.
// Source: TaskInProgress, "the operation fails because another task is operating on the entity".
func (c *call) taskInProgress() types.BaseMethodFault {
	vm := c.machine()
	changes := strings.HasSuffix(c.name, "_Task") || c.name == "UnregisterVM" || c.name == "MarkAsTemplate"
	if vm == nil || !changes || !c.double.enabled("task_in_progress") {
		return nil
	}
	c.double.mu.Lock()
	defer c.double.mu.Unlock()
	slow := c.double.busy[vm.Self]
	if slow == nil || (slow.method == "CloneVM_Task" && c.name == "CloneVM_Task") {
		return nil
	}
	return &types.TaskInProgress{Task: slow.ref}
}
