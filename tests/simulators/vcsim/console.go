package main

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"path"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	checks["AcquireTicket"] = append(checks["AcquireTicket"], poweredOn)
	checks["CreateScreenshot_Task"] = append(checks["CreateScreenshot_Task"], poweredOn)
	replacements["AcquireTicket"] = acquireTicket
	replacements["CreateScreenshot_Task"] = createScreenshot
}

func poweredOn(c *call) types.BaseMethodFault {
	if state := c.machine().Runtime.PowerState; state != types.VirtualMachinePowerStatePoweredOn {
		return &types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: state}
	}
	return nil
}

// acquireTicket gives a ticket; nobody listens at its address. Source: VirtualMachine.AcquireTicket,
// VirtualMachineTicket; the URL is only set for webmks.
func acquireTicket(c *call) soap.HasFault {
	request := c.body.(*types.AcquireTicket)
	ticket := types.VirtualMachineTicket{
		Ticket: uuid.NewString(), CfgFile: c.machine().Config.Files.VmPathName, Host: c.double.service.Listen.Hostname(), Port: 902,
		SslThumbprint: c.double.thumbprint(),
	}
	switch types.VirtualMachineTicketType(request.TicketType) {
	case types.VirtualMachineTicketTypeWebmks:
		ticket.Port = 443
		ticket.Url = fmt.Sprintf("wss://%s:443/ticket/%s", ticket.Host, ticket.Ticket)
	case types.VirtualMachineTicketTypeMks:
	default:
		return refuse(&types.InvalidArgument{InvalidProperty: "ticketType"})
	}
	return &methods.AcquireTicketBody{Res: &types.AcquireTicketResponse{Returnval: ticket}}
}

// createScreenshot writes a black PNG beside the machine's files, NAME-1.png, NAME-2.png and so on. Source:
// CreateScreenshot_Task, "info.result is the datastore path of the screenshot"; /folder serves it.
func createScreenshot(c *call) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		vm := c.machine()
		var at object.DatastorePath
		at.FromString(vm.Config.Files.VmPathName)
		directory := path.Dir(at.Path)
		datastore, ok := c.double.registry.FindByName(at.Datastore, vm.Datastore).(*simulator.Datastore)
		if !ok {
			return nil, &types.InvalidDatastore{Name: at.Datastore}
		}
		for number := 1; ; number++ {
			at.Path = path.Join(directory, fmt.Sprintf("%s-%d.png", vm.Name, number))
			if _, err := os.Stat(filepath.Join(datastore.Summary.Url, at.Path)); os.IsNotExist(err) {
				break
			}
		}
		var picture bytes.Buffer
		if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 720, 400))); err != nil {
			return nil, &types.FileFault{File: at.String()}
		}
		if err := os.WriteFile(filepath.Join(datastore.Summary.Url, at.Path), picture.Bytes(), 0o600); err != nil {
			return nil, &types.FileFault{File: at.String()}
		}
		return at.String(), nil
	})
}
