package main

import (
	"encoding/base64"
	"fmt"
	"os"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// areasPerAnswer is how many changed areas one answer holds at most, so that clients must ask on; a real one has a
// limit too. Source: DiskChangeInfo.length, "the length of the area that is covered by this answer".
const areasPerAnswer = 8

func init() {
	replacements["QueryChangedDiskAreas"] = changedAreas
}

// changedAreas answers what was written between a change id and a snapshot. Source:
// VirtualMachine.QueryChangedDiskAreas: "*" is what is allocated; FileFault without change tracking, InvalidArgument
// for a change id or device that does not fit.
func changedAreas(c *call) soap.HasFault {
	request, vm := c.body.(*types.QueryChangedDiskAreas), c.machine()
	devices, tracked := vm.Config.Hardware.Device, vm.Config.ChangeTrackingEnabled
	if request.Snapshot != nil {
		config := c.double.registry.Get(*request.Snapshot).(*simulator.VirtualMachineSnapshot).Config
		devices, tracked = config.Hardware.Device, config.ChangeTrackingEnabled
	}
	for _, disk := range flatDisks(devices) {
		if disk.Key != request.DeviceKey {
			continue
		}
		backing := backingOf(disk)
		if !isTrue(tracked) {
			return refuse(&types.FileFault{File: backing.FileName})
		}
		if request.StartOffset < 0 || request.StartOffset >= disk.CapacityInBytes {
			return refuse(&types.InvalidArgument{InvalidProperty: "startOffset"})
		}
		found, err := c.double.contents.changed(flatFile(c.double.file(vm.Self, backing.FileName)), request.ChangeId)
		if err != nil {
			return refuse(&types.InvalidArgument{InvalidProperty: "changeId"})
		}
		info := changeInfo(grains(found, disk.CapacityInBytes), request.StartOffset, disk.CapacityInBytes)
		return &methods.QueryChangedDiskAreasBody{Res: &types.QueryChangedDiskAreasResponse{Returnval: info}}
	}
	return refuse(&types.InvalidArgument{InvalidProperty: "deviceKey"})
}

func changeInfo(areas []extent, start, capacity int64) types.DiskChangeInfo {
	info := types.DiskChangeInfo{StartOffset: start, Length: capacity - start}
	for _, area := range areas {
		if area.end() <= start {
			continue
		}
		if len(info.ChangedArea) == areasPerAnswer {
			info.Length = area.start - start
			break
		}
		from := max(area.start, start)
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: from, Length: area.end() - from})
	}
	return info
}

// diskSpot names bytes of a machine's disk: what the guest would read or write.
type diskSpot struct {
	VM     string `json:"vm"`
	Disk   int    `json:"disk"`  // which of the machine's disks, from 0
	Label  string `json:"label"` // instead of the number: deviceInfo.label
	Offset int64  `json:"offset"`
	Length int64  `json:"length"` // of disk/read
	Data   string `json:"data"`   // of disk/write, base64
}

func (d *Double) spot(at diskSpot) (string, error) {
	vm, err := d.find(at.VM)
	if err != nil {
		return "", err
	}
	for i, disk := range flatDisks(vm.Config.Hardware.Device) {
		label := disk.DeviceInfo.GetDescription().Label
		if (at.Label == "" && i == at.Disk) || (at.Label != "" && at.Label == label) {
			return flatFile(d.file(vm.Self, backingOf(disk).FileName)), nil
		}
	}
	return "", fmt.Errorf("%s has no disk %d %q", at.VM, at.Disk, at.Label)
}

func (d *Double) writeDisk(at diskSpot) (any, error) {
	file, err := d.spot(at)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(at.Data)
	if err != nil {
		return nil, err
	}
	return nil, d.contents.write(file, at.Offset, data)
}

func (d *Double) readDisk(at diskSpot) (any, error) {
	file, err := d.spot(at)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, at.Length)
	if _, err := f.ReadAt(data, at.Offset); err != nil {
		return nil, err
	}
	return base64.StdEncoding.EncodeToString(data), nil
}
