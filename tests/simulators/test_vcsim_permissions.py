"""What the simulated vCenter keeps from its clients: missing privileges, unreadable objects, stale collectors."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from simulators.clients import connect, make, outcome, si
from simulators.vcsim import vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real

Collector = vmodl.query.PropertyCollector


def test_a_denied_privilege(si, vcsim):
    vm, other = make(si, "guarded"), make(si, "free")
    vcsim.control("deny", vm="guarded", privilege="VirtualMachine.Interact.PowerOn")
    with pytest.raises(vim.fault.NoPermission) as raised:
        vm.PowerOnVM_Task()
    assert (raised.value.object, raised.value.privilegeId) == (vm, "VirtualMachine.Interact.PowerOn")
    outcome(other.PowerOnVM_Task())
    manager, session = si.content.authorizationManager, si.content.sessionManager.currentSession.key
    told = manager.HasPrivilegeOnEntity(vm, session, ["VirtualMachine.Interact.PowerOn", "System.View"])
    assert list(told) == [False, True]
    vcsim.control("reset")
    outcome(vm.PowerOnVM_Task())


def test_a_denied_privilege_on_what_a_request_names(si, vcsim):
    vm = make(si, "cloned")
    store = vm.datastore[0]
    vcsim.control("deny", entity=store._moId, privilege="Datastore.AllocateSpace")
    location = vim.vm.RelocateSpec(datastore=store)
    with pytest.raises(vim.fault.NoPermission) as raised:
        vm.CloneVM_Task(vm.parent, "clone", vim.vm.CloneSpec(location=location))
    assert (raised.value.object, raised.value.privilegeId) == (store, "Datastore.AllocateSpace")
    for body in ({"vm": "nobody", "privilege": "x"}, {"entity": "vm-0", "privilege": "x"}, {"vm": "cloned"}):
        with pytest.raises(ValueError, match="error"):
            vcsim.control("deny", **body)


def collected(si: vim.ServiceInstance) -> dict[str, tuple[dict[str, object], list[str]]]:
    """Name and power of every machine, with what is missing."""
    view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [vim.VirtualMachine], True)
    traversal = Collector.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "runtime.powerState"])],
    )
    found = si.content.propertyCollector.RetrievePropertiesEx([spec], Collector.RetrieveOptions()).objects
    filter = si.content.propertyCollector.CreateFilter(spec, True)
    try:
        (update,) = si.content.propertyCollector.WaitForUpdatesEx("").filterSet
    finally:
        filter.Destroy()
    pushed = {
        each.obj._moId: ({change.name: change.val for change in each.changeSet}, [m.path for m in each.missingSet])
        for each in update.objectSet
    }
    asked = {
        each.obj._moId: ({p.name: p.val for p in each.propSet}, [m.path for m in each.missingSet]) for each in found
    }
    assert pushed == asked
    return asked


def test_objects_that_may_not_be_read(si, vcsim):
    unreadable, unseen = make(si, "unreadable"), make(si, "unseen")
    assert collected(si)[unreadable._moId] == ({"name": "unreadable", "runtime.powerState": "poweredOff"}, [])
    vcsim.control("deny", vm="unreadable", privilege="System.Read")
    vcsim.control("deny", vm="unseen", privilege="System.View")
    found = collected(si)
    assert found[unreadable._moId] == ({}, ["name", "runtime.powerState"])
    assert unseen._moId not in found
    for vm in (unreadable, unseen):
        with pytest.raises(vim.fault.NoPermission):
            _ = vm.name
    vcsim.control("reset")
    assert unseen.name == "unseen"


def test_versions_that_are_no_longer_good(si, vcsim):
    other = connect(vcsim)
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=make(si, "watched"))],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    collectors = [service.content.propertyCollector for service in (si, other)]
    options = Collector.WaitOptions(maxWaitSeconds=0)
    versions = []
    for collector in collectors:
        collector.CreateFilter(spec, True)
        versions.append(collector.WaitForUpdatesEx("").version)
        collector.WaitForUpdatesEx(versions[-1], options)
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        collectors[0].WaitForUpdatesEx("nonsense", options)
    vcsim.control("collectors/stale")
    for collector, version in zip(collectors, versions, strict=True):
        with pytest.raises(vmodl.query.InvalidCollectorVersion):
            collector.WaitForUpdatesEx(version, options)
        version = collector.WaitForUpdatesEx("", options).version
        collector.WaitForUpdatesEx(version, options)
    other._stub.DropConnections()


CONFIG = ["config.instanceUuid", 'config.extraConfig["owner"]']
SUMMARY = ["summary.config.instanceUuid", "summary.config.vmPathName"]


def read(si: vim.ServiceInstance, vm: vim.VirtualMachine) -> set[str]:
    """Which of some properties of a machine can be read."""
    wanted = ["name", "runtime.connectionState", *CONFIG, *SUMMARY]
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=vm)],
        propSet=[Collector.PropertySpec(type=vim.VirtualMachine, pathSet=wanted)],
    )
    (found,) = si.content.propertyCollector.RetrievePropertiesEx([spec], Collector.RetrieveOptions()).objects
    return {each.name for each in found.propSet}


@pytest.mark.parametrize(
    ("state", "kept", "lost", "fault"),
    [
        ("inaccessible", {"uuid": True}, CONFIG, vim.fault.CannotAccessVmConfig),
        ("orphaned", {}, [*CONFIG, SUMMARY[0]], vim.fault.InvalidVmState),
        ("disconnected", {"config": True}, [], vmodl.fault.HostNotConnected),
    ],
)
def test_a_machine_out_of_reach(si, vcsim, state, kept, lost, fault):
    option = vim.option.OptionValue(key="owner", value="me")
    vm = make(si, f"far-{state}", extraConfig=[option])
    everything, uid = read(si, vm), vm.config.instanceUuid
    vcsim.control("reach", vm=vm.name, state=state, **kept)
    assert everything - read(si, vm) == set(lost)
    assert vm.runtime.connectionState == state
    found = si.content.searchIndex.FindAllByUuid(None, uid, True, True)
    assert list(found or ()) == ([vm] if kept.get("config") else [])
    with pytest.raises(fault):
        outcome(vm.Destroy_Task())
    vcsim.control("reach", vm=vm.name, state="connected")
    assert read(si, vm) == everything
    vcsim.control("reach", vm=vm.name, state=state)
    vcsim.control("reset")
    assert vm.runtime.connectionState == "connected"
    outcome(vm.Destroy_Task())
    with pytest.raises(ValueError, match="is no state"):
        vcsim.control("reach", vm="DC0_H0_VM0", state="far")
