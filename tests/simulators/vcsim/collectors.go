package main

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// gathering is how long a wait looks on after the first change: a task alone makes several.
const gathering = 10 * time.Millisecond

// pageOfUpdates is how many objects one answer tells of at most. Source: WaitOptions.maxObjectUpdates, "PropertyCollector
// policy may still limit the total count to something less than maxObjectUpdates"; a vCenter's is 100.
const pageOfUpdates = 100

// collector is one session's property collector. It hears of every change of the inventory, and looks at nothing but
// what changed: as in a vCenter, a change costs the same among ten machines and ten thousand. The simulator's own reads
// the whole inventory again, for every change.
type collector struct {
	Self    types.ManagedObjectReference // under which the registry tells it of changes; no client knows it
	double  *Double
	inner   *simulator.PropertyCollector
	session string

	mu      sync.Mutex // held for moments: who changes an object holds that object's lock
	filters []*filter
	changed changes
	news    chan struct{} // has room for one
	waiting chan struct{} // ends the wait under way when it is closed

	serving   sync.Mutex // held while a client waits, and for all that follows here
	staleness int
	version   int
	answer    *types.UpdateSet // the last one: it is given again to who asks with the version before
	pending   []types.PropertyFilterUpdate
}

// changes are objects that changed, in the order in which they first did.
type changes struct {
	order []types.ManagedObjectReference
	gone  map[types.ManagedObjectReference]bool // all of them; true for one that is no longer there
}

// Reference is how the registry knows it.
func (c *collector) Reference() types.ManagedObjectReference { return c.Self }

// PutObject hears of a new object.
func (c *collector) PutObject(_ *simulator.Context, object mo.Reference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(object.Reference(), false)
}

// UpdateObject hears of an object that changed. What changed is read later, by whoever looks at it.
func (c *collector) UpdateObject(_ *simulator.Context, object mo.Reference, _ []types.PropertyChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(object.Reference(), c.changed.gone[object.Reference()]) // a task may still tell of one that is gone
}

// RemoveObject hears of an object that is going.
func (c *collector) RemoveObject(_ *simulator.Context, ref types.ManagedObjectReference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(ref, true)
}

// note adds a change; c.mu is held.
func (c *collector) note(ref types.ManagedObjectReference, gone bool) {
	if _, known := c.changed.gone[ref]; !known {
		c.changed.order = append(c.changed.order, ref)
	}
	c.changed.gone[ref] = gone
	c.wake()
}

// wake has a wait look; c.mu is held.
func (c *collector) wake() {
	select {
	case c.news <- struct{}{}:
	default: // it is to look already
	}
}

// take gives what changed since the last time, and the filters there are now.
func (c *collector) take() (changes, []*filter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.changed
	c.changed = changes{gone: map[types.ManagedObjectReference]bool{}}
	return taken, append([]*filter(nil), c.filters...)
}

// evaluate adds to the pending updates what the client does not know yet.
func (c *collector) evaluate(ctx *simulator.Context) {
	changed, filters := c.take()
	for _, filter := range filters {
		if objects := filter.update(ctx, c.inner, changed); len(objects) != 0 {
			c.pending = append(c.pending, types.PropertyFilterUpdate{Filter: filter.ref, ObjectSet: objects})
		}
	}
}

// page makes an answer of what is pending.
func (c *collector) page(limit int) *types.UpdateSet {
	c.version++
	set := &types.UpdateSet{Version: strconv.Itoa(c.version)}
	for len(c.pending) != 0 && limit > 0 {
		next := c.pending[0]
		if len(next.ObjectSet) > limit {
			c.pending[0].ObjectSet = next.ObjectSet[limit:]
			next.ObjectSet = next.ObjectSet[:limit]
		} else {
			c.pending = c.pending[1:]
		}
		limit -= len(next.ObjectSet)
		set.FilterSet = append(set.FilterSet, next)
	}
	if len(c.pending) != 0 {
		set.Truncated = types.NewBool(true)
	}
	c.answer = set
	return set
}

// wait answers with what changed since a version, as soon as there is something; nil when there was nothing in time.
// Source: PropertyCollector.WaitForUpdatesEx; "" begins anew, and a new wait ends the one before, whose client is gone.
func (c *collector) wait(ctx *simulator.Context, version string, most time.Duration, limit int) (*types.UpdateSet, types.BaseMethodFault) {
	canceled := c.begin()
	c.serving.Lock()
	defer c.serving.Unlock()
	switch staleness := c.double.stale(); {
	case version == "":
		c.restart(staleness)
		c.evaluate(ctx)
		return c.page(limit), nil
	case c.staleness != staleness || c.answer == nil:
		return nil, &types.InvalidCollectorVersion{}
	case version == strconv.Itoa(c.version-1):
		return c.answer, nil // it was lost on its way
	case version != strconv.Itoa(c.version):
		return nil, &types.InvalidCollectorVersion{}
	}
	deadline, gone := time.After(most), c.double.sessions.gone(c.session)
	for {
		if len(c.pending) == 0 {
			c.evaluate(ctx)
		}
		if len(c.pending) != 0 {
			return c.page(limit), nil
		}
		if most == 0 {
			return nil, nil
		}
		select {
		case <-c.news:
			time.Sleep(gathering)
		case <-deadline:
			return nil, nil
		case <-canceled:
			return nil, &types.RequestCanceled{}
		case <-gone:
			return nil, notAuthenticated(c.inner.Self)
		}
	}
}

// begin ends the wait before this one, and tells when this one is to end.
func (c *collector) begin() <-chan struct{} {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = make(chan struct{})
	return c.waiting
}

func (c *collector) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != nil {
		close(c.waiting)
		c.waiting = nil
	}
}

// restart forgets what was told.
func (c *collector) restart(staleness int) {
	_, filters := c.take()
	for _, filter := range filters {
		filter.forget()
	}
	c.pending, c.staleness = nil, staleness
	c.version++ // so that the version before the new one is none that was given out
}

// collecting is one call of a property collector or of a filter.
type collecting struct {
	Self   types.ManagedObjectReference
	double *Double
	inner  *simulator.PropertyCollector // nil for a filter's
}

// Reference names the target of the call.
func (c *collecting) Reference() types.ManagedObjectReference { return c.Self }

// Lock keeps nobody out: filters come, and waits are cancelled, while a client waits.
func (c *collecting) Lock() {}

// Unlock undoes Lock.
func (c *collecting) Unlock() {}

// collectingCall turns the call of a collector or filter that is there into ours.
func (d *Double) collectingCall(ctx *simulator.Context, method *simulator.Method) *collecting {
	if ctx.Session == nil {
		return nil
	}
	c := &collecting{Self: method.This, double: d}
	switch method.Body.(type) {
	case *types.WaitForUpdatesEx, *types.WaitForUpdates, *types.CheckForUpdates, *types.CancelWaitForUpdates,
		*types.CreateFilter, *types.DestroyPropertyCollector:
		inner, ok := ctx.Session.Get(method.This).(*simulator.PropertyCollector)
		if !ok {
			return nil
		}
		c.inner = inner
	case *types.DestroyPropertyFilter:
		if _, ok := ctx.Session.Get(method.This).(*simulator.PropertyFilter); !ok {
			return nil
		}
	default:
		return nil
	}
	method.Name = "Serve"
	method.This = types.ManagedObjectReference{Type: "DoubleCall", Value: c.Self.Value}
	return c
}

// Serve answers the call; the simulator finds it by this name.
func (c *collecting) Serve(ctx *simulator.Context, body any) soap.HasFault {
	ctx.Caller = &c.Self
	switch request := body.(type) {
	case *types.WaitForUpdatesEx:
		most, limit := waitOptions(request.Options)
		set, fault := c.collector(ctx).wait(ctx, request.Version, most, limit)
		if fault != nil {
			return refuse(fault)
		}
		return &methods.WaitForUpdatesExBody{Res: &types.WaitForUpdatesExResponse{Returnval: set}}
	case *types.WaitForUpdates:
		set, fault := c.collector(ctx).wait(ctx, request.Version, math.MaxInt64, math.MaxInt)
		if fault != nil {
			return refuse(fault)
		}
		return &methods.WaitForUpdatesBody{Res: &types.WaitForUpdatesResponse{Returnval: *set}}
	case *types.CheckForUpdates:
		set, fault := c.collector(ctx).wait(ctx, request.Version, 0, math.MaxInt)
		if fault != nil {
			return refuse(fault)
		}
		return &methods.CheckForUpdatesBody{Res: &types.CheckForUpdatesResponse{Returnval: set}}
	case *types.CancelWaitForUpdates:
		c.collector(ctx).cancel()
		return &methods.CancelWaitForUpdatesBody{Res: &types.CancelWaitForUpdatesResponse{}}
	case *types.CreateFilter:
		return c.createFilter(ctx, request)
	case *types.DestroyPropertyFilter:
		return c.destroyFilter(ctx, request)
	case *types.DestroyPropertyCollector:
		found := c.collector(ctx)
		found.cancel()
		c.double.dropCollectors(func(each *collector) bool { return each == found })
		return c.inner.DestroyPropertyCollector(ctx, request)
	}
	return refuse(&types.MethodNotFound{Receiver: c.Self, Method: fmt.Sprintf("%T", body)})
}

// waitOptions are how long to wait, and how many objects to tell of. Source: WaitOptions.
func waitOptions(options *types.WaitOptions) (most time.Duration, limit int) {
	most, limit = math.MaxInt64, pageOfUpdates
	if options == nil {
		return most, limit
	}
	if options.MaxWaitSeconds != nil && *options.MaxWaitSeconds >= 0 {
		most = time.Duration(*options.MaxWaitSeconds) * time.Second
	}
	if options.MaxObjectUpdates > 0 {
		limit = min(limit, int(options.MaxObjectUpdates))
	}
	return most, limit
}

// createFilter makes a filter, which a wait under way tells of at once. Source: PropertyCollector.CreateFilter.
func (c *collecting) createFilter(ctx *simulator.Context, request *types.CreateFilter) soap.HasFault {
	for _, set := range request.Spec.ObjectSet {
		if ctx.Session.Get(set.Obj) == nil {
			return refuse(&types.ManagedObjectNotFound{Obj: set.Obj})
		}
	}
	collector := c.collector(ctx)
	collector.mu.Lock()
	defer collector.mu.Unlock()
	answer := c.inner.CreateFilter(ctx, request)
	ref := answer.(*methods.CreateFilterBody).Res.Returnval
	// The simulator's own would listen too, under a lock whose order with folders and views it mixes up.
	c.double.registry.RemoveHandler(ctx.Session.Get(ref).(*simulator.PropertyFilter))
	collector.filters = append(collector.filters, &filter{double: c.double, ref: ref, spec: request.Spec})
	collector.wake()
	return answer
}

func (c *collecting) destroyFilter(ctx *simulator.Context, request *types.DestroyPropertyFilter) soap.HasFault {
	inner := ctx.Session.Get(c.Self).(*simulator.PropertyFilter)
	for _, collector := range c.double.allCollectors() {
		collector.mu.Lock()
		for i, filter := range collector.filters {
			if filter.ref == c.Self {
				collector.filters = append(collector.filters[:i:i], collector.filters[i+1:]...)
				defer collector.mu.Unlock() // the simulator's list of filters has no lock of its own
				return inner.DestroyPropertyFilter(ctx, request)
			}
		}
		collector.mu.Unlock()
	}
	return refuse(&types.ManagedObjectNotFound{Obj: c.Self})
}

// collector is ours for the simulator's; it begins to listen with its first call.
func (c *collecting) collector(ctx *simulator.Context) *collector {
	d := c.double
	d.mu.Lock()
	defer d.mu.Unlock()
	if found := d.collectors[c.inner]; found != nil {
		return found
	}
	made := &collector{
		Self:   types.ManagedObjectReference{Type: "DoubleCollector", Value: ctx.Session.Key + " " + c.Self.Value},
		double: d, inner: c.inner, session: ctx.Session.Key,
		changed: changes{gone: map[types.ManagedObjectReference]bool{}}, news: make(chan struct{}, 1),
	}
	d.collectors[c.inner] = made
	d.registry.AddHandler(made)
	return made
}

func (d *Double) allCollectors() []*collector {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*collector
	for _, each := range d.collectors {
		all = append(all, each)
	}
	return all
}

// dropCollectors has the chosen ones listen no longer.
func (d *Double) dropCollectors(chosen func(*collector) bool) {
	for _, each := range d.allCollectors() {
		if chosen(each) {
			d.registry.RemoveHandler(each)
			d.mu.Lock()
			delete(d.collectors, each.inner)
			d.mu.Unlock()
		}
	}
}

// makeStale makes every version that was given out so far invalid: such a client has to begin with "" again.
// Source: PropertyCollector.WaitForUpdatesEx, fault InvalidCollectorVersion.
func (d *Double) makeStale(struct{}) (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.staleness++
	return nil, nil
}

func (d *Double) stale() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.staleness
}
