"""Disk content on a simulated vCenter: which way it takes, and that a write which dies anywhere leaves nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from common import v1
from common.errors import (
    ChecksumMismatchError,
    HypervisorUnavailableError,
    NotSupportedError,
    ProviderError,
    StalePreconditionError,
    WrongPowerStateError,
)
from common.faults import FaultPlan
from provider_vsphere import machines
from provider_vsphere.__main__ import build
from provider_vsphere.config import devices
from provider_vsphere.content import uploads
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.settings import VsphereSettings
from provider_vsphere.stamps.stamp import Stamp
from providerkit import extents
from providerkit.extents import Incoming
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER

pytestmark = pytest.mark.real
MIB = 1 << 20
SIZE = 4 * MIB


def silent(_part: float, _phase: str) -> None:
    """Nobody looks at the progress."""


@pytest.fixture(scope="module")
def admin(vcsim: Vcsim) -> Iterator[Admin]:
    with Admin(vcsim) as admin:
        yield admin


@pytest.fixture
async def driver(vcsim: Vcsim, credentials: Path) -> AsyncIterator[VsphereDriver]:
    settings = VsphereSettings(
        endpoint=vcsim.url, credentials_directory=credentials, owner=OWNER, insecure=True,
        default_cluster="DC0_C0", default_network="VM Network",
    )  # fmt: skip
    driver = build(settings)
    async with driver.session():
        yield driver
    vcsim.control("reset")


@pytest.fixture
async def uid(driver: VsphereDriver) -> AsyncIterator[str]:
    """A machine with two disks, whose changes are tracked."""
    uid = str(uuid.uuid4())
    spec = v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="lab", name=f"m-{uid[:8]}", owner=OWNER),
        cpu=v1.CpuSpec(count=1),
        memory=v1.MemorySpec(size_bytes=64 * MIB),
        disks=[v1.DiskSpec(name="root", size_bytes=SIZE), v1.DiskSpec(name="data", size_bytes=SIZE)],
        extra_config={"vsphere.changeTracking": "true"},
    )
    await driver.create(spec, silent)
    yield uid
    await driver.destroy(uid, silent)


def content(seed: int = 1) -> bytes:
    seeds = random.Random(seed)
    return bytes(MIB) + seeds.randbytes(300_000) + bytes(SIZE - MIB - 300_000 - 5) + b"the e"


def ref(uid: str, name: str = "root", snapshot: str = "") -> v1.DiskRef:
    return v1.DiskRef(machine_uid=uid, disk_name=name, snapshot_id=snapshot)


def sent(target: v1.WriteDiskTarget, data: bytes, *, sha256: str = "", whole: bool = True) -> Incoming:
    async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
        async for extent in extents.covering(_one(data), 0, len(data)):
            yield v1.WriteDiskRequest(extent=extent)
        if whole:
            yield v1.WriteDiskRequest(finish_sha256=sha256 or hashlib.sha256(data).hexdigest())

    return Incoming(target, requests())


async def _one(data: bytes) -> AsyncIterator[tuple[int, bytes]]:
    yield 0, data


async def write(driver: VsphereDriver, uid: str, data: bytes, name: str = "root", **fields: Any) -> int:
    target = v1.WriteDiskTarget(disk=ref(uid, name), size_bytes=len(data))
    return await driver.write_disk(target, sent(target, data, **fields))


async def read(driver: VsphereDriver, disk: v1.DiskRef, **fields: Any) -> list[v1.Extent]:
    async with aclosing(driver.read_disk(v1.ReadDiskRequest(disk=disk, **fields))) as found:
        return [extent async for extent in found]


def joined(found: list[v1.Extent]) -> bytes:
    assert all(not e.data or e.crc32c == google_crc32c.value(e.data) for e in found)
    return b"".join(extent.data or bytes(extent.length) for extent in found)


def scribble(driver: VsphereDriver, vcsim: Vcsim, uid: str, offset: int, data: bytes) -> None:
    """The guest writes to its root disk."""
    label = _device(driver, uid, "root").deviceInfo.label
    vcsim.control("disk/write", vm=uid, label=label, offset=offset, data=base64.b64encode(data).decode())


def file_of(driver: VsphereDriver, uid: str, name: str = "root") -> str:
    return devices.file_of(_device(driver, uid, name))


def _device(driver: VsphereDriver, uid: str, name: str) -> Any:
    entity = machines.get(driver.vsphere.tree, uid, OWNER)
    record, board = machines.stamp_of(entity), entity.facts["config.hardware.device"]
    assert record is not None
    mark = record.disk(name)
    assert mark is not None
    return devices.disk_at(board, mark.slot)


async def snapshot(driver: VsphereDriver, admin: Admin, uid: str) -> str:
    """Take one behind the provider's back, and wait until it has heard of it."""
    taken = str(admin.wait(admin.find(uid).CreateSnapshot_Task("one", "", False, False))._moId)
    async with asyncio.timeout(10):
        while taken not in {each.id for each in await driver.list_snapshots(uid)} or not _is_delta(driver, uid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return taken


def _is_delta(driver: VsphereDriver, uid: str) -> bool:
    return _device(driver, uid, "root").backing.parent is not None


def shells(admin: Admin) -> list[str]:
    return [vm.name for vm in admin.every() if vm.name.startswith("virtrigaud-upload-")]


# -- which way ---------------------------------------------------------------------------------------------------------


async def test_a_whole_read_takes_a_lease_and_a_resumed_one_the_file(
    driver: VsphereDriver, uid: str, vcsim: Vcsim
) -> None:
    await write(driver, uid, content())
    vcsim.control("requests/reset")
    assert joined(await read(driver, ref(uid))) == content()
    assert vcsim.requests()["ExportVm"] == 1
    assert vcsim.requests()["HttpNfcLeaseComplete"] == 1
    vcsim.control("requests/reset")
    assert joined(await read(driver, ref(uid), offset=MIB + 7)) == content()[MIB + 7 :]
    assert "ExportVm" not in vcsim.requests()


async def test_a_resumed_read_of_a_delta_takes_a_lease(
    driver: VsphereDriver, uid: str, vcsim: Vcsim, admin: Admin
) -> None:
    """Its file does not hold the whole content."""
    await write(driver, uid, content())
    await snapshot(driver, admin, uid)
    scribble(driver, vcsim, uid, 2 * MIB, b"later")
    vcsim.control("requests/reset")
    found = joined(await read(driver, ref(uid), offset=MIB))
    assert found[MIB : MIB + 5] == b"later"
    assert found[:MIB] == content()[MIB : 2 * MIB]
    assert vcsim.requests()["ExportVm"] == 1


async def test_each_disk_is_its_own(driver: VsphereDriver, uid: str) -> None:
    await write(driver, uid, content(1), "root")
    await write(driver, uid, content(2), "data")
    assert joined(await read(driver, ref(uid, "root"))) == content(1)
    assert joined(await read(driver, ref(uid, "data"))) == content(2)


async def test_a_lone_hosts_star_is_our_host(driver: VsphereDriver, uid: str, vcsim: Vcsim) -> None:
    vcsim.control("leases", star=True)
    await write(driver, uid, content())
    assert joined(await read(driver, ref(uid))) == content()


async def test_a_cut_line_is_no_end_of_the_disk(driver: VsphereDriver, uid: str, vcsim: Vcsim) -> None:
    data = random.Random(3).randbytes(SIZE)
    await write(driver, uid, data)
    for offset, path in ((0, "/nfc"), (7, "/folder")):
        vcsim.control("transfers/cut", path=path, after=2 * MIB, count=1)
        with pytest.raises(HypervisorUnavailableError):
            await read(driver, ref(uid), offset=offset)
        assert joined(await read(driver, ref(uid), offset=offset)) == data[offset:]


async def test_a_machine_that_starts_ends_the_read(driver: VsphereDriver, uid: str) -> None:
    """By the file nothing keeps it from starting, and then what is read is no copy of anything."""
    await write(driver, uid, random.Random(4).randbytes(SIZE))
    async with aclosing(driver.read_disk(v1.ReadDiskRequest(disk=ref(uid), offset=1))) as found:
        await anext(found)
        await driver.power_on(uid)
        with pytest.raises(WrongPowerStateError):
            assert [extent async for extent in found] == []
    await driver.power_off(uid)


async def test_a_reader_that_leaves_ends_the_lease(driver: VsphereDriver, uid: str, vcsim: Vcsim) -> None:
    await write(driver, uid, random.Random(5).randbytes(SIZE))
    vcsim.control("requests/reset")
    async with aclosing(driver.read_disk(v1.ReadDiskRequest(disk=ref(uid)))) as found:
        await anext(found)
    assert vcsim.requests()["HttpNfcLeaseAbort"] == 1


# -- what changed ------------------------------------------------------------------------------------------------------


async def test_changed_blocks_are_told_and_no_others(
    driver: VsphereDriver, uid: str, vcsim: Vcsim, admin: Admin
) -> None:
    """More of them than one answer of vSphere holds."""
    await write(driver, uid, content())
    first = await snapshot(driver, admin, uid)
    before = (await driver.disk_info(ref(uid, snapshot=first))).change_id
    places = range(0, SIZE, 2 * extents.BLOCK)
    for place in places:
        scribble(driver, vcsim, uid, place + 100, b"new")
    second = await snapshot(driver, admin, uid)
    found = await read(driver, ref(uid, snapshot=second), changed_since=before)
    assert [extent.offset for extent in found] == list(places)
    assert {extent.length for extent in found} == {extents.BLOCK}
    assert all(extent.data[100:103] == b"new" for extent in found)
    resumed = await read(driver, ref(uid, snapshot=second), changed_since=before, offset=3 * MIB + 50)
    assert resumed[0].offset == 3 * MIB + 50
    assert [extent.offset for extent in resumed[1:]] == [place for place in places if place > 3 * MIB]


async def test_what_is_not_tracked_has_no_changes(driver: VsphereDriver, uid: str, admin: Admin) -> None:
    taken = await snapshot(driver, admin, uid)
    with pytest.raises(StalePreconditionError):
        await read(driver, ref(uid, snapshot=taken), changed_since="52 de c0 d9/1")


# -- writing -----------------------------------------------------------------------------------------------------------


async def test_a_written_disk_keeps_its_place_and_leaves_no_trace(
    driver: VsphereDriver, uid: str, admin: Admin
) -> None:
    before = await driver.observe(uid)
    for seed in (1, 2):
        assert await write(driver, uid, content(seed)) == SIZE
    after = await driver.observe(uid)
    assert before is not None
    assert after is not None
    told = [(disk.name, disk.size_bytes, disk.bus, disk.device, disk.owned) for disk in before.disks]
    assert [(disk.name, disk.size_bytes, disk.bus, disk.device, disk.owned) for disk in after.disks] == told
    assert after.settings == before.settings
    assert shells(admin) == []
    assert admin.orphans() == []


async def test_a_shell_is_no_machine(driver: VsphereDriver, uid: str, admin: Admin) -> None:
    """Nobody who lists machines sees the one that lends a disk its way in."""
    seen: list[int] = []
    plan = FaultPlan().does(uploads.UPLOADED, lambda _: seen.append(len(shells(admin))))
    with plan.installed():
        await write(driver, uid, content())
    assert seen == [1]
    names = {machine.hypervisor_name for machine in await driver.observe_all()}
    assert not any(name.startswith("virtrigaud-upload") for name in names)


@pytest.mark.parametrize("how", ["digest", "unfinished", "gap"])
async def test_a_write_that_comes_to_nothing_changes_nothing(
    driver: VsphereDriver, uid: str, admin: Admin, how: str
) -> None:
    await write(driver, uid, content())
    file = file_of(driver, uid)
    if how == "digest":
        with pytest.raises(ChecksumMismatchError):
            await write(driver, uid, content(2), sha256="0" * 64)
    elif how == "unfinished":
        assert await write(driver, uid, content(2), whole=False) == 0
    else:
        target = v1.WriteDiskTarget(disk=ref(uid), size_bytes=SIZE)

        async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
            yield v1.WriteDiskRequest(extent=extents.data(512, b"a"))

        with pytest.raises(NotSupportedError, match="gap"):
            await driver.write_disk(target, Incoming(target, requests()))
    assert file_of(driver, uid) == file
    assert joined(await read(driver, ref(uid))) == content()
    assert shells(admin) == []


async def test_a_disk_with_snapshots_is_not_written(driver: VsphereDriver, uid: str, admin: Admin) -> None:
    await snapshot(driver, admin, uid)
    with pytest.raises(NotSupportedError, match="snapshots"):
        await write(driver, uid, content())


async def test_a_snapshot_that_is_taken_meanwhile_keeps_its_disk(driver: VsphereDriver, uid: str, admin: Admin) -> None:
    """Between the upload and the exchange another administrator was faster."""
    await write(driver, uid, content(1))
    plan = FaultPlan().does(
        uploads.MOVED, lambda _: admin.wait(admin.find(uid).CreateSnapshot_Task("one", "", False, False))
    )
    with plan.installed(), pytest.raises(StalePreconditionError):
        await write(driver, uid, content(2))
    assert joined(await read(driver, ref(uid))) == content(1)
    await driver.destroy(uid, silent)
    assert shells(admin) == []
    assert admin.orphans() == []


async def test_a_lease_that_fails_says_why(driver: VsphereDriver, uid: str, vcsim: Vcsim, admin: Admin) -> None:
    vcsim.control("transfers/cut", path="/nfc", after=1000, count=1)
    with pytest.raises(HypervisorUnavailableError):
        await write(driver, uid, random.Random(6).randbytes(SIZE))
    assert shells(admin) == []
    assert await write(driver, uid, content()) == SIZE


POINTS = [uploads.UPLOADED, uploads.NOTED, uploads.DETACHED, uploads.MOVED, uploads.SWAPPED]


class Died(BaseException):
    """The process ended here: nobody cleans up."""


def _die(_point: str) -> None:
    raise Died


@pytest.mark.parametrize("point", POINTS)
async def test_a_write_that_died_anywhere_is_repeated(
    driver: VsphereDriver, uid: str, admin: Admin, point: str
) -> None:
    await write(driver, uid, content(1))
    with FaultPlan().does(point, _die).installed(), pytest.raises(Died):
        await write(driver, uid, content(2))
    assert joined(await read(driver, ref(uid))) == content(2 if point == uploads.SWAPPED else 1)
    assert await write(driver, uid, content(3)) == SIZE
    assert joined(await read(driver, ref(uid))) == content(3)
    assert shells(admin) == []
    assert admin.orphans() == []
    assert _strays(admin, uid) == []


@pytest.mark.parametrize("point", POINTS)
async def test_a_machine_takes_what_a_dead_write_left_with_it(
    driver: VsphereDriver, uid: str, admin: Admin, point: str
) -> None:
    with FaultPlan().does(point, _die).installed(), pytest.raises(Died):
        await write(driver, uid, content())
    await driver.destroy(uid, silent)
    assert await driver.observe(uid) is None
    assert shells(admin) == []
    assert admin.orphans() == []


async def test_a_caller_that_goes_during_the_exchange_finds_it_whole(
    driver: VsphereDriver, uid: str, admin: Admin
) -> None:
    """A deletion may follow at once, and must not meet files that still move."""
    plan = FaultPlan().does(uploads.NOTED, lambda _: writing.cancel())
    with plan.installed():
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write(driver, uid, content()))
    assert writing.cancelled()
    assert joined(await read(driver, ref(uid))) == content()
    assert shells(admin) == []
    assert _strays(admin, uid) == []


def test_an_unplugged_disk_is_not_on_its_way() -> None:
    """Its file is kept under a name with an "@", too, where another disk has taken the name."""
    kept = {f"kept[{name}]": f"[ds] {index}.vmdk" for index, name in enumerate(("data", "data@[ds] old.vmdk"))}
    noted = {"kept[root@from]": "[ds] shell/a.vmdk", "kept[root@to]": "[ds] web/b.vmdk"}
    record = Stamp("uid", "lab", "web", OWNER, settings=kept | noted)
    assert uploads.on_way(record) == {"root@from": "[ds] shell/a.vmdk", "root@to": "[ds] web/b.vmdk"}


async def test_somebody_elses_shell_stays(driver: VsphereDriver, uid: str, admin: Admin) -> None:
    """A copy of a shell is nobody's leftover."""
    with FaultPlan().does(uploads.UPLOADED, _die).installed(), pytest.raises(Died):
        await write(driver, uid, content())
    [name] = shells(admin)
    mark = next(vm for vm in admin.every() if vm.name == name).config.extraConfig
    copy = admin.create("a copy", uid=str(uuid.uuid4()), extraConfig=list(mark))
    async with asyncio.timeout(10):
        while driver.vsphere.tree.get(str(copy._moId)) is None:  # noqa: ASYNC110  # the collector has no such event
            await asyncio.sleep(0.01)
    await write(driver, uid, content())
    assert [vm.name for vm in admin.every() if vm._moId == copy._moId] == ["a copy"]
    admin.wait(copy.Destroy_Task())


async def test_a_refused_import_is_told_as_it_is(driver: VsphereDriver, uid: str, vcsim: Vcsim) -> None:
    vcsim.control("faults", method="ImportVApp", fault="InsufficientResourcesFault")
    with pytest.raises(ProviderError, match="write disk root"):
        await write(driver, uid, content())


def _strays(admin: Admin, uid: str) -> list[str]:
    """Disks in the machine's directory that it does not have."""
    vm = admin.find(uid)
    home = vm.config.files.vmPathName.rpartition("/")[0]
    used = {device.backing.fileName for device in vm.config.hardware.device if hasattr(device, "capacityInKB")}
    store = next(each for each in vm.datastore if home.startswith(f"[{each.name}]"))
    root = Path(store.info.url) / home.partition("] ")[2]
    there = {f"{home}/{entry.name}" for entry in root.glob("*.vmdk") if not entry.name.endswith("-flat.vmdk")}
    return sorted(there - used)
