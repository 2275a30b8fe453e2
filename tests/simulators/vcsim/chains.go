package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// flatBacking is the only kind of backing that has content and deltas here.
type flatBacking = types.VirtualDiskFlatVer2BackingInfo

func flatDisks(devices []types.BaseVirtualDevice) []*types.VirtualDisk {
	var found []*types.VirtualDisk
	for _, device := range devices {
		if disk, ok := device.(*types.VirtualDisk); ok && backingOf(disk) != nil {
			found = append(found, disk)
		}
	}
	return found
}

func backingOf(disk *types.VirtualDisk) *flatBacking {
	backing, _ := disk.Backing.(*flatBacking)
	return backing
}

// independent disks are left out of snapshots. Source: VirtualDiskMode.independent_persistent.
func independent(disk *types.VirtualDisk) bool {
	return strings.HasPrefix(backingOf(disk).DiskMode, "independent")
}

// copyOf is a deep copy, by way of XML as the simulator makes its own.
func copyOf[T any](source T) T {
	var target T
	content, err := xml.Marshal(source)
	if err == nil {
		decoder := xml.NewDecoder(bytes.NewReader(content))
		decoder.TypeFunc = types.TypeFunc()
		err = decoder.Decode(&target)
	}
	if err != nil {
		panic(err) // every type of the API goes through XML
	}
	return target
}

func copyDevices(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	return copyOf(types.ArrayOfVirtualDevice{VirtualDevice: devices}).VirtualDevice
}

// chains are the disks of one machine and of its snapshots, taken out, changed and put back.
type chains struct {
	double  *Double
	ctx     *simulator.Context
	vm      *simulator.VirtualMachine
	devices []types.BaseVirtualDevice
	held    []*heldConfig
}

type heldConfig struct {
	snapshot *simulator.VirtualMachineSnapshot
	config   types.VirtualMachineConfigInfo
}

func (d *Double) chains(ctx *simulator.Context, vm *simulator.VirtualMachine) *chains {
	c := &chains{double: d, ctx: ctx, vm: vm, devices: copyDevices(vm.Config.Hardware.Device)}
	for _, snapshot := range d.snapshots(vm.Self) {
		c.held = append(c.held, &heldConfig{snapshot, copyOf(snapshot.Config)})
	}
	return c
}

func (d *Double) snapshots(vm types.ManagedObjectReference) []*simulator.VirtualMachineSnapshot {
	var found []*simulator.VirtualMachineSnapshot
	for _, object := range d.registry.AllReference("VirtualMachineSnapshot") {
		if snapshot, ok := object.(*simulator.VirtualMachineSnapshot); ok && snapshot.Vm == vm {
			found = append(found, snapshot)
		}
	}
	return found
}

// save puts the chains back where a client reads them.
func (c *chains) save() {
	for _, held := range c.held {
		c.double.registry.WithLock(c.ctx, held.snapshot, func() { held.snapshot.Config = held.config })
	}
	c.double.registry.Update(c.ctx, c.vm, []types.PropertyChange{{Name: "config.hardware.device", Val: c.devices}})
	c.vm.RefreshStorageInfo(c.ctx, nil)
}

func (c *chains) path(backing *flatBacking) string { return c.double.file(c.vm.Self, backing.FileName) }

// tops are the backings that the machine and its snapshots use directly.
func (c *chains) tops() []*flatBacking {
	var found []*flatBacking
	for _, disk := range flatDisks(c.devices) {
		found = append(found, backingOf(disk))
	}
	for _, held := range c.held {
		for _, disk := range flatDisks(held.config.Hardware.Device) {
			found = append(found, backingOf(disk))
		}
	}
	return found
}

var deltaNumber = regexp.MustCompile(`-\d{6}$`)

// delta makes a child of a backing. Source: VirtualDiskFlatVer2BackingInfo.parent, "the parent of this virtual disk
// file, if this is a delta disk"; names as a vCenter gives them, "disk-000001.vmdk".
func (c *chains) delta(parent *flatBacking) (*flatBacking, types.BaseMethodFault) {
	if err := c.double.contents.fit(c.path(parent)); err != nil {
		return nil, &types.FileNotFound{FileFault: types.FileFault{File: parent.FileName}}
	}
	stem := deltaNumber.ReplaceAllString(strings.TrimSuffix(parent.FileName, ".vmdk"), "")
	child := *parent
	child.Parent, child.ChangeId = parent, ""
	for number := 1; ; number++ {
		child.FileName = fmt.Sprintf("%s-%06d.vmdk", stem, number)
		if _, err := os.Stat(c.path(&child)); os.IsNotExist(err) {
			break
		}
	}
	info, err := os.Stat(flatFile(c.path(parent)))
	if err == nil {
		err = c.double.contents.fork(flatFile(c.path(parent)), flatFile(c.path(&child)))
	}
	if err == nil {
		err = writeDescriptor(c.path(&child), "SESPARSE", info.Size())
	}
	if err != nil {
		return nil, &types.FileFault{File: child.FileName}
	}
	return &child, nil
}

// branch puts every disk of the machine on a new delta.
func (c *chains) branch() types.BaseMethodFault {
	for _, disk := range flatDisks(c.devices) {
		if independent(disk) {
			continue
		}
		child, fault := c.delta(backingOf(disk))
		if fault != nil {
			return fault
		}
		disk.Backing = child
	}
	return nil
}

// foreign are the files that other machines use: the parents of linked clones.
func (d *Double) foreign(vm types.ManagedObjectReference) map[string]bool {
	used := map[string]bool{}
	note := func(owner types.ManagedObjectReference, devices []types.BaseVirtualDevice) {
		for _, disk := range flatDisks(devices) {
			for backing := backingOf(disk); backing != nil; backing = backing.Parent {
				used[d.file(owner, backing.FileName)] = true
			}
		}
	}
	for _, other := range d.machines() {
		if other.Self == vm {
			continue
		}
		note(other.Self, other.Config.Hardware.Device)
		for _, snapshot := range d.snapshots(other.Self) {
			note(other.Self, snapshot.Config.Hardware.Device)
		}
	}
	return used
}

// discard deletes the files of backings that nothing uses any more, and of their parents likewise.
func (c *chains) discard(backings []*flatBacking) {
	used := c.double.foreign(c.vm.Self)
	for _, top := range c.tops() {
		for backing := top; backing != nil; backing = backing.Parent {
			used[c.path(backing)] = true
		}
	}
	for _, top := range backings {
		for backing := top; backing != nil && !used[c.path(backing)]; backing = backing.Parent {
			c.double.contents.remove(flatFile(c.path(backing)))
			_ = os.Remove(c.path(backing))
		}
	}
}

// mergeable finds a backing that no machine or snapshot uses directly and that has one child: the two can be one.
// Source: RemoveSnapshot_Task, consolidate: "the virtual disks of the deleted snapshot will be merged".
func (c *chains) mergeable() *flatBacking {
	foreign := c.double.foreign(c.vm.Self)
	direct := map[string]bool{}
	children := map[string]map[string]*flatBacking{}
	for _, top := range c.tops() {
		direct[c.path(top)] = true
		for backing := top; backing.Parent != nil; backing = backing.Parent {
			parent := c.path(backing.Parent)
			if children[parent] == nil {
				children[parent] = map[string]*flatBacking{}
			}
			children[parent][c.path(backing)] = backing
		}
	}
	for parent, own := range children {
		if direct[parent] || foreign[parent] || len(own) != 1 {
			continue
		}
		for path, child := range own {
			if !foreign[path] {
				return child
			}
		}
	}
	return nil
}

// consolidate merges whatever can be merged.
func (c *chains) consolidate() types.BaseMethodFault {
	for child := c.mergeable(); child != nil; child = c.mergeable() {
		from, to := c.path(child), c.path(child.Parent)
		if err := c.double.contents.merge(flatFile(from), flatFile(to)); err != nil {
			return &types.FileFault{File: child.FileName}
		}
		_ = os.Remove(from)
		for _, top := range c.tops() {
			for backing := top; backing != nil; backing = backing.Parent {
				if c.path(backing) == from {
					backing.FileName, backing.Parent = backing.Parent.FileName, backing.Parent.Parent
				}
			}
		}
	}
	return nil
}

// keepShared saves the files of a machine that linked clones need, and disks in its directory that are unplugged, over
// its deletion; call the result afterwards. Source: vCenter keeps the disks of a deleted machine that others are
// children of, and every file that is not the machine's.
func (d *Double) keepShared(ctx *simulator.Context, vm *simulator.VirtualMachine) (restore func()) {
	directory := path.Dir(d.file(vm.Self, vm.Config.Files.VmPathName))
	kept := map[string]string{}
	for file := range d.foreign(vm.Self) {
		if path.Dir(file) != directory {
			continue
		}
		for _, name := range []string{file, flatFile(file)} {
			aside := directory + ".kept." + path.Base(name)
			if os.Rename(name, aside) == nil {
				kept[aside] = name
			}
			_ = os.WriteFile(name, nil, 0o600) // the deletion wants to find it
		}
	}
	var unplugged []string
	if d.enabled("unplugged_stay") {
		unplugged = d.unplugged(ctx, vm, directory)
	}
	for _, file := range unplugged {
		for _, name := range []string{file, flatFile(file)} {
			aside := directory + ".kept." + path.Base(name)
			if kept[aside] != "" { // a linked clone needs it, too: what lies there now is empty
				continue
			}
			if os.Rename(name, aside) == nil {
				kept[aside] = name
			}
		}
	}
	return func() {
		if len(kept) > 0 {
			_ = os.MkdirAll(directory, 0o700)
		}
		for aside, name := range kept {
			_ = os.Rename(aside, name)
		}
	}
}

// waitGone waits a moment for the end of a deletion that the simulator begins and leaves to itself.
func waitGone(directory string) {
	for range 2000 {
		if _, err := os.Stat(directory); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// unplugged are the disks in a machine's directory that neither the machine nor a snapshot of it has.
func (d *Double) unplugged(ctx *simulator.Context, vm *simulator.VirtualMachine, directory string) []string {
	own := map[string]bool{}
	for _, top := range d.chains(ctx, vm).tops() {
		for backing := top; backing != nil; backing = backing.Parent {
			own[d.file(vm.Self, backing.FileName)] = true
		}
	}
	disks, _ := filepath.Glob(filepath.Join(directory, "*.vmdk"))
	var found []string
	for _, file := range disks {
		if !own[file] && !strings.HasSuffix(file, "-flat.vmdk") {
			found = append(found, file)
		}
	}
	return found
}

// datastoreOf is the name of the datastore in "[name] path".
func datastoreOf(file string) string {
	var at object.DatastorePath
	at.FromString(file)
	return at.Datastore
}
