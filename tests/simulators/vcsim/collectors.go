package main

import (
	"reflect"
	"sync"
	"unsafe"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// staleVersion refuses versions that no collector gave out, and old ones once POST /collectors/stale was asked:
// such a client has to begin with "" again. Source: PropertyCollector.WaitForUpdatesEx, fault InvalidCollectorVersion.
func (d *Double) staleVersion(ctx *simulator.Context, method *simulator.Method) types.BaseMethodFault {
	var version string
	switch body := method.Body.(type) {
	case *types.WaitForUpdatesEx:
		version = body.Version
	case *types.WaitForUpdates:
		version = body.Version
	case *types.CheckForUpdates:
		version = body.Version
	default:
		return nil
	}
	key := method.This.Value
	if ctx.Session != nil {
		key += " " + ctx.Session.Key
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if version == "" {
		d.collecting[key] = d.staleness
		return nil
	}
	if version != "-" && version != "P" { // the only ones that the simulator gives out
		return &types.InvalidCollectorVersion{}
	}
	if d.collecting[key] != d.staleness {
		return &types.InvalidCollectorVersion{}
	}
	return nil
}

// makeStale makes every version that was given out so far invalid.
func (d *Double) makeStale(struct{}) (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.staleness++
	return nil, nil
}

// tellOfFilter has collectors that wait look at a filter that was made meanwhile. The simulator looks only when something
// changes, so a filter on a task that had ended already never told of its end. Source: PropertyCollector.CreateFilter
// and WaitForUpdatesEx: the first update of a filter is the state of everything in it.
func (d *Double) tellOfFilter() {
	d.loosenFilters()
	d.registry.AtomicUpdate(&simulator.Context{Map: d.registry}, d.registry.Get(vim25.ServiceInstance), nil)
}

// looseFilter hears of changes without the filter's lock. In the simulator whoever makes a machine holds its folder and
// the view, and wants the filter; a collector holds the filter, and wants view and folder: now and then both wait for ever.
type looseFilter struct{ *simulator.PropertyFilter }

// UpdateObject has the filter's objects collected again by the next wait, as the simulator's own does.
func (f looseFilter) UpdateObject(_ *simulator.Context, changed mo.Reference, _ []types.PropertyChange) {
	for _, set := range f.Spec.ObjectSet {
		if set.Obj == changed.Reference() && len(set.SelectSet) != 0 {
			*private[bool](f.PropertyFilter, "sync") = true
		}
	}
}

// loosenFilters puts a looseFilter in the place of each filter that listens.
func (d *Double) loosenFilters() {
	lock := private[sync.Mutex](d.registry, "m")
	lock.Lock()
	defer lock.Unlock()
	handlers := *private[map[types.ManagedObjectReference]simulator.RegisterObject](d.registry, "handlers")
	for ref, handler := range handlers {
		if filter, ok := handler.(*simulator.PropertyFilter); ok {
			handlers[ref] = looseFilter{filter}
		}
	}
}

// private reaches a field that the simulator keeps to itself.
func private[T any](of any, field string) *T {
	return (*T)(unsafe.Pointer(reflect.ValueOf(of).Elem().FieldByName(field).UnsafeAddr()))
}
