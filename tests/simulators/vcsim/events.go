package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["AnswerVM"] = answerQuestion
	for _, method := range []string{"PowerOnVM_Task", "PowerOffVM_Task", "ResetVM_Task", "SuspendVM_Task", "CreateSnapshot_Task"} {
		checks[method] = append(checks[method], noQuestion)
	}
}

// failureEvent is what a vCenter logs about a task that failed, nil if it logs nothing. Source: VmFailedToPowerOnEvent
// and its like of the API reference, each with the fault as its reason.
func failureEvent(task string, vm *simulator.VirtualMachine, event types.VmEvent, reason types.LocalizedMethodFault) types.BaseEvent {
	switch strings.TrimSuffix(strings.TrimSuffix(task, "_Task"), "VM") {
	case "PowerOn":
		return &types.VmFailedToPowerOnEvent{VmEvent: event, Reason: reason}
	case "PowerOff":
		return &types.VmFailedToPowerOffEvent{VmEvent: event, Reason: reason}
	case "Reset":
		return &types.VmFailedToResetEvent{VmEvent: event, Reason: reason}
	case "Suspend":
		return &types.VmFailedToSuspendEvent{VmEvent: event, Reason: reason}
	case "Relocate":
		return &types.VmRelocateFailedEvent{
			VmRelocateSpecEvent: types.VmRelocateSpecEvent{VmEvent: event}, Reason: reason,
			DestHost: *event.Host, DestDatacenter: event.Datacenter,
		}
	case "Clone":
		return &types.VmCloneFailedEvent{
			VmCloneEvent: types.VmCloneEvent{VmEvent: event}, Reason: reason, DestHost: *event.Host,
			DestFolder: types.FolderEventArgument{Folder: *vm.Parent}, DestName: vm.Name, // the source's: the task knows no more
		}
	}
	return nil
}

// taskFailed logs a task's failure, once for the several tasks that one call may be made of.
func (d *Double) taskFailed(task *mo.Task) {
	if task.Info.State != types.TaskInfoStateError || task.Info.Entity == nil || task.Info.Error == nil {
		return
	}
	if _, told := d.told.LoadOrStore(task.Info.Error.Fault, true); told {
		return
	}
	vm, ok := d.registry.Get(*task.Info.Entity).(*simulator.VirtualMachine)
	if !ok || vm.Parent == nil {
		return
	}
	if event := failureEvent(task.Info.Name, vm, d.vmEvent(vm), *task.Info.Error); event != nil {
		go d.post(event)
	}
}

// post logs an event in nobody's name.
func (d *Double) post(event types.BaseEvent) {
	own := &simulator.Session{UserSession: types.UserSession{UserName: "vcsim"}, Registry: simulator.NewRegistry(), Map: d.registry}
	ctx := &simulator.Context{Map: d.registry, Session: own}
	manager := d.registry.EventManager()
	d.registry.WithLock(ctx, manager, func() {
		manager.PostEvent(ctx, &types.PostEvent{EventToPost: event})
	})
}

// question is one that a machine asks.
type question struct {
	VM      string   `json:"vm"`
	Text    string   `json:"text"`
	Choices []string `json:"choices"` // labels; an answer is the number as text
	Blocks  string   `json:"blocks"`  // asked by the next task of this method, which waits for the answer; else asked at once
}

func (d *Double) addQuestion(q question) (any, error) {
	vm, err := d.find(q.VM)
	if err != nil {
		return nil, err
	}
	if len(q.Choices) == 0 {
		return nil, fmt.Errorf("a question needs choices")
	}
	if q.Blocks == "" {
		d.showQuestion(vm, &q)
		return nil, nil
	}
	return d.addSlow(slowRule{Method: q.Blocks, VM: q.VM, question: &q})
}

// showQuestion sets runtime.question. Source: VirtualMachineQuestionInfo.
func (d *Double) showQuestion(vm *simulator.VirtualMachine, q *question) {
	var info *types.VirtualMachineQuestionInfo
	if q != nil {
		id := uuid.NewString()
		info = &types.VirtualMachineQuestionInfo{
			Id: id, Text: q.Text, Message: []types.VirtualMachineMessage{{Id: "msg.vcsim.question", Text: q.Text}},
		}
		for i, label := range q.Choices {
			info.Choice.ChoiceInfo = append(info.Choice.ChoiceInfo, &types.ElementDescription{
				Description: types.Description{Label: label, Summary: label}, Key: fmt.Sprint(i),
			})
		}
	}
	d.registry.AtomicUpdate(&simulator.Context{Map: d.registry}, vm, []types.PropertyChange{
		{Name: "runtime.question", Val: info}, {Name: "summary.runtime.question", Val: info},
	})
}

// answerQuestion clears the question and lets the task go on that waits for it. Source: VirtualMachine.AnswerVM:
// InvalidArgument for an id that is not pending or a choice that is not offered.
func answerQuestion(c *call) soap.HasFault {
	vm, request := c.machine(), c.body.(*types.AnswerVM)
	pending := vm.Runtime.Question
	if pending == nil || pending.Id != request.QuestionId {
		return refuse(&types.InvalidArgument{InvalidProperty: "questionId"})
	}
	for _, choice := range pending.Choice.ChoiceInfo {
		if choice.GetElementDescription().Key != request.AnswerChoice {
			continue
		}
		c.double.registry.Update(c.ctx, vm, []types.PropertyChange{
			{Name: "runtime.question", Val: nil}, {Name: "summary.runtime.question", Val: nil},
		})
		c.double.mu.Lock()
		if waiting := c.double.busy[vm.Self]; waiting != nil && waiting.asked {
			waiting.release()
		}
		c.double.mu.Unlock()
		return &methods.AnswerVMBody{Res: &types.AnswerVMResponse{}}
	}
	return refuse(&types.InvalidArgument{InvalidProperty: "answerChoice"})
}

// noQuestion refuses what cannot go on before somebody answers. Source: fault QuestionPending.
func noQuestion(c *call) types.BaseMethodFault {
	if vm := c.machine(); vm != nil && vm.Runtime.Question != nil {
		return &types.QuestionPending{Text: vm.Runtime.Question.Text}
	}
	return nil
}

// statusFacts are what alarms say of a machine.
type statusFacts struct {
	VM      string `json:"vm"`
	Overall string `json:"overall"` // gray, green, yellow, red
	Alarm   string `json:"alarm"`   // key or name of one of the alarms that there are: it is triggered; none: nothing is
}

// setStatus is the doing of an alarm. Source: ManagedEntity.overallStatus, triggeredAlarmState, AlarmState.
func (d *Double) setStatus(facts statusFacts) (any, error) {
	vm, err := d.find(facts.VM)
	if err != nil {
		return nil, err
	}
	status := types.ManagedEntityStatus(facts.Overall)
	switch status {
	case types.ManagedEntityStatusGray, types.ManagedEntityStatusGreen, types.ManagedEntityStatusYellow, types.ManagedEntityStatusRed:
	default:
		return nil, fmt.Errorf("%q is no status", facts.Overall)
	}
	states := []types.AlarmState{}
	if facts.Alarm != "" {
		alarm := d.alarm(facts.Alarm)
		if alarm == nil {
			return nil, fmt.Errorf("no alarm %q", facts.Alarm)
		}
		states = append(states, types.AlarmState{
			Key: alarm.Self.Value + "." + vm.Self.Value, Entity: vm.Self, Alarm: alarm.Self, OverallStatus: status,
			Time: time.Now(), Acknowledged: types.NewBool(false),
		})
	}
	d.registry.AtomicUpdate(&simulator.Context{Map: d.registry}, vm, []types.PropertyChange{
		{Name: "overallStatus", Val: status}, {Name: "summary.overallStatus", Val: status},
		{Name: "triggeredAlarmState", Val: states},
	})
	return nil, nil
}

func (d *Double) alarm(name string) *simulator.Alarm {
	for _, object := range d.registry.AllReference("Alarm") {
		if alarm, ok := object.(*simulator.Alarm); ok && (alarm.Self.Value == name || alarm.Info.Name == name) {
			return alarm
		}
	}
	return nil
}
