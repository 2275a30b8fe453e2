package main

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// machineFacts is one line of GET /vms.
type machineFacts struct {
	Name         string         `json:"name"`
	UUID         string         `json:"uuid"`
	InstanceUUID string         `json:"instanceUuid"`
	Power        string         `json:"power"`
	MoRef        string         `json:"moref"`
	ExtraConfig  map[string]any `json:"extraConfig"`
	// Customization is the last specification that the machine was given, in the API's JSON; absent without one.
	Customization *types.CustomizationSpec `json:"customization,omitempty"`
}

func (d *Double) list() []machineFacts {
	facts := []machineFacts{}
	customized := d.customizations()
	for _, vm := range d.machines() {
		d.registry.WithLock(&simulator.Context{Map: d.registry}, vm, func() {
			extra := map[string]any{}
			for _, option := range vm.Config.ExtraConfig {
				extra[option.GetOptionValue().Key] = option.GetOptionValue().Value
			}
			facts = append(facts, machineFacts{
				vm.Name, vm.Config.Uuid, vm.Config.InstanceUuid, string(vm.Runtime.PowerState), vm.Self.Value, extra, nil,
			})
			if spec, ok := customized[vm.Self]; ok {
				facts[len(facts)-1].Customization = &spec
			}
		})
	}
	return facts
}

// deed is something that another admin does; no rule of the double stops it.
type deed struct {
	VM   string `json:"vm"`
	Act  string `json:"act"`  // power_on, power_off, remove, unregister, rename, reconfigure
	Name string `json:"name"` // of rename
	CPUs int32  `json:"cpus"` // of reconfigure
	// Extra are the extraConfig keys of reconfigure; an empty value removes the key.
	Extra map[string]string `json:"extra_config"`
}

func (d *Double) act(wanted deed) (any, error) {
	found, err := d.find(wanted.VM)
	if err != nil {
		return nil, err
	}
	ctx := inside()
	client, err := vim25.NewClient(ctx, d.service)
	if err != nil {
		return nil, err
	}
	return nil, wanted.do(ctx, object.NewVirtualMachine(client, found.Self), found)
}

func (w deed) do(ctx context.Context, vm *object.VirtualMachine, found *simulator.VirtualMachine) error {
	switch w.Act {
	case "power_on":
		return wait(ctx)(vm.PowerOn(ctx))
	case "power_off":
		return wait(ctx)(vm.PowerOff(ctx))
	case "remove":
		if found.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
			if err := wait(ctx)(vm.PowerOff(ctx)); err != nil {
				return err
			}
		}
		return wait(ctx)(vm.Destroy(ctx))
	case "unregister":
		return vm.Unregister(ctx)
	case "rename":
		return wait(ctx)(vm.Rename(ctx, w.Name))
	case "reconfigure":
		spec := types.VirtualMachineConfigSpec{NumCPUs: w.CPUs}
		for key, value := range w.Extra {
			spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: key, Value: value})
		}
		return wait(ctx)(vm.Reconfigure(ctx, spec))
	}
	return fmt.Errorf("no act %q", w.Act)
}

func wait(ctx context.Context) func(*object.Task, error) error {
	return func(task *object.Task, err error) error {
		if err != nil {
			return err
		}
		return task.Wait(ctx)
	}
}
