package main

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["ReconfigureComputeResource_Task"] = reconfigureCluster
	checks["PowerOnVM_Task"] = append(checks["PowerOnVM_Task"], rulesAllow)
}

// reconfigureCluster edits rules by their key; the simulator looks for the name, which an edit may change. Source:
// ClusterRuleSpec, ClusterRuleInfo.key "unique identifier for the rule".
func reconfigureCluster(c *call) soap.HasFault {
	cluster, ok := c.target.(*simulator.ClusterComputeResource)
	request := c.body.(*types.ReconfigureComputeResource_Task)
	spec, known := request.Spec.(*types.ClusterConfigSpecEx)
	if !ok || !known {
		return c.original()
	}
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		config := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx)
		var others []types.ClusterRuleSpec
		for _, change := range spec.RulesSpec {
			if change.Operation != types.ArrayUpdateOperationEdit {
				others = append(others, change)
				continue
			}
			want := change.Info.GetClusterRuleInfo()
			at := slices.IndexFunc(config.Rule, func(rule types.BaseClusterRuleInfo) bool {
				return rule.GetClusterRuleInfo().Key == want.Key
			})
			if at < 0 {
				return nil, &types.InvalidArgument{InvalidProperty: "rulesSpec.info.key"}
			}
			want.RuleUuid = config.Rule[at].GetClusterRuleInfo().RuleUuid
			config.Rule[at] = change.Info
		}
		rest := *spec
		rest.RulesSpec = others
		request.Spec = &rest
		result, fault := c.outcome(c.original())
		c.double.registry.Update(c.ctx, cluster, []types.PropertyChange{{Name: "configurationEx", Val: cluster.ConfigurationEx}})
		return result, fault
	})
}

// forgetInRules takes a machine that is gone out of every rule, as a vCenter does.
func (d *Double) forgetInRules(vm types.ManagedObjectReference) {
	ctx := &simulator.Context{Map: d.registry}
	for _, entity := range d.registry.All("ClusterComputeResource") {
		cluster := entity.(*simulator.ClusterComputeResource)
		d.registry.WithLock(ctx, cluster, func() {
			config, ok := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx)
			if !ok {
				return
			}
			changed := false
			for _, rule := range config.Rule {
				if members := membersOf(rule); members != nil && slices.Contains(*members, vm) {
					simulator.RemoveReference(members, vm)
					changed = true
				}
			}
			if changed {
				d.registry.Update(ctx, cluster, []types.PropertyChange{{Name: "configurationEx", Val: config}})
			}
		})
	}
}

func membersOf(rule types.BaseClusterRuleInfo) *[]types.ManagedObjectReference {
	switch own := rule.(type) {
	case *types.ClusterAffinityRuleSpec:
		return &own.Vm
	case *types.ClusterAntiAffinityRuleSpec:
		return &own.Vm
	}
	return nil
}

// rulesAllow finds a host that the cluster's rules between machines allow, and moves the machine there; without one
// the power-on is refused. Source: fault RuleViolation, ClusterAffinityRuleSpec, ClusterAntiAffinityRuleSpec.
func rulesAllow(c *call) types.BaseMethodFault {
	vm := c.machine()
	if vm == nil || !c.double.enabled("drs_rules") {
		return nil
	}
	host, _ := c.double.registry.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	cluster, ok := c.double.registry.Get(*host.Parent).(*simulator.ClusterComputeResource)
	if !ok {
		return nil
	}
	var broken types.BaseClusterRuleInfo
	candidates := append([]types.ManagedObjectReference{host.Self}, cluster.Host...)
	for _, candidate := range candidates {
		if broken = c.double.breaks(cluster, vm.Self, candidate); broken == nil {
			if candidate != host.Self {
				c.double.moveTo(c.ctx, vm, host, candidate)
			}
			return nil
		}
	}
	return &types.RuleViolation{VmConfigFault: types.VmConfigFault{}, Host: &host.Self, Rule: broken}
}

// breaks is a rule that the machine would break on that host, nil for none.
func (d *Double) breaks(cluster *simulator.ClusterComputeResource, vm, host types.ManagedObjectReference) types.BaseClusterRuleInfo {
	for _, rule := range cluster.ConfigurationEx.(*types.ClusterConfigInfoEx).Rule {
		members := membersOf(rule)
		if members == nil || !isTrue(rule.GetClusterRuleInfo().Enabled) || !slices.Contains(*members, vm) {
			continue
		}
		_, together := rule.(*types.ClusterAffinityRuleSpec)
		for _, ref := range *members {
			other, ok := d.registry.Get(ref).(*simulator.VirtualMachine)
			if !ok || ref == vm || other.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
				continue
			}
			if (*other.Runtime.Host == host) != together {
				return rule
			}
		}
	}
	return nil
}

func (d *Double) moveTo(ctx *simulator.Context, vm *simulator.VirtualMachine, from *simulator.HostSystem, to types.ManagedObjectReference) {
	target := d.registry.Get(to).(*simulator.HostSystem)
	d.registry.RemoveReference(ctx, from, &from.Vm, vm.Self)
	d.registry.AppendReference(ctx, target, &target.Vm, vm.Self)
	d.registry.Update(ctx, vm, []types.PropertyChange{
		{Name: "runtime.host", Val: &to}, {Name: "summary.runtime.host", Val: &to},
	})
}
