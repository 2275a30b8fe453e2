package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
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
	d.registry.AtomicUpdate(&simulator.Context{Map: d.registry}, d.registry.Get(vim25.ServiceInstance), nil)
}
