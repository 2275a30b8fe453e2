package main

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// faultRule makes calls of a method fail. Any fault of the API can be named: "vim.fault" in the API reference.
type faultRule struct {
	Method string          `json:"method"`
	Fault  string          `json:"fault"`
	Fields json.RawMessage `json:"fields"`  // properties of the fault, e.g. {"privilegeId": "..."}
	InTask bool            `json:"in_task"` // the task's error instead of the call's
	Count  *int            `json:"count"`   // default 1; 0 is every call until reset
	Skip   int             `json:"skip"`    // calls that pass first
	VM     string          `json:"vm"`      // only for this machine
}

func (d *Double) addFault(rule *faultRule) error {
	if _, err := d.makeFault(rule, types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-0"}); err != nil {
		return err
	}
	if _, ok := taskReplies[rule.Method]; rule.InTask && !ok {
		return fmt.Errorf("%s has no task here", rule.Method)
	}
	rule.Count = countOf(rule.Count)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, rule)
	return nil
}

func (d *Double) callFault(method string, this types.ManagedObjectReference) types.BaseMethodFault {
	return d.takeFault(method, this, false)
}

func (d *Double) taskFault(method string, this types.ManagedObjectReference) types.BaseMethodFault {
	return d.takeFault(method, this, true)
}

func (d *Double) takeFault(method string, this types.ManagedObjectReference, inTask bool) types.BaseMethodFault {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rule := range d.faults {
		if rule.Method != method || rule.InTask != inTask || *rule.Count == 0 || !d.concerns(rule.VM, this) {
			continue
		}
		if rule.Skip > 0 {
			rule.Skip--
			continue
		}
		*rule.Count--
		fault, err := d.makeFault(rule, this)
		if err != nil {
			panic(err) // addFault made one already
		}
		return fault
	}
	return nil
}

// concerns says whether the call's target is the named machine (no name: every target).
func (d *Double) concerns(name string, this types.ManagedObjectReference) bool {
	if name == "" {
		return true
	}
	vm, err := d.find(name)
	return err == nil && vm.Self == this
}

// makeFault fills the required properties of the fault, then those that were asked for.
func (d *Double) makeFault(rule *faultRule, this types.ManagedObjectReference) (types.BaseMethodFault, error) {
	kind, ok := types.TypeFunc()(rule.Fault)
	if !ok || kind.Kind() != reflect.Struct {
		return nil, fmt.Errorf("no fault %q", rule.Fault)
	}
	fault, ok := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !ok {
		return nil, fmt.Errorf("%q is no fault", rule.Fault)
	}
	d.fillRequired(fault, this)
	if len(rule.Fields) > 0 {
		if err := json.Unmarshal(rule.Fields, fault); err != nil {
			return nil, fmt.Errorf("fields of %s: %w", rule.Fault, err)
		}
	}
	return fault, nil
}

// fillRequired sets what pyvmomi cannot decode when empty: enumerations and references.
func (d *Double) fillRequired(fault types.BaseMethodFault, this types.ManagedObjectReference) {
	switch f := fault.(type) {
	case *types.NoPermission:
		f.Object, f.PrivilegeId = &this, "System.Modify"
	case *types.NotAuthenticated:
		f.Object, f.PrivilegeId = &this, "System.View"
	case *types.ManagedObjectNotFound:
		f.Obj = this
	case *types.DuplicateName:
		f.Object, f.Name = this, "name"
	case *types.TaskInProgress:
		f.Task = types.ManagedObjectReference{Type: "Task", Value: "task-0"}
	case *types.InvalidPowerState:
		f.RequestedState, f.ExistingState = types.VirtualMachinePowerStatePoweredOn, types.VirtualMachinePowerStatePoweredOff
		if vm, ok := d.registry.Get(this).(*simulator.VirtualMachine); ok {
			f.ExistingState = vm.Runtime.PowerState
			if f.ExistingState == f.RequestedState {
				f.RequestedState = types.VirtualMachinePowerStatePoweredOff
			}
		}
	}
}
