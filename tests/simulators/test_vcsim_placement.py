"""Where the simulated vCenter puts machines: Storage DRS and the rules of DRS."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulators.clients import MIB, connect, disks, make, outcome, si, until, with_disks
from simulators.vcsim import Vcsim, own_vcsim, vcsim

__all__ = ["own_vcsim", "si", "vcsim"]

pytestmark = pytest.mark.real


def folders(si: vim.ServiceInstance) -> tuple[vim.Datacenter, vim.ClusterComputeResource]:
    datacenter = si.content.rootFolder.childEntity[0]
    clusters = [each for each in datacenter.hostFolder.childEntity if isinstance(each, vim.ClusterComputeResource)]
    return datacenter, clusters[0]


def placement(si: vim.ServiceInstance, pod: vim.StoragePod, **spec: Any) -> vim.storageDrs.StoragePlacementSpec:
    datacenter, cluster = folders(si)
    return vim.storageDrs.StoragePlacementSpec(
        podSelectionSpec=vim.storageDrs.PodSelectionSpec(storagePod=pod),
        folder=datacenter.vmFolder,
        resourcePool=cluster.resourcePool,
        **spec,
    )


@pytest.fixture
def pod(own_vcsim: Vcsim) -> Any:
    service = connect(own_vcsim)
    datacenter, _ = folders(service)
    pod = datacenter.datastoreFolder.CreateStoragePod("pod")
    enable = vim.storageDrs.ConfigSpec(podConfigSpec=vim.storageDrs.PodConfigSpec(enabled=True))
    outcome(service.content.storageResourceManager.ConfigureStorageDrsForPod_Task(pod, enable, True))
    outcome(pod.MoveIntoFolder_Task(list(datacenter.datastore)))
    yield service, pod
    service._stub.DropConnections()


def test_a_machine_is_created_where_there_is_room(own_vcsim, pod):
    service, pod = pod
    manager = service.content.storageResourceManager
    config = vim.vm.ConfigSpec(
        name="placed", numCPUs=1, memoryMB=64, guestId="otherGuest64", deviceChange=with_disks(8 * MIB)
    )
    wish = placement(service, pod, type="create", configSpec=config)
    (advice,) = manager.RecommendDatastores(wish).recommendations
    assert advice.action[0].destination.name == "LocalDS_0"
    assert advice.action[0].relocateSpec.datastore == advice.action[0].destination
    task = manager.ApplyStorageDrsRecommendation_Task([advice.key])
    made = outcome(task).vm
    assert task.info.entity == pod
    assert (made.name, [store.name for store in made.datastore]) == ("placed", ["LocalDS_0"])
    assert disks(made.config)[0].backing.fileName.startswith("[LocalDS_0] placed/")
    with pytest.raises(vmodl.fault.InvalidArgument):
        manager.ApplyStorageDrsRecommendation_Task([advice.key])
    own_vcsim.control("datastore", name="LocalDS_0", free=MIB)
    answer = manager.RecommendDatastores(wish)
    assert list(answer.recommendations) == []
    assert isinstance(answer.drsFault.faultsByVm[0].fault[0], vim.fault.InsufficientStorageSpace)


def test_a_clone_is_placed_too(own_vcsim, pod):
    service, pod = pod
    source = make(service, "source", deviceChange=with_disks(MIB))
    manager = service.content.storageResourceManager
    wish = placement(
        service,
        pod,
        type="clone",
        vm=source,
        cloneName="placed-clone",
        cloneSpec=vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=True),
    )
    own_vcsim.control("storage_drs", none=True)
    assert manager.RecommendDatastores(wish).drsFault.reason == "storagePlacement"
    own_vcsim.control("storage_drs", first="LocalDS_0")
    advice = manager.RecommendDatastores(wish).recommendations[0]
    made = outcome(manager.ApplyStorageDrsRecommendation_Task([advice.key])).vm
    assert (made.name, made.runtime.powerState) == ("placed-clone", "poweredOn")
    own_vcsim.control("datastore", name="LocalDS_0", maintenance="inMaintenance")
    assert list(manager.RecommendDatastores(wish).recommendations) == []
    wish.cloneName = None
    with pytest.raises(vmodl.fault.InvalidArgument):
        manager.RecommendDatastores(wish)


def rules(cluster: vim.ClusterComputeResource) -> list[vim.cluster.RuleInfo]:
    return list(cluster.configurationEx.rule)


def change(cluster: vim.ClusterComputeResource, operation: str, **spec: Any) -> None:
    rule = vim.cluster.RuleSpec(operation=operation, **spec)
    outcome(cluster.ReconfigureComputeResource_Task(vim.cluster.ConfigSpecEx(rulesSpec=[rule]), True))


def test_rules_are_edited_by_key_and_forget_machines(si):
    _, cluster = folders(si)
    pool = cluster.resourcePool
    one, two, three = (make(si, f"ruled-{number}", pool=pool) for number in range(3))
    change(cluster, "add", info=vim.cluster.AntiAffinityRuleSpec(name="apart", enabled=True, vm=[one, two]))
    (rule,) = rules(cluster)
    rule.name, rule.vm = "far apart", [one, two, three]
    change(cluster, "edit", info=rule)
    (edited,) = rules(cluster)
    assert (edited.key, edited.name, len(edited.vm)) == (rule.key, "far apart", 3)
    rule.key = 999
    with pytest.raises(vmodl.fault.InvalidArgument):
        change(cluster, "edit", info=rule)
    outcome(three.Destroy_Task())
    until(lambda: list(rules(cluster)[0].vm) == [one, two], "the rule remembers a machine that is gone")
    change(cluster, "remove", removeKey=edited.key)
    assert rules(cluster) == []


def test_power_on_obeys_rules(si, vcsim):
    _, cluster = folders(si)
    hosts = list(cluster.host)
    machines = [make(si, f"apart-{number}", pool=cluster.resourcePool) for number in range(len(hosts) + 1)]
    change(cluster, "add", info=vim.cluster.AntiAffinityRuleSpec(name="all apart", enabled=True, vm=machines))
    vcsim.control("behaviours", drs_rules=True)
    for vm in machines[:-1]:
        outcome(vm.PowerOnVM_Task())
    assert len({vm.runtime.host for vm in machines[:-1]}) == len(hosts)
    with pytest.raises(vim.fault.RuleViolation) as raised:
        outcome(machines[-1].PowerOnVM_Task())
    assert raised.value.rule.name == "all apart"
    vcsim.control("behaviours", drs_rules=False)
    outcome(machines[-1].PowerOnVM_Task())
