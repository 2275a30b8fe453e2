"""The simulated vCenter keeps what README.md promises, seen through pyvmomi."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from pyVim.connect import Disconnect
from pyVmomi import vim, vmodl

from simulators.clients import LIMIT, MIB, connect, disks, folder, machine, make, outcome, si, until, with_disks
from simulators.vcsim import Vcsim, own_vcsim, start_vcsim, vcsim

__all__ = ["own_vcsim", "si", "vcsim"]

pytestmark = pytest.mark.real


def test_whole_structures_decode(si):
    """pyvmomi fails on the whole of `runtime` and `summary` when an enumeration comes empty."""
    vm = make(si, "decodes")
    assert vm.runtime.powerState == "poweredOff"
    assert vm.summary.runtime.faultToleranceState == "notConfigured"
    assert vm.config.name == "decodes"
    assert si.content.about.apiVersion == "8.0.3.0"


def test_one_name_per_folder(si, vcsim):
    first = make(si, "twin")
    with pytest.raises(vim.fault.DuplicateName) as raised:
        make(si, "twin")
    assert raised.value.object == first
    vcsim.control("behaviours", duplicate_name=False)
    assert make(si, "twin") != first


def test_stale_change_version(si):
    vm = make(si, "versions")
    old = vm.config.changeVersion
    outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="a", changeVersion=old)))
    with pytest.raises(vim.fault.ConcurrentAccess):
        outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="b", changeVersion=old)))
    assert vm.config.annotation == "a"


def test_hot_plug_needs_its_flags(si):
    vm = make(si, "plain")
    outcome(vm.PowerOnVM_Task())
    for spec, fault in [
        (vim.vm.ConfigSpec(numCPUs=2), vim.fault.CpuHotPlugNotSupported),
        (vim.vm.ConfigSpec(memoryMB=128), vim.fault.MemoryHotPlugNotSupported),
        (vim.vm.ConfigSpec(cpuHotAddEnabled=True), vim.fault.InvalidPowerState),
    ]:
        with pytest.raises(fault):
            outcome(vm.ReconfigVM_Task(spec))
    assert (vm.config.hardware.numCPU, vm.config.hardware.memoryMB) == (1, 64)
    hot = make(si, "hot", cpuHotAddEnabled=True, memoryHotAddEnabled=True)
    outcome(hot.PowerOnVM_Task())
    outcome(hot.ReconfigVM_Task(vim.vm.ConfigSpec(numCPUs=2, memoryMB=128)))
    assert (hot.config.hardware.numCPU, hot.config.hardware.memoryMB) == (2, 128)


def test_guest_shutdown_needs_tools_and_may_be_deaf(si, vcsim):
    vm = make(si, "guest")
    outcome(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.ToolsUnavailable):
        vm.ShutdownGuest()
    vcsim.control("guest", vm="guest", tools="guestToolsRunning")
    vcsim.control("shutdown", mode="deaf")
    vm.ShutdownGuest()
    assert vm.runtime.powerState == "poweredOn"
    vcsim.control("shutdown", mode="obey")
    vm.ShutdownGuest()
    until(lambda: vm.runtime.powerState == "poweredOff", "guest did not shut down")
    assert vm.guest.toolsRunningStatus == "guestToolsNotRunning"


def test_guest_facts_now_and_at_boot(si, vcsim):
    vm = make(si, "facts")
    net = [{"mac": "00:50:56:00:00:01", "network": "VM Network", "ips": ["192.0.2.7"]}]
    facts = {"vm": vm.config.uuid, "ip": "192.0.2.7", "host_name": "h", "tools": "guestToolsRunning", "net": net}
    vcsim.control("guest", on_boot=True, **facts)
    assert vm.guest.ipAddress is None
    outcome(vm.PowerOnVM_Task())
    assert (vm.guest.ipAddress, vm.guest.hostName, vm.guest.toolsRunningStatus) == (
        "192.0.2.7",
        "h",
        "guestToolsRunning",
    )
    assert vm.guest.net[0].ipAddress == ["192.0.2.7"]


def test_slow_clone_moves_and_cancels_without_a_trace(si, vcsim):
    source = make(si, "source")
    vcsim.control("slow", method="CloneVM_Task", seconds=60, progress=True)
    task = source.CloneVM_Task(source.parent, "never", vim.vm.CloneSpec(location=vim.vm.RelocateSpec()))
    until(lambda: task.info.progress, "no progress yet")
    assert (task.info.state, task.info.cancelable) == ("running", True)
    with pytest.raises(vim.fault.TaskInProgress) as raised:
        outcome(source.PowerOnVM_Task())
    assert raised.value.task == task
    task.CancelTask()
    with pytest.raises(vmodl.fault.RequestCanceled):
        outcome(task)
    assert "never" not in vcsim.vms()
    outcome(source.PowerOnVM_Task())


def test_a_filter_that_is_made_during_a_wait_tells_of_a_task_that_has_ended(si, vcsim):
    """Nothing changes after that, so nothing else would wake the collector."""
    collector = si.content.propertyCollector.CreatePropertyCollector()
    machine_ = make(si, "quiet")
    task = machine_.PowerOnVM_Task()
    outcome(task)
    options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=20)
    collector.CreateFilter(states_of(machine_, "runtime.powerState"), False)
    version = collector.WaitForUpdatesEx("", options).version
    found = []
    waiting = threading.Thread(target=lambda: found.append(collector.WaitForUpdatesEx(version, options)))
    vcsim.control("requests/reset")
    waiting.start()
    until(lambda: vcsim.requests().get("WaitForUpdatesEx"), "it does not wait")
    collector.CreateFilter(states_of(task, "info.state"), False)
    waiting.join(10)
    assert [(each.obj, each.changeSet[0].val) for each in found[0].filterSet[0].objectSet] == [(task, "success")]
    collector.Destroy()


def states_of(target, path):
    """A filter on one property of one object."""
    return vmodl.query.PropertyCollector.FilterSpec(
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=type(target), pathSet=[path])],
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=target)],
    )


def test_released_clone_ends_with_its_machine(si, vcsim):
    source = make(si, "origin")
    vcsim.control("slow", method="CloneVM_Task", cancelable=False)
    task = source.CloneVM_Task(source.parent, "copy", vim.vm.CloneSpec(location=vim.vm.RelocateSpec()))
    with pytest.raises(vmodl.fault.NotSupported):
        task.CancelTask()
    assert vcsim.control("slow/release") == 1
    assert outcome(task).name == "copy"
    assert vcsim.vms()["copy"]["power"] == "poweredOff"


@pytest.mark.parametrize("in_task", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        "NoPermission",
        "NotEnoughLicenses",
        "InsufficientResourcesFault",
        "InvalidDatastore",
        "InvalidPowerState",
        "TaskInProgress",
        "NotAuthenticated",
        "HostNotConnected",
        "FileLocked",
    ],
)
def test_faults_on_demand(si, vcsim, fault, in_task):
    vm = machine(si, "DC0_H0_VM0")
    kind = getattr(vim.fault, fault, None) or getattr(vmodl.fault, fault, None)
    vcsim.control("faults", method="PowerOnVM_Task", fault=fault, in_task=in_task)
    with pytest.raises(kind):
        outcome(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOff"
    outcome(vm.PowerOnVM_Task())
    outcome(vm.PowerOffVM_Task())


def test_fault_fields_and_machine(si, vcsim):
    vm, other = make(si, "denied"), make(si, "allowed")
    fields = {"privilegeId": "VirtualMachine.Interact.PowerOn"}
    vcsim.control("faults", method="PowerOnVM_Task", fault="NoPermission", fields=fields, vm="denied", count=0)
    outcome(other.PowerOnVM_Task())
    for _ in range(2):
        with pytest.raises(vim.fault.NoPermission) as raised:
            vm.PowerOnVM_Task()
        assert (raised.value.privilegeId, raised.value.object) == ("VirtualMachine.Interact.PowerOn", vm)


def test_unknown_requests_are_refused(vcsim):
    for name, body in [
        ("faults", {"method": "PowerOnVM_Task", "fault": "NoSuchFault"}),
        ("behaviours", {"nonsense": True}),
        ("guest", {"vm": "nobody"}),
        ("shutdown", {"mode": "rude"}),
    ]:
        with pytest.raises(ValueError, match="error"):
            vcsim.control(name, **body)


def test_dropped_sessions(si, vcsim):
    vm = machine(si, "DC0_H0_VM0")
    waited: list[Exception] = []
    collector = si.content.propertyCollector
    spec = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=vm)],
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    collector.CreateFilter(spec, True)
    version = collector.WaitForUpdatesEx("").version
    vcsim.control("requests/reset")

    def wait() -> None:
        try:
            collector.WaitForUpdatesEx(version)
        except vim.fault.NotAuthenticated as error:
            waited.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: vcsim.requests().get("WaitForUpdatesEx"), "nobody waits")
    assert vcsim.control("sessions/drop") >= 1
    thread.join(LIMIT)
    assert len(waited) == 1
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = vm.name
    again = connect(vcsim)
    assert machine(again, "DC0_H0_VM0") == vm
    Disconnect(again)


def test_idle_sessions_end(si, vcsim):
    vcsim.control("sessions/idle", seconds=0.2)
    vm = machine(si, "DC0_H0_VM0")
    other = connect(vcsim)  # LastActiveTime of the first one does not move by this
    time.sleep(0.6)  # the behaviour is the passing of time itself
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = vm.name
    Disconnect(other)


def test_lost_reply_is_work_done(si, vcsim):
    folder = si.content.rootFolder.childEntity[0].vmFolder
    vcsim.control("lose_reply", method="CreateFolder")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        folder.CreateFolder("lost")
    assert "lost" in [child.name for child in folder.childEntity]


def test_hung_calls_wait_for_their_release(si, vcsim):
    vm = machine(si, "DC0_H0_VM0")
    vcsim.control("hang", method="RefreshStorageInfo")
    thread = threading.Thread(target=vm.RefreshStorageInfo)
    thread.start()
    until(lambda: vcsim.held().get("RefreshStorageInfo"), "nothing hangs")
    vcsim.control("release", method="RefreshStorageInfo")
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_another_admin(si, vcsim):
    vm = make(si, "mine")
    outcome(vm.PowerOnVM_Task())
    uuid = vcsim.vms()["mine"]["instanceUuid"]
    vcsim.control("act", vm=uuid, act="power_off")
    assert vm.runtime.powerState == "poweredOff"
    vcsim.control("act", vm=uuid, act="rename", name="theirs")
    vcsim.control("act", vm=uuid, act="reconfigure", cpus=2, extra_config={"note": "x"})
    assert (vm.name, vm.config.hardware.numCPU) == ("theirs", 2)
    assert vcsim.vms()["theirs"]["extraConfig"]["note"] == "x"
    vcsim.control("act", vm=uuid, act="remove")
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vm.name


def test_requests_that_would_end_the_simulator(si):
    with pytest.raises(vim.fault.InvalidDatastore):
        make(si, "nowhere", path="[missing]")
    source = machine(si, "DC0_H0_VM0")
    for location in [
        vim.vm.RelocateSpec(pool=vim.ResourcePool("resgroup-none", si._stub)),
        vim.vm.RelocateSpec(datastore=vim.Datastore("datastore-none", si._stub)),
    ]:
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            source.CloneVM_Task(source.parent, "nowhere", vim.vm.CloneSpec(location=location))
    card = vim.vm.device.VirtualVmxnet3(
        key=-1, backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="missing")
    )
    add = vim.vm.device.VirtualDeviceSpec(operation="add", device=card)
    with pytest.raises(vim.fault.InvalidDeviceBacking):
        outcome(source.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add])))
    assert source.name == "DC0_H0_VM0"


def test_console_and_screenshot(si, vcsim):
    vm = make(si, "seen")
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.AcquireTicket("webmks")
    outcome(vm.PowerOnVM_Task())
    ticket = vm.AcquireTicket("webmks")
    assert ticket.url == f"wss://{ticket.host}:443/ticket/{ticket.ticket}"
    der = ssl.PEM_cert_to_DER_cert(vcsim.ca)
    assert ticket.sslThumbprint.replace(":", "").lower() == hashlib.sha1(der).hexdigest()
    assert outcome(vm.CreateScreenshot_Task()) == "[LocalDS_0] seen/seen-1.png"
    assert outcome(vm.CreateScreenshot_Task()) == "[LocalDS_0] seen/seen-2.png"
    assert folder(si, vcsim, "seen/seen-2.png").startswith(b"\x89PNG\r\n")
    outcome(vm.ConsolidateVMDisks_Task())
    assert vm.runtime.consolidationNeeded is False


def test_growing_a_disk_with_a_snapshot(si):
    vm = make(si, "disks", deviceChange=with_disks(MIB))
    outcome(vm.CreateSnapshot_Task("s", "", False, False))
    with pytest.raises(vim.fault.InvalidDeviceOperation):
        grow(vm)
    outcome(vm.RemoveAllSnapshots_Task())
    grow(vm)
    assert disks(vm.config)[0].capacityInBytes == 2 * MIB


def grow(vm: vim.VirtualMachine) -> None:
    disk = disks(vm.config)[0]
    disk.capacityInKB, disk.capacityInBytes = 2048, 2 * MIB
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)
    outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit])))


def test_restart_forgets_everything_at_the_same_port(own_vcsim):
    si = connect(own_vcsim)
    make(si, "forgotten")
    port = own_vcsim.port
    own_vcsim.kill()
    si._stub.DropConnections()
    own_vcsim.start()
    assert own_vcsim.port == port
    assert "forgotten" not in own_vcsim.vms()


@pytest.fixture
def lone_host() -> Iterator[Vcsim]:
    yield from start_vcsim(esx=True)


def test_lone_host(lone_host):
    si = connect(lone_host)
    assert si.content.about.apiType == "HostAgent"
    Disconnect(si)
