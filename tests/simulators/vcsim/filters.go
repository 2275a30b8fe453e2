package main

import (
	"maps"
	"reflect"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// filter is one property filter, and what its client was told. Its collector's wait alone uses it.
type filter struct {
	double *Double
	ref    types.ManagedObjectReference
	spec   types.PropertyFilterSpec

	selected map[types.ManagedObjectReference]bool // nil: nobody has looked yet
	steps    map[types.ManagedObjectReference]bool // objects that lead to others: whom it selects depends on them
	told     map[types.ManagedObjectReference]map[string]types.AnyType
}

// forget makes it a filter of which nothing was told.
func (f *filter) forget() { f.selected, f.steps, f.told = nil, nil, nil }

// update is what the client has to be told after these changes. Only objects that changed or are newly selected are
// read, and what is told is how they differ from what was told: no change can be lost, whoever made it in what way.
func (f *filter) update(ctx *simulator.Context, reader *simulator.PropertyCollector, changed changes) []types.ObjectUpdate {
	var updates []types.ObjectUpdate
	leave := func(ref types.ManagedObjectReference) {
		delete(f.told, ref)
		updates = append(updates, types.ObjectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: ref})
	}
	var look []types.ManagedObjectReference
	if f.selected == nil || slices.ContainsFunc(changed.order, func(ref types.ManagedObjectReference) bool { return f.steps[ref] }) {
		first := f.selected == nil
		walk := f.walk(ctx, reader)
		for ref := range f.told {
			if !walk.selected[ref] && !changed.gone[ref] {
				leave(ref)
			}
		}
		for _, ref := range walk.order {
			if !f.selected[ref] && !changed.gone[ref] {
				look = append(look, ref)
			}
		}
		f.selected, f.steps = walk.selected, walk.steps
		if first {
			f.told = map[types.ManagedObjectReference]map[string]types.AnyType{}
			for _, ref := range walk.missing {
				leave(ref) // it was there when the filter was made
			}
		}
	}
	for _, ref := range changed.order {
		switch _, known := f.told[ref]; {
		case changed.gone[ref] && known:
			leave(ref)
		case !changed.gone[ref] && f.selected[ref] && !slices.Contains(look, ref):
			look = append(look, ref)
		}
	}
	look = slices.DeleteFunc(look, f.double.unfinished)
	for _, object := range readObjects(ctx, reader, f.spec.PropSet, look) {
		if update := f.compare(object); update != nil {
			updates = append(updates, *update)
		}
	}
	return updates
}

// unfinished says whether a machine is still being made: the simulator puts it into the inventory as a bare one, and
// its environment browser comes after all the rest. It tells of the machine once more when that is done.
func (d *Double) unfinished(ref types.ManagedObjectReference) bool {
	vm, ok := d.registry.Get(ref).(*simulator.VirtualMachine)
	return ok && vm.EnvironmentBrowser.Value == ""
}

// compare is how an object differs from what was told; nil if it does not. Source: PropertyChange, whose val is unset
// for a property that has become so.
func (f *filter) compare(object types.ObjectContent) *types.ObjectUpdate {
	before, known := f.told[object.Obj]
	update := &types.ObjectUpdate{Kind: types.ObjectUpdateKindModify, Obj: object.Obj}
	if !known {
		update.Kind = types.ObjectUpdateKindEnter
	}
	now := make(map[string]types.AnyType, len(object.PropSet))
	for _, property := range object.PropSet {
		if f.double.lacks(object.Obj, property.Name) {
			continue
		}
		now[property.Name] = property.Val
		if old, ok := before[property.Name]; !ok || !reflect.DeepEqual(old, property.Val) {
			update.ChangeSet = append(update.ChangeSet, types.PropertyChange{
				Name: property.Name, Op: types.PropertyChangeOpAssign, Val: property.Val,
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := now[name]; !ok {
			update.ChangeSet = append(update.ChangeSet, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign})
		}
	}
	f.told[object.Obj] = now
	if known && len(update.ChangeSet) == 0 {
		return nil
	}
	return update
}

// walk is one way through a filter's objects.
type walk struct {
	ctx             *simulator.Context
	reader          *simulator.PropertyCollector
	named           map[string]*types.TraversalSpec
	selected, steps map[types.ManagedObjectReference]bool
	order, missing  []types.ManagedObjectReference
}

func (f *filter) walk(ctx *simulator.Context, reader *simulator.PropertyCollector) *walk {
	w := &walk{
		ctx: ctx, reader: reader, named: map[string]*types.TraversalSpec{},
		selected: map[types.ManagedObjectReference]bool{}, steps: map[types.ManagedObjectReference]bool{},
	}
	for _, set := range f.spec.ObjectSet {
		if ctx.Session.Get(set.Obj) == nil {
			w.missing = append(w.missing, set.Obj)
			continue
		}
		if !isTrue(set.Skip) {
			w.choose(set.Obj)
		}
		w.follow(set.Obj, set.SelectSet)
	}
	return w
}

func (w *walk) choose(ref types.ManagedObjectReference) {
	if !w.selected[ref] {
		w.selected[ref] = true
		w.order = append(w.order, ref)
	}
}

// follow goes on from an object. Source: TraversalSpec, whose selectSet may name one that is defined elsewhere.
func (w *walk) follow(from types.ManagedObjectReference, set []types.BaseSelectionSpec) {
	for _, each := range set {
		if spec, ok := each.(*types.TraversalSpec); ok && spec.Name != "" {
			w.named[spec.Name] = spec
		}
	}
	for _, each := range set {
		spec, ok := each.(*types.TraversalSpec)
		if !ok {
			spec = w.named[each.GetSelectionSpec().Name]
		}
		if spec == nil {
			continue
		}
		w.steps[from] = true
		for _, ref := range w.references(from, spec.Path) {
			if !isTrue(spec.Skip) {
				w.choose(ref)
			}
			w.follow(ref, spec.SelectSet)
		}
	}
}

// references are the objects that a property names.
func (w *walk) references(from types.ManagedObjectReference, path string) []types.ManagedObjectReference {
	property := types.PropertySpec{Type: from.Type, PathSet: []string{path}}
	for _, object := range readObjects(w.ctx, w.reader, []types.PropertySpec{property}, []types.ManagedObjectReference{from}) {
		for _, found := range object.PropSet {
			switch value := found.Val.(type) {
			case types.ManagedObjectReference:
				return []types.ManagedObjectReference{value}
			case types.ArrayOfManagedObjectReference:
				return value.ManagedObjectReference
			}
		}
	}
	return nil
}

// readObjects reads objects, each under its own lock; those that are gone are left out.
func readObjects(ctx *simulator.Context, reader *simulator.PropertyCollector, properties []types.PropertySpec, objects []types.ManagedObjectReference) []types.ObjectContent {
	if len(objects) == 0 {
		return nil
	}
	spec := types.PropertyFilterSpec{PropSet: properties, ReportMissingObjectsInResults: types.NewBool(true)}
	for _, ref := range objects {
		spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: ref})
	}
	answer := reader.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{SpecSet: []types.PropertyFilterSpec{spec}})
	return answer.(*methods.RetrievePropertiesExBody).Res.Returnval.Objects
}
