"""What the tests of the simulated vCenter do through pyvmomi, as a provider would."""

from __future__ import annotations

import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from simulators.vcsim import Vcsim

MIB = 1 << 20

LIMIT = 20.0


def connect(server: Vcsim) -> vim.ServiceInstance:
    context = ssl.create_default_context(cadata=server.ca)
    return SmartConnect(
        host=server.host,
        port=server.port,
        user=server.user,
        pwd=server.password,
        sslContext=context,
        connectionPoolTimeout=-1,
    )


@pytest.fixture
def si(vcsim: Vcsim) -> Iterator[vim.ServiceInstance]:
    service = connect(vcsim)
    yield service
    vcsim.control("reset")
    Disconnect(service)


def until(true: Callable[[], object], what: str) -> None:
    """Ask again until it is true; the simulator has no event for these."""
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def outcome(task: vim.Task) -> Any:
    """The result of a task, or its error raised."""
    until(lambda: task.info.state in ("success", "error"), "task has not ended")
    if task.info.state == "error":
        raise task.info.error
    return task.info.result


def machine(si: vim.ServiceInstance, name: str) -> vim.VirtualMachine:
    view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [vim.VirtualMachine], True)
    return next(vm for vm in view.view if vm.name == name)


def make(
    si: vim.ServiceInstance, name: str, *, path: str = "[LocalDS_0]", pool: vim.ResourcePool | None = None, **spec: Any
) -> vim.VirtualMachine:
    """A small machine in the first datacenter's own folder, on its first host or cluster."""
    datacenter = si.content.rootFolder.childEntity[0]
    config = vim.vm.ConfigSpec(
        name=name,
        numCPUs=1,
        memoryMB=64,
        guestId="otherGuest64",
        files=vim.vm.FileInfo(vmPathName=path),
        **spec,
    )
    pool = pool or datacenter.hostFolder.childEntity[0].resourcePool
    return outcome(datacenter.vmFolder.CreateVM_Task(config, pool))


def with_disks(*sizes: int) -> list[vim.vm.device.VirtualDeviceSpec]:
    """Device changes that add a SCSI controller and a new disk of each size in bytes."""
    controller = vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    changes = [vim.vm.device.VirtualDeviceSpec(operation="add", device=controller)]
    for unit, size in enumerate(sizes):
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(diskMode="persistent", fileName="[LocalDS_0]")
        disk = vim.vm.device.VirtualDisk(
            key=-2 - unit, controllerKey=-1, unitNumber=unit, capacityInKB=size // 1024, backing=backing
        )
        changes.append(vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk))
    return changes


def disks(config: vim.vm.ConfigInfo) -> list[vim.vm.device.VirtualDisk]:
    """The disks of a machine's or a snapshot's configuration."""
    return [device for device in config.hardware.device if isinstance(device, vim.vm.device.VirtualDisk)]


def chain(config: vim.vm.ConfigInfo, disk: int = 0) -> list[str]:
    """File names of a disk's backings, from the one in use down to the base, without directories."""
    backing, names = disks(config)[disk].backing, []
    while backing is not None:
        names.append(backing.fileName.rpartition("/")[2])
        backing = backing.parent
    return names


def folder(si: vim.ServiceInstance, vcsim: Vcsim, path: str, body: bytes | None = None, part: str = "") -> bytes:
    """Read, or write, a file of the first datastore."""
    request = urllib.request.Request(
        f"https://{vcsim.host}:{vcsim.port}/folder/{quote(path)}?dcPath=DC0&dsName=LocalDS_0",
        body,
        {"Cookie": si._stub.cookie, **({"Range": f"bytes={part}"} if part else {})},
        method="GET" if body is None else "PUT",
    )
    with urllib.request.urlopen(request, timeout=30, context=ssl.create_default_context(cadata=vcsim.ca)) as answer:
        return answer.read()
