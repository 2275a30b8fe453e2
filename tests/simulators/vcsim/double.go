package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Double stands between the clients and the simulator. Every SOAP call passes, in this order: serveSDK (front.go:
// counted, held, cut), handle (sessions, faults of the call) and call.Serve (everything else).
type Double struct {
	service  *simulator.Service
	registry *simulator.Registry

	mu       sync.Mutex
	on       map[string]bool // behaviours by name, see defaults
	shutdown string          // how a guest answers ShutdownGuest, see guest.go
	faults   []*faultRule
	slow     []*slowRule
	lost     []*lostRule
	cuts     []*cutRule
	leases   leaseRules
	denied   []*denial
	away     map[types.ManagedObjectReference]reach
	storage  storageRules

	recommended map[string]*recommendation // by key
	collectors  map[*simulator.PropertyCollector]*collector
	staleness   int
	told        sync.Map                                   // faults that an event has told of
	busy        map[types.ManagedObjectReference]*slowTask // by the machine that is worked on
	running     map[types.ManagedObjectReference]*slowTask // by task
	onBoot      map[types.ManagedObjectReference]guestFacts

	customized map[types.ManagedObjectReference]types.CustomizationSpec
	policies   policies
	profiles   *profileManager

	contents *contents
	front    front
	rest     restSide
	uploads  uploads
	sessions sessions
}

// defaults are the behaviours as they are at the start; POST /behaviours switches them.
func defaults() map[string]bool {
	return map[string]bool{
		"duplicate_name": true, "concurrent_access": true, "task_in_progress": true, "hot_plug": true,
		"tools_needed": true, "authentication": true, "consolidate": true, "quiesce_fails": false, "unplugged_stay": false,
		"api": true, "drs_rules": false,
	}
}

func newDouble(model *simulator.Model) *Double {
	d := &Double{service: model.Service, registry: model.Map(), contents: newContents()}
	d.front.init()
	d.sessions.init()
	d.onBoot = map[types.ManagedObjectReference]guestFacts{}
	d.policies = policies{}
	d.recommended = map[string]*recommendation{}
	d.collectors = map[*simulator.PropertyCollector]*collector{}
	d.rest.tokens = map[string]time.Time{}
	d.uploads.items = map[string]string{}
	d.uploads.directory = filepath.Join(os.TempDir(), "uploads") // the wrapper's own, see process.py
	d.customized = map[types.ManagedObjectReference]types.CustomizationSpec{}
	d.reset()
	d.watchMachines()
	d.registry.Handler = d.handle
	d.serveFront()
	go d.watchIdle()
	return d
}

// reset puts every switch back; what is held or slow is let go.
func (d *Double) reset() {
	d.mu.Lock()
	running, away := d.running, d.away
	d.on, d.shutdown = defaults(), "obey"
	d.faults, d.slow, d.lost, d.cuts, d.leases = nil, nil, nil, nil, defaultLeases()
	d.denied, d.storage = nil, storageRules{}
	d.away = map[types.ManagedObjectReference]reach{}
	d.busy = map[types.ManagedObjectReference]*slowTask{}
	d.running = map[types.ManagedObjectReference]*slowTask{}
	d.mu.Unlock()
	for _, task := range running {
		task.release()
	}
	for ref := range away {
		d.bringBack(ref)
	}
	d.front.releaseAll()
	d.rest.mu.Lock()
	d.rest.faults = nil
	d.rest.mu.Unlock()
	d.sessions.setIdle(0)
}

func (d *Double) enabled(behaviour string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on[behaviour]
}

type insideKey struct{}

// inside marks a context whose calls skip the double: the hand of "another admin".
func inside() context.Context { return context.WithValue(context.Background(), insideKey{}, true) }

// handle is the simulator's hook before each call. A call of interest is turned into a call of call.Serve: the
// method is renamed, and its target replaced by one that no registry knows, since a session's registry would
// otherwise win over the handler returned here.
func (d *Double) handle(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Context != nil && ctx.Context.Value(insideKey{}) != nil {
		if c := d.collectingCall(ctx, method); c != nil {
			return c, nil
		}
		return nil, nil
	}
	if ctx.Session == nil && d.enabled("authentication") && !anonymous(method) {
		return nil, notAuthenticated(method.This)
	}
	for _, fault := range []types.BaseMethodFault{d.callFault(method.Name, method.This), d.noPermission(method)} {
		if fault != nil {
			return nil, fault
		}
	}
	if c := d.collectingCall(ctx, method); c != nil {
		return c, nil
	}
	if !interesting(method) {
		return nil, nil
	}
	target := d.registry.Get(method.This)
	if target == nil {
		return nil, nil
	}
	c := &call{Self: method.This, double: d, name: method.Name, target: target}
	method.Name = "Serve"
	method.This = types.ManagedObjectReference{Type: "DoubleCall", Value: c.Self.Value}
	return c, nil
}

func interesting(method *simulator.Method) bool {
	if method.Name == "CancelTask" || strings.HasSuffix(method.Name, "_Task") {
		return true
	}
	_, checked := checks[method.Name]
	_, replaced := replacements[method.Name]
	return checked || replaced
}

// call is one SOAP call on its way to the simulator. Self makes the simulator lock the real target meanwhile.
type call struct {
	Self   types.ManagedObjectReference
	double *Double
	name   string
	target mo.Reference
	ctx    *simulator.Context
	body   any
	about  *types.ManagedObjectReference // what its task is about, if that is not the target
}

// Reference names the target of the call.
func (c *call) Reference() types.ManagedObjectReference { return c.Self }

// checks refuse calls that a vCenter refuses; the fault becomes the task's error, or the call's without a task.
var checks = map[string][]func(*call) types.BaseMethodFault{}

// replacements do the work of a method that the simulator lacks or does wrongly.
var replacements = map[string]func(*call) soap.HasFault{}

// Serve answers the call; the simulator finds it by this name.
func (c *call) Serve(ctx *simulator.Context, body any) soap.HasFault {
	ctx.Caller = &c.Self
	c.ctx, c.body = ctx, body
	if fault := c.missingObject(); fault != nil {
		return refuse(fault)
	}
	if fault := c.outOfReach(); fault != nil {
		return c.fail(fault)
	}
	if fault := c.taskInProgress(); fault != nil {
		return c.fail(fault)
	}
	if rule := c.double.slowRule(c); rule != nil {
		return c.double.startSlow(c, rule)
	}
	return c.work()
}

// work does the call now.
func (c *call) work() soap.HasFault {
	if fault := c.double.taskFault(c.name, c.Self); fault != nil {
		return c.fail(fault)
	}
	for _, check := range checks[c.name] {
		if fault := check(c); fault != nil {
			return c.fail(fault)
		}
	}
	if asksPolicies(c.body) {
		return c.task(func() (types.AnyType, types.BaseMethodFault) {
			result, fault := c.outcome(c.replaced())
			if fault == nil {
				c.notePolicies(result)
			}
			return result, fault
		})
	}
	return c.replaced()
}

// replaced does what a vCenter would: our own work, or the simulator's.
func (c *call) replaced() soap.HasFault {
	if replacement, ok := replacements[c.name]; ok {
		return replacement(c)
	}
	return c.original()
}

// original runs the simulator's own method.
func (c *call) original() soap.HasFault {
	name := c.name
	if base, ok := strings.CutSuffix(name, "_Task"); ok {
		name = base + "Task"
	}
	method := reflect.ValueOf(c.target).MethodByName(strings.ToUpper(name[:1]) + name[1:])
	if !method.IsValid() {
		return refuse(&types.MethodNotFound{Receiver: c.Self, Method: c.name})
	}
	arguments := []reflect.Value{reflect.ValueOf(c.body)}
	if method.Type().NumIn() == 2 {
		arguments = append([]reflect.Value{reflect.ValueOf(c.ctx)}, arguments...)
	}
	return method.Call(arguments)[0].Interface().(soap.HasFault)
}

// on is a call of our own within this one.
func (c *call) on(target types.ManagedObjectReference, name string, body any) *call {
	return &call{Self: target, double: c.double, name: name, target: c.double.registry.Get(target), ctx: c.ctx, body: body}
}

// machine is the target, the target's machine if that is a snapshot, or nil.
func (c *call) machine() *simulator.VirtualMachine {
	switch target := c.target.(type) {
	case *simulator.VirtualMachine:
		return target
	case *simulator.VirtualMachineSnapshot:
		vm, _ := c.double.registry.Get(target.Vm).(*simulator.VirtualMachine)
		return vm
	}
	return nil
}

// find returns the machine with that name, BIOS UUID, instance UUID or object id.
func (d *Double) find(key string) (*simulator.VirtualMachine, error) {
	for _, vm := range d.machines() {
		if key == vm.Name || key == vm.Config.Uuid || key == vm.Config.InstanceUuid || key == vm.Self.Value {
			return vm, nil
		}
	}
	return nil, fmt.Errorf("no machine %q", key)
}

func (d *Double) machines() []*simulator.VirtualMachine {
	var found []*simulator.VirtualMachine
	for _, entity := range d.registry.All("VirtualMachine") {
		if vm, ok := entity.(*simulator.VirtualMachine); ok {
			found = append(found, vm)
		}
	}
	return found
}
