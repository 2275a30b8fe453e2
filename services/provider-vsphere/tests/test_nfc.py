"""Leases on a simulated vCenter: ready, kept alive, and ended on every path."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from common.clock import ManualClock
from common.errors import ProviderError, ResourceNotFoundError
from provider_vsphere.content import vmdk
from provider_vsphere.content.nfc import Nfc
from provider_vsphere.session.transfers import Transfers
from provider_vsphere.session.vsphere import Vsphere
from pyVmomi import vim
from simulators.vcsim import Vcsim

from .conftest import one

MIB = 1 << 20


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def nfc(vsphere: Vsphere, clock: ManualClock) -> Nfc:
    return Nfc(vsphere, Transfers(vsphere.endpoint), clock)


def importing(vsphere: Vsphere, name: str) -> Any:
    """Begins the import of a machine with one disk."""
    datastore, folder = one(vsphere, "Datastore"), one(vsphere, "Datacenter").facts["vmFolder"]
    pool = one(vsphere, "ClusterComputeResource").facts["resourcePool"]
    dev = vim.vm.device
    backing = dev.VirtualDisk.FlatVer2BackingInfo(fileName=f"[{datastore.name}]", diskMode="persistent")
    disk = dev.VirtualDisk(key=-2, controllerKey=-1, unitNumber=0, capacityInKB=1024, backing=backing)
    controller = dev.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    changes = [
        dev.VirtualDeviceSpec(operation="add", device=controller),
        dev.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
    ]
    files = vim.vm.FileInfo(vmPathName=f"[{datastore.name}]")
    config = vim.vm.ConfigSpec(
        name=name, guestId="otherGuest64", numCPUs=1, memoryMB=64, files=files, deviceChange=changes
    )

    def begin(login: Any) -> Any:
        stub = login.instance._stub
        spec = vim.vm.VmImportSpec(configSpec=config)
        return vim.ResourcePool(pool, stub).ImportVApp(spec, vim.Folder(folder, stub), None)

    return begin


async def content() -> AsyncIterator[bytes]:
    writer = vmdk.Writer(MIB)
    yield writer.begin()
    for part in (*writer.write(0, b"content"), *writer.finish()):
        yield part


def calls(server: Vcsim) -> dict[str, int]:
    return {name: count for name, count in server.requests().items() if name.startswith("HttpNfcLease")}


async def test_a_disk_is_uploaded_and_the_lease_completed(nfc: Nfc, vsphere: Vsphere, vcsim: Vcsim) -> None:
    vcsim.control("requests/reset")
    async with nfc.lease("import", importing(vsphere, "imported")) as lease:
        [disk] = lease.disks()
        assert lease.device(disk.import_key) is disk
        with pytest.raises(ResourceNotFoundError):
            lease.device("/other")
        await lease.upload(disk, content())
    assert calls(vcsim) == {"HttpNfcLeaseComplete": 1}
    assert vcsim.vms()["imported"]["moref"].endswith(lease.entity)


async def test_progress_is_told_before_the_timeout(
    nfc: Nfc, vsphere: Vsphere, vcsim: Vcsim, clock: ManualClock
) -> None:
    vcsim.control("requests/reset")
    async with nfc.lease("import", importing(vsphere, "slow")) as lease:
        lease.percent = 250
        for count in (1, 2, 3):
            await clock.wait_sleeping()
            await clock.advance(60)
            async with asyncio.timeout(10):
                while calls(vcsim).get("HttpNfcLeaseProgress", 0) < count:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.01)
    assert calls(vcsim) == {"HttpNfcLeaseProgress": 3, "HttpNfcLeaseComplete": 1}


async def test_an_error_aborts(nfc: Nfc, vsphere: Vsphere, vcsim: Vcsim) -> None:
    vcsim.control("requests/reset")
    with pytest.raises(RuntimeError, match="ours"):
        async with nfc.lease("import", importing(vsphere, "failing")):
            raise RuntimeError("ours")
    assert calls(vcsim) == {"HttpNfcLeaseAbort": 1}


async def test_a_cancelled_holder_aborts(nfc: Nfc, vsphere: Vsphere, vcsim: Vcsim) -> None:
    vcsim.control("requests/reset")
    held = asyncio.Event()

    async def hold() -> None:
        async with nfc.lease("import", importing(vsphere, "cancelled")):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    async with asyncio.timeout(10):
        await held.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert calls(vcsim) == {"HttpNfcLeaseAbort": 1}


async def test_one_that_cannot_become_ready_says_why(nfc: Nfc, vsphere: Vsphere, vcsim: Vcsim) -> None:
    vcsim.control("faults", method="ImportVApp", fault="InsufficientResourcesFault")
    with pytest.raises(ProviderError, match="import"):
        async with nfc.lease("import", importing(vsphere, "full")):
            raise AssertionError("never ready")


async def test_one_that_ends_with_its_session_is_an_error(nfc: Nfc, vsphere: Vsphere, vcsim: Vcsim) -> None:
    """The next session does not know it: nothing hangs, and the caller hears of it."""
    with pytest.raises(ProviderError):  # noqa: PT012  # the context raises at its end
        async with nfc.lease("import", importing(vsphere, "lost")):
            vcsim.control("sessions/drop")
            async with asyncio.timeout(20):
                await vsphere.wait_lost()
    async with asyncio.timeout(20):
        await vsphere.wait_connected()
