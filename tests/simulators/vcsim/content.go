package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// grain is what change tracking counts in; a real one uses 64 KiB for disks of usual size.
const grain = 64 << 10

// extent is a range of bytes.
type extent struct{ start, length int64 }

func (e extent) end() int64 { return e.start + e.length }

// contents holds the bytes of every disk and what was written when. Beside each disk's descriptor lies a sparse
// file of the disk's full size; a delta's holds what its whole chain reads as, so that no read walks a chain.
type contents struct {
	mu     sync.Mutex
	layers map[string]*layer // by the path of the sparse file
	epochs map[string]int    // the last epoch by lineage
}

// layer is one backing file's history. Disks that came from one another by snapshots share a lineage.
type layer struct {
	lineage string
	epoch   int
	past    []int // epochs of the layers below
	written []writing
}

type writing struct {
	extent
	epoch int
}

func newContents() *contents {
	return &contents{layers: map[string]*layer{}, epochs: map[string]int{}}
}

// flatFile is where a descriptor's bytes are. Source: the names that VMFS gives, "disk.vmdk" and "disk-flat.vmdk".
func flatFile(descriptor string) string { return simulator.VirtualDiskBackingFileName(descriptor) }

// layer answers the file's own, new if nothing was asked of it before. The caller holds the lock.
func (s *contents) layer(file string) *layer {
	if s.layers[file] == nil {
		lineage := uuid.NewString()
		s.layers[file], s.epochs[lineage] = &layer{lineage: lineage, epoch: 1}, 1
	}
	return s.layers[file]
}

// fork makes `to` a child of `from`: same bytes, a new epoch.
func (s *contents) fork(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := copySparse(from, to); err != nil {
		return err
	}
	parent := s.layer(from)
	s.epochs[parent.lineage]++
	s.layers[to] = &layer{
		lineage: parent.lineage, epoch: s.epochs[parent.lineage],
		past: append(slices.Clone(parent.past), parent.epoch), written: slices.Clone(parent.written),
	}
	return nil
}

// duplicate makes `to` a disk of its own with the same bytes.
func (s *contents) duplicate(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.layers, to)
	return copySparse(from, to)
}

// merge moves a child's bytes and history down into its parent's file.
func (s *contents) merge(child, parent string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[parent] = s.layer(child)
	delete(s.layers, child)
	return os.Rename(child, parent)
}

func (s *contents) remove(file string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.layers, file)
	_ = os.Remove(file)
}

func (s *contents) write(file string, at int64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if at < 0 || at+int64(len(data)) > info.Size() {
		return fmt.Errorf("the disk has %d bytes", info.Size())
	}
	own := s.layer(file)
	own.written = append(own.written, writing{extent{at, int64(len(data))}, own.epoch})
	_, err = f.WriteAt(data, at)
	return err
}

// changeID names the state of a layer. Source: VirtualDisk...BackingInfo.changeId, whose form is opaque to clients.
func (s *contents) changeID(file string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.layer(file)
	return fmt.Sprintf("%s/%d", own.lineage, own.epoch)
}

var errForeignChangeID = errors.New("the change id belongs to another disk or branch")

// changed lists what was written since a change id, "*" being everything that is allocated.
func (s *contents) changed(file, id string) ([]extent, error) {
	if id == "*" {
		return allocated(file)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.layer(file)
	lineage, number, _ := strings.Cut(id, "/")
	epoch, err := strconv.Atoi(number)
	if err != nil || lineage != own.lineage || (epoch != own.epoch && !slices.Contains(own.past, epoch)) {
		return nil, errForeignChangeID
	}
	var found []extent
	for _, w := range own.written {
		if w.epoch > epoch {
			found = append(found, w.extent)
		}
	}
	return found, nil
}

// grains rounds extents to whole grains of a disk and joins those that touch.
func grains(extents []extent, capacity int64) []extent {
	var joined []extent
	slices.SortFunc(extents, func(a, b extent) int { return int(min(max(a.start-b.start, -1), 1)) })
	for _, e := range extents {
		start := e.start / grain * grain
		end := min((e.end()+grain-1)/grain*grain, capacity)
		if last := len(joined) - 1; last >= 0 && joined[last].end() >= start {
			joined[last].length = max(joined[last].end(), end) - joined[last].start
			continue
		}
		joined = append(joined, extent{start, end - start})
	}
	return joined
}

const seekData, seekHole = 3, 4 // lseek(2) of Linux

// allocated lists the parts of a sparse file that are no holes.
func allocated(file string) ([]extent, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []extent
	for at := int64(0); ; {
		start, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if at, err = f.Seek(start, seekHole); err != nil {
			return nil, err
		}
		found = append(found, extent{start, at - start})
	}
}

// copySparse copies a file and keeps its holes.
func copySparse(from, to string) error {
	extents, err := allocated(from)
	if err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := target.Truncate(info.Size()); err != nil {
		return err
	}
	for _, e := range extents {
		if _, err := io.Copy(io.NewOffsetWriter(target, e.start), io.NewSectionReader(source, e.start, e.length)); err != nil {
			return err
		}
	}
	return nil
}

// fit gives the sparse file the size that its descriptor tells; the simulator leaves it empty.
func (s *contents) fit(descriptor string) error {
	file, err := os.Open(descriptor)
	if err != nil {
		return err
	}
	defer file.Close()
	parsed, err := vmdk.ParseDescriptor(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(flatFile(descriptor))
	if err != nil {
		return err
	}
	if info.Size() >= parsed.Capacity() {
		return nil
	}
	if info.Size() == 0 { // a new disk, perhaps of an old name
		s.mu.Lock()
		delete(s.layers, flatFile(descriptor))
		s.mu.Unlock()
	}
	return os.Truncate(flatFile(descriptor), parsed.Capacity())
}

// writeDescriptor describes a flat disk, or a delta.
func writeDescriptor(descriptor, kind string, capacity int64) error {
	file, err := os.Create(descriptor)
	if err != nil {
		return err
	}
	defer file.Close()
	extent := vmdk.Extent{Type: kind, Size: capacity / vmdk.SectorSize, Info: filepath.Base(flatFile(descriptor))}
	return vmdk.NewDescriptor(extent).Write(file)
}

// datacenter is the one that an entity is in.
func (d *Double) datacenter(of types.ManagedObjectReference) *simulator.Datacenter {
	for {
		entity, ok := d.registry.Get(of).(mo.Entity)
		if !ok {
			return nil
		}
		if dc, ok := entity.(*simulator.Datacenter); ok {
			return dc
		}
		if entity.Entity().Parent == nil {
			return nil
		}
		of = *entity.Entity().Parent
	}
}

// file is the path on disk of "[datastore] dir/name", seen from an entity's datacenter; "" if there is none.
func (d *Double) file(seenFrom types.ManagedObjectReference, name string) string {
	var at object.DatastorePath
	dc := d.datacenter(seenFrom)
	if dc == nil || !at.FromString(name) {
		return ""
	}
	datastore, ok := d.registry.FindByName(at.Datastore, dc.Datastore).(*simulator.Datastore)
	if !ok {
		return ""
	}
	return filepath.Join(datastore.Summary.Url, at.Path)
}

// fitDisks gives every disk of a machine its bytes.
func (d *Double) fitDisks(vm *mo.VirtualMachine) {
	for _, disk := range flatDisks(vm.Config.Hardware.Device) {
		if file := d.file(vm.Self, backingOf(disk).FileName); file != "" {
			if err := d.contents.fit(file); err != nil && !os.IsNotExist(err) {
				fmt.Fprintln(os.Stderr, "disk content:", err)
			}
		}
	}
}
