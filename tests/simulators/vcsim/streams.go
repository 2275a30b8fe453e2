package main

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/vmware/govmomi/vmdk"
)

// The streamOptimized format. Source: VMware "Virtual Disk Format 5.0", chapter "Stream-Optimized Compressed Sparse
// Extents"; govmomi's own writer aligns nothing.

const (
	sector        = vmdk.SectorSize
	tableEntries  = 512
	headSectors   = 128 // header, descriptor and padding
	markerTable   = 1
	markerFolder  = 2
	markerFooter  = 3
	directoryLast = ^uint64(0) // gdOffset: the grain directory comes at the end
	streamFlags   = vmdk.SparseFlagCompressed | vmdk.SparseFlagEmbeddedLBA
)

var errNotStream = errors.New("not a streamOptimized VMDK")

func padded(size int64) int64 { return (size + sector - 1) / sector * sector }

// writeStream encodes a disk of `capacity` bytes.
func writeStream(w io.Writer, disk io.ReaderAt, capacity int64) error {
	out := &counting{w: bufio.NewWriterSize(w, 1<<20)}
	header := vmdk.SparseExtentHeaderOnDisk{
		MagicNumber: vmdk.SparseMagicNumber, Version: vmdk.SparseVersionIncompatFlags,
		Flags: streamFlags | vmdk.SparseFlagValidNewlineDetector, Capacity: uint64(padded(capacity) / sector),
		GrainSize: vmdk.GrainSize, DescriptorOffset: 1, DescriptorSize: 20, NumGTEsPerGT: tableEntries,
		GDOffset: directoryLast, Overhead: headSectors, SingleEndLine: '\n', NonEndLine: ' ',
		DoubleEndLineChar1: '\r', DoubleEndLineChar2: '\n', CompressAlgorithm: 1,
	}
	descriptor := vmdk.NewDescriptor(vmdk.Extent{Size: int64(header.Capacity), Type: "SPARSE", Info: "disk.vmdk"})
	descriptor.Type, descriptor.CID, descriptor.ParentCID = "streamOptimized", 0x5eed, 0xffffffff
	out.value(&header)
	if err := descriptor.Write(out); err != nil {
		return err
	}
	out.pad(headSectors * sector)

	var directory []uint32
	count := (capacity + grain - 1) / grain
	for first := int64(0); first < count; first += tableEntries {
		table, used := make([]uint32, tableEntries), false
		for i := first; i < min(first+tableEntries, count); i++ {
			place, err := out.grain(disk, i, capacity)
			if err != nil {
				return err
			}
			table[i-first], used = place, used || place != 0
		}
		if !used {
			directory = append(directory, 0)
			continue
		}
		directory = append(directory, out.marked(markerTable, table))
	}
	header.GDOffset = uint64(out.marked(markerFolder, directory))
	out.marker(1, markerFooter)
	out.value(&header)
	out.marker(0, vmdk.GrainMarkerEndOfStream)
	if out.err != nil {
		return out.err
	}
	return out.w.Flush()
}

// counting knows where in the stream it is, and keeps the first error.
type counting struct {
	w   *bufio.Writer
	at  int64
	err error
}

func (c *counting) Write(content []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(content)
	c.at, c.err = c.at+int64(n), err
	return n, err
}

func (c *counting) value(value any) {
	if c.err == nil {
		c.err = binary.Write(c, binary.LittleEndian, value)
	}
}

func (c *counting) pad(to int64) { _, _ = c.Write(make([]byte, to-c.at)) }

func (c *counting) marker(sectors uint64, kind uint32) {
	c.value(&vmdk.SparseMetaDataMarkerOnDisk{NumSectors: sectors, SectorType: kind})
}

// marked writes a table behind its marker and answers its sector.
func (c *counting) marked(kind uint32, table []uint32) uint32 {
	size := padded(int64(4 * len(table)))
	c.marker(uint64(size/sector), kind)
	place := c.at
	c.value(table)
	c.pad(place + size)
	return uint32(place / sector)
}

// grain writes one grain and answers its sector, 0 for one without content.
func (c *counting) grain(disk io.ReaderAt, number, capacity int64) (uint32, error) {
	raw := make([]byte, grain)
	if _, err := disk.ReadAt(raw[:min(grain, capacity-number*grain)], number*grain); err != nil && err != io.EOF {
		return 0, err
	}
	if len(bytes.Trim(raw, "\x00")) == 0 {
		return 0, c.err
	}
	var packed bytes.Buffer
	squeeze := zlib.NewWriter(&packed)
	_, _ = squeeze.Write(raw) // a buffer takes everything
	_ = squeeze.Close()
	place := c.at
	c.value(&vmdk.SparseGrainLBAHeaderOnDisk{Lba: uint64(number * grain / sector), CmpSize: uint32(packed.Len())})
	_, _ = c.Write(packed.Bytes())
	c.pad(padded(c.at))
	return uint32(place / sector), c.err
}

// readStream decodes a stream and hands over each grain that it holds; the answer is the disk's capacity.
func readStream(r io.Reader, limit int64, put func(at int64, data []byte) error) (int64, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	var header vmdk.SparseExtentHeaderOnDisk
	if err := binary.Read(in, binary.LittleEndian, &header); err != nil {
		return 0, errNotStream
	}
	if header.MagicNumber != vmdk.SparseMagicNumber || header.Flags&streamFlags != streamFlags || header.CompressAlgorithm != 1 {
		return 0, errNotStream
	}
	capacity := int64(header.Capacity) * sector
	if capacity > limit {
		return 0, fmt.Errorf("the stream's disk has %d bytes, the machine's %d", capacity, limit)
	}
	if _, err := in.Discard(int(header.Overhead-1) * sector); err != nil {
		return 0, err
	}
	for {
		var mark vmdk.SparseGrainLBAHeaderOnDisk
		if err := binary.Read(in, binary.LittleEndian, &mark); err != nil {
			return 0, fmt.Errorf("no end of stream: %w", err)
		}
		if mark.CmpSize == 0 {
			var kind uint32
			if err := binary.Read(in, binary.LittleEndian, &kind); err != nil {
				return 0, err
			}
			if kind == vmdk.GrainMarkerEndOfStream {
				_, err := io.Copy(io.Discard, in)
				return capacity, err
			}
			if _, err := in.Discard(sector - 16 + int(mark.Lba)*sector); err != nil {
				return 0, err
			}
			continue
		}
		packed := make([]byte, padded(int64(mark.CmpSize)+12)-12)
		if _, err := io.ReadFull(in, packed); err != nil {
			return 0, err
		}
		unpack, err := zlib.NewReader(bytes.NewReader(packed[:mark.CmpSize]))
		if err != nil {
			return 0, err
		}
		raw, err := io.ReadAll(unpack)
		if err != nil {
			return 0, err
		}
		at := int64(mark.Lba) * sector
		if at+int64(len(raw)) > capacity { // the last grain reaches over the end
			raw = raw[:max(capacity-at, 0)]
		}
		if err := put(at, raw); err != nil {
			return 0, err
		}
	}
}
