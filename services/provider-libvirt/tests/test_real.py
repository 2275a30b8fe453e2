"""Machines on a real libvirtd with real guests: what no fake can prove."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from common import v1
from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    ForeignMachineError,
    HostFullError,
    HypervisorUnavailableError,
    ImageInUseError,
    NameConflictError,
    ResourceNotFoundError,
)
from common.settings import load
from libvirtd.private import PrivateLibvirtd
from provider_libvirt.__main__ import build
from provider_libvirt.settings import LibvirtSettings

from .conftest import MIB, OWNER, Bench, bench_on, machine_spec, quiet, uid_of

pytestmark = pytest.mark.real
ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED
CANARY = "canary-7c1d0f"
NOBODY = 65534


def guest(name: str) -> v1.ImageSource:
    return v1.ImageSource(file=v1.FileSource(path=name), format="qcow2")


def nat(bench: Bench) -> v1.NetworkRef:
    return v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=bench.daemon.network)


async def booting(bench: Bench, image: v1.Image, **fields: object) -> v1.MachineSpec:
    """A created machine that boots from the image."""
    spec = machine_spec(
        disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id))],
        nics=[v1.NicSpec(name="lan", network=nat(bench))],
        **fields,
    )
    await bench.driver.create(spec, quiet)
    return spec


def serial(bench: Bench, uid: str) -> str:
    return (bench.daemon.pool_path / f"{uid}-serial.log").read_text(errors="replace")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("firmware", [v1.FirmwareType.BIOS, v1.FirmwareType.UEFI])
async def test_P1_P15_W25_a_whole_life_leaves_the_base_image_as_it_was_and_nothing_else(
    bench: Bench, guest_image: Path, firmware: v1.FirmwareType
) -> None:
    """Two disks, two NICs, a static address, an address from a lease; then power in all its ways, and the end."""
    image = await bench.image(guest(guest_image.name))
    base = bench.daemon.pool_path / image.location.partition("/")[2]
    before = sha256(base)
    static = v1.GuestAddressing(addresses=["192.168.222.5/24"], nameservers=["192.168.222.1"])
    spec = machine_spec(
        "db",
        firmware=v1.FirmwareSpec(type=firmware),
        disks=[
            v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id), size_bytes=image.virtual_size_bytes + 64 * MIB),
            v1.DiskSpec(name="data", size_bytes=32 * MIB, bus=v1.DiskBus.VIRTIO),
        ],
        nics=[
            v1.NicSpec(name="lan", network=nat(bench)),
            v1.NicSpec(name="fixed", network=nat(bench), addressing=static),
        ],
        boot_data=v1.BootData(user_data="#cloud-config\nruncmd:\n  - echo from-runcmd\n"),
    )
    uid = uid_of(spec)
    await bench.driver.create(spec, quiet)
    seen = await bench.driver.observe(uid)
    assert seen is not None
    assert (seen.hypervisor_name, seen.power, seen.firmware.type) == ("lab.db", OFF, firmware)
    assert [(d.name, d.owned, d.image_id, d.size_bytes) for d in seen.disks] == [
        ("root", True, image.id, image.virtual_size_bytes + 64 * MIB),
        ("data", True, "", 32 * MIB),
    ]

    await bench.driver.power_on(uid)
    up = await bench.wait(
        uid,
        lambda m: (
            {("lan", "agent"), ("lan", "lease"), ("fixed", "agent")}
            <= {(a.nic, s) for a in m.addresses for s in a.sources}
            and m.guest.hostname == "db"
            and m.guest.os != ""
        ),
    )
    addresses = {address.nic: address for address in up.addresses}
    assert addresses["fixed"].address == "192.168.222.5"
    assert "agent" in addresses["fixed"].sources
    assert {"agent", "lease"} <= set(addresses["lan"].sources)
    assert addresses["lan"].address.startswith("192.168.222.")
    said = serial(bench, uid)
    assert "hostname=db" in said
    assert "ssh keys" not in said, "nobody's key was asked for"

    await bench.driver.suspend(uid)
    assert (await bench.wait(uid, lambda m: m.power is SUSPENDED)).addresses
    await bench.driver.resume(uid)
    await bench.wait(uid, lambda m: m.power is ON)
    await bench.driver.ask_shutdown(uid)
    off = await bench.wait(uid, lambda m: m.power is OFF)
    assert off.addresses == []
    with pytest.raises(ImageInUseError, match=r"lab\.db"):
        await bench.driver.delete_image(image.id)

    await bench.driver.power_on(uid)
    await bench.driver.destroy(uid, quiet)
    assert await bench.driver.observe(uid) is None
    assert bench.files(uid) == []
    assert not list((bench.daemon.path / "lib").rglob("*lab.db*")), "nvram and the like are gone too"
    assert sha256(base) == before
    await bench.driver.delete_image(image.id)
    assert not base.exists()


async def test_P2_delete_keeps_the_base_image_and_disks_that_we_did_not_make(bench: Bench, guest_image: Path) -> None:
    image = await bench.image(guest(guest_image.name))
    base = bench.daemon.pool_path / image.location.partition("/")[2]
    pool = libvirt.open(bench.daemon.uri).storagePoolLookupByName("default")
    name = f"precious-{uuid.uuid4().hex}.qcow2"
    theirs = pool.createXML(
        f"<volume><name>{name}</name><capacity>1048576</capacity><target><format type='qcow2'/></target></volume>"
    )
    spec = machine_spec(
        disks=[
            v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id)),
            v1.DiskSpec(name="old", existing=v1.ExistingDisk(id=theirs.path())),
        ]
    )
    await bench.driver.create(spec, quiet)
    await bench.driver.power_on(uid_of(spec))
    await bench.driver.destroy(uid_of(spec), quiet)
    assert bench.files(uid_of(spec)) == []
    assert base.exists()
    assert name in pool.listVolumes()
    theirs.delete(0)


async def test_P2_a_disk_that_was_handed_on_stays_with_its_new_machine(bench: Bench) -> None:
    """A file named by one machine's UID, that another machine uses by now, is nobody's leftover."""
    donor = machine_spec("donor", disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB)])
    await bench.driver.create(donor, quiet)
    await bench.driver.release(uid_of(donor))
    file = f"{bench.daemon.pool_path}/{uid_of(donor)}-root.qcow2"
    heir = machine_spec("heir", disks=[v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=file))])
    await bench.driver.create(heir, quiet)
    domain = libvirt.open(bench.daemon.uri).lookupByUUIDString(uid_of(donor))
    domain.undefine()
    await bench.driver.destroy(uid_of(donor), quiet)
    assert file in bench.files(uid_of(donor))
    await bench.driver.destroy(uid_of(heir), quiet)
    assert file in bench.files(uid_of(donor)), "an existing disk is never deleted with the machine that took it"
    await bench.driver.destroy(uid_of(donor), quiet)
    assert bench.files(uid_of(donor)) == []


async def test_P6_W7_foreign_domains_are_never_touched(bench: Bench) -> None:
    connection = libvirt.open(bench.daemon.uri)
    spec, other = machine_spec("taken"), machine_spec("uid-taken")
    template = (
        "<domain type='qemu'><name>{}</name><uuid>{}</uuid><memory>16384</memory><os><type>hvm</type></os></domain>"
    )
    by_name = connection.defineXML(template.format("lab.taken", uuid.uuid4()))
    by_uid = connection.defineXML(template.format("elsewhere", uid_of(other)))
    before = [domain.XMLDesc(0) for domain in (by_name, by_uid)]
    try:
        with pytest.raises(NameConflictError, match=r"lab\.taken"):
            await bench.driver.create(spec, quiet)
        for refused in (bench.driver.create(other, quiet), bench.driver.destroy(uid_of(other), quiet)):
            with pytest.raises(ForeignMachineError):
                await refused
        assert [domain.XMLDesc(0) for domain in (by_name, by_uid)] == before
        assert bench.files(uid_of(spec)) == []
    finally:
        by_name.undefine()
        by_uid.undefine()


async def test_the_pool_of_a_foreign_disk_is_known_without_a_call_for_each(bench: Bench, tmp_path: Path) -> None:
    """One call tells all pools; the next is made when a pool comes, or for a directory that is new."""
    connection = libvirt.open(bench.daemon.uri)
    uids = [str(uuid.uuid4()) for _ in range(3)]
    sources = [f"file='{bench.daemon.pool_path}/a'", "pool='default' volume='b'", f"file='{tmp_path}/c'"]
    kinds = ["file", "volume", "file"]
    for uid, kind, source in zip(uids, kinds, sources, strict=True):
        connection.defineXML(
            f"<domain type='qemu'><name>{uid}</name><uuid>{uid}</uuid><memory>16384</memory><os><type>hvm</type></os>"
            f"<devices><disk type='{kind}'><source {source}/><target dev='vda'/></disk></devices></domain>"
        )

    async def storages() -> list[str]:
        machines = {machine.id: machine for machine in await bench.driver.observe_all()}
        return [machines[uid].disks[0].storage for uid in uids]

    asked: list[str] = []
    call = bench.hypervisor.call

    async def counted(doing: str, *args: object, **kwargs: object) -> object:
        asked.append(doing)
        return await call(doing, *args, **kwargs)  # type: ignore[arg-type]  # as it came

    bench.hypervisor.call = counted  # type: ignore[method-assign, assignment]
    pool = None
    try:
        for _ in range(3):
            assert await storages() == ["default", "default", ""]
            seen = await bench.driver.observe(uids[2])
            assert seen is not None
            assert seen.disks[0].storage == ""
        assert asked.count("list the storage pools") == 1
        hints = bench.driver.changes()
        told = asyncio.ensure_future(anext(hints))  # type: ignore[arg-type]  # an async generator's
        await asyncio.sleep(0)
        pool = connection.storagePoolCreateXML(
            f"<pool type='dir'><name>strange</name><target><path>{tmp_path}</path></target></pool>"
        )
        async with asyncio.timeout(10):
            assert await told is None
        assert await storages() == ["default", "default", "strange"]
        assert asked.count("list the storage pools") == 2
    finally:
        if pool is not None:
            pool.destroy()
        for uid in uids:
            connection.lookupByUUIDString(uid).undefine()


async def test_P4_an_existing_pool_is_never_changed(bench: Bench) -> None:
    """Whatever its path: a machine is made in the pool as it stands."""
    pool = libvirt.open(bench.daemon.uri).storagePoolLookupByName("default")
    before = pool.UUIDString(), pool.XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE)
    await bench.driver.create(machine_spec(disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB)]), quiet)
    after = pool.UUIDString(), pool.XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE)
    assert (after[0], _without_usage(after[1])) == (before[0], _without_usage(before[1]))


def _without_usage(xml: str) -> str:
    return "\n".join(line for line in xml.splitlines() if "<allocation" not in line and "<available" not in line)


async def test_P5_disks_are_private_and_base_images_read_only(bench: Bench, guest_image: Path) -> None:
    image = await bench.image(guest(guest_image.name))
    spec = await booting(bench, image, boot_data=v1.BootData(user_data=f"#cloud-config\npassword: {CANARY}\n"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in bench.daemon.pool_path.iterdir()}
    uid = uid_of(spec)
    assert modes[f"{uid}-root.qcow2"] == 0o600
    assert modes[f"{uid}-boot-data.iso"] == 0o600
    assert modes[image.location.partition("/")[2]] == 0o444


async def test_P12_many_nics_of_all_models_can_be_defined_and_started(bench: Bench) -> None:
    spec = machine_spec(nics=[v1.NicSpec(name=f"n{i}", network=nat(bench), model=m) for i, m in enumerate(
        ["virtio", "e1000e", "e1000", "rtl8139", "virtio", "virtio"])])  # fmt: skip
    await bench.driver.create(spec, quiet)
    await bench.driver.power_on(uid_of(spec))
    seen = await bench.driver.observe(uid_of(spec))
    assert seen is not None
    assert [nic.name for nic in seen.nics] == [f"n{i}" for i in range(6)]
    assert len({nic.mac for nic in seen.nics}) == 6


async def test_twenty_disks_of_every_bus_start(bench: Bench) -> None:
    buses = [v1.DiskBus.SCSI, v1.DiskBus.VIRTIO, v1.DiskBus.SATA]
    disks = [v1.DiskSpec(name=f"d{i:02}", size_bytes=MIB, bus=buses[i % 3]) for i in range(15)]
    spec = machine_spec(disks=disks, boot_data=v1.BootData(hostname="x"))
    await bench.driver.create(spec, quiet)
    await bench.driver.power_on(uid_of(spec))
    seen = await bench.driver.observe(uid_of(spec))
    assert seen is not None
    assert {disk.name for disk in seen.disks} == {disk.name for disk in disks}


async def test_P16_live_changes_hold_after_a_restart(bench: Bench, guest_image: Path) -> None:
    """CPU, disk and NIC plugged in while it runs are there at the next boot too."""
    image = await bench.image(guest(guest_image.name))
    spec = await booting(bench, image, cpu=v1.CpuSpec(count=1, hot_add=True))
    uid = uid_of(spec)
    await bench.driver.power_on(uid)
    await bench.wait(uid, lambda m: m.guest.agent_running)
    await bench.driver.set_cpu(uid, v1.CpuSpec(count=2, hot_add=True), live=True)
    await bench.driver.attach_disk(uid, v1.DiskSpec(name="data", size_bytes=16 * MIB), live=True)
    await bench.driver.attach_nic(uid, v1.NicSpec(name="extra", network=nat(bench)), live=True)
    await bench.driver.grow_disk(uid, "data", 32 * MIB, live=True)
    for _ in range(2):
        seen = await bench.driver.observe(uid)
        assert seen is not None
        assert (seen.cpu.count, seen.cpu.configured_count, seen.cpu.max_count) == (2, 2, 4)
        assert [(d.name, d.active) for d in seen.disks] == [("root", True), ("data", True)]
        assert seen.disks[1].size_bytes == 32 * MIB
        assert [(n.name, n.active) for n in seen.nics] == [("lan", True), ("extra", True)]
        assert seen.pending_restart == []
        await bench.driver.power_off(uid)
        await bench.driver.power_on(uid)


async def test_a_detached_disk_keeps_its_content_until_the_machine_goes(bench: Bench, guest_image: Path) -> None:
    image = await bench.image(guest(guest_image.name))
    spec = await booting(bench, image)
    uid = uid_of(spec)
    await bench.driver.power_on(uid)
    await bench.wait(uid, lambda m: m.guest.agent_running)
    data = v1.DiskSpec(name="data", size_bytes=16 * MIB)
    await bench.driver.attach_disk(uid, data, live=True)
    await bench.driver.detach_disk(uid, "data", live=True)
    await bench.wait(uid, lambda m: [d.name for d in m.disks] == ["root"])
    file = bench.daemon.pool_path / f"{uid}-data.qcow2"
    inode = file.stat().st_ino
    await bench.driver.attach_disk(uid, data, live=True)
    await bench.wait(uid, lambda m: [d.name for d in m.disks] == ["root", "data"])
    assert file.stat().st_ino == inode
    await bench.driver.detach_disk(uid, "data", live=True)
    await bench.driver.destroy(uid, quiet)
    assert bench.files(uid) == []


async def test_power_off_behind_our_back_is_told_at_once(bench: Bench) -> None:
    spec = machine_spec()
    uid = uid_of(spec)
    await bench.driver.create(spec, quiet)
    await bench.driver.power_on(uid)
    libvirt.open(bench.daemon.uri).lookupByUUIDString(uid).destroy()
    assert (await bench.wait(uid, lambda m: m.power is OFF, seconds=5)).power_reason == ""


async def test_managed_save_is_suspended_and_goes_with_the_machine(bench: Bench) -> None:
    spec = machine_spec()
    uid = uid_of(spec)
    await bench.driver.create(spec, quiet)
    await bench.driver.power_on(uid)
    libvirt.open(bench.daemon.uri).lookupByUUIDString(uid).managedSave(0)
    assert (await bench.wait(uid, lambda m: m.power is SUSPENDED)).power_reason == "its memory is saved on disk"
    await bench.driver.destroy(uid, quiet)
    assert list((bench.daemon.path / "lib" / "qemu" / "save").iterdir()) == []


async def test_a_leftover_of_an_interrupted_create_is_taken_over_or_removed(bench: Bench) -> None:
    """A volume named by the UID without a domain is what a killed provider leaves."""
    spec = machine_spec(disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB)])
    uid = uid_of(spec)
    pool = libvirt.open(bench.daemon.uri).storagePoolLookupByName("default")
    target = "<target><format type='qcow2'/></target>"
    pool.createXML(f"<volume><name>{uid}-root.qcow2</name><capacity>1048576</capacity>{target}</volume>")
    await bench.driver.create(spec, quiet)
    seen = await bench.driver.observe(uid)
    assert seen is not None
    assert seen.disks[0].size_bytes == 8 * MIB
    await bench.driver.destroy(uid, quiet)
    (bench.daemon.pool_path / f"{uid}-data.qcow2").write_bytes(b"left over")
    await bench.driver.destroy(uid, quiet)
    assert bench.files(uid) == []


async def test_every_change_of_the_stamp_keeps_the_rest_of_it(bench: Bench) -> None:
    """What is forgotten of a disk is a disk that nobody removes."""
    spec = machine_spec(
        disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB)], nics=[v1.NicSpec(name="lan")], tags=["one"]
    )
    uid = uid_of(spec)
    await bench.driver.create(spec, quiet)
    before = await bench.driver.observe(uid)
    for power in (bench.driver.power_off, bench.driver.power_on):
        await power(uid)
        await bench.driver.set_tags(uid, ["two"])
        await bench.driver.set_tags(uid, ["one"])
        seen = await bench.driver.observe(uid)
        assert seen is not None
        assert before is not None
        assert (seen.disks, seen.tags, seen.identity) == (before.disks, ["one"], before.identity)
        assert seen.nics[0].network == v1.NetworkRef(kind=v1.NetworkKind.NAT)
    await bench.driver.set_description(uid, "<b>for people & others</b>")
    seen = await bench.driver.observe(uid)
    assert seen is not None
    assert seen.description == "<b>for people & others</b>"
    await bench.driver.destroy(uid, quiet)
    assert bench.files(uid) == []


async def test_P10_W39_an_image_from_a_url_is_kept_only_if_it_is_what_was_promised(
    bench: Bench, guest_image: Path
) -> None:
    async def serve(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(guest_image)

    app = web.Application()
    app.router.add_get("/guest.qcow2", serve)
    before = set(bench.daemon.run("ls", str(bench.daemon.pool_path)).split())
    async with TestServer(app, host="127.0.0.1") as server:
        url = v1.UrlSource(url=str(server.make_url("/guest.qcow2")))
        with pytest.raises(ChecksumMismatchError):
            await bench.image(v1.ImageSource(url=url, checksum=v1.Checksum(algorithm="sha512", digest="0" * 128)))
        with pytest.raises(BrokenImageError, match="declared as raw"):
            await bench.image(v1.ImageSource(url=url, format="raw"))
        assert set(bench.daemon.run("ls", str(bench.daemon.pool_path)).split()) == before
        right = v1.Checksum(algorithm="sha256", digest=sha256(guest_image))
        image = await bench.image(v1.ImageSource(url=url, checksum=right))
    assert image.source_digest == right.digest
    assert sha256(bench.daemon.pool_path / image.location.partition("/")[2]) == right.digest


async def test_W40_what_an_interrupted_upload_left_is_seen_by_nobody_and_replaced(
    bench: Bench, guest_image: Path
) -> None:
    request = v1.PrepareImageRequest(uid=str(uuid.uuid4()), namespace="lab", name="g", source=guest(guest_image.name))
    wanted = await bench.driver.image_id(request)
    remnants = {".qcow2": b"QFI half of an image", ".json": b'{"id": "half a ma'}
    for suffix, content in remnants.items():
        (bench.daemon.pool_path / f"virtrigaud-image-{wanted}{suffix}").write_bytes(content)
    assert await bench.driver.get_image(wanted) is None
    assert wanted not in {image.id for image in await bench.driver.list_images()}
    image = await bench.driver.prepare_image(request, quiet)
    assert sha256(bench.daemon.pool_path / image.location.partition("/")[2]) == sha256(guest_image)


@pytest.fixture
def session_home(libvirtd: PrivateLibvirtd) -> Iterator[Path]:
    """Home of another user, whose own libvirtd runs."""
    home = Path(tempfile.mkdtemp(prefix="vrtg-session-"))
    os.chown(home, NOBODY, NOBODY)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    quiet_streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*user, "libvirtd"], env=environment, **quiet_streams)  # type: ignore[call-overload]  # streams
    try:
        yield home
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(home)


async def test_a_session_daemon_works_without_root(session_home: Path, guest_image: Path) -> None:
    """libvirtd of another user: user-mode networking, and the pool made where the settings say."""
    arguments = ["--owner", OWNER, "--insecure", "--image-directory", str(guest_image.parent)]
    endpoint = f"qemu+unix:///session?socket={session_home}/libvirt/libvirt-sock"
    driver = build(load(LibvirtSettings, [*arguments, "--endpoint", endpoint, "--pool-path", f"{session_home}/images"]))
    async with driver.session():
        async with asyncio.timeout(60):
            await driver.hypervisor.wait_connected()
        can = (await driver.describe()).capabilities
        assert can is not None
        assert can.network_kinds == [v1.NetworkKind.NAT]
        request = v1.PrepareImageRequest(
            uid=str(uuid.uuid4()), namespace="lab", name="g", source=guest(guest_image.name)
        )
        image = await driver.prepare_image(request, quiet)
        spec = machine_spec(
            disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id))],
            nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAT))],
            boot_data=v1.BootData(hostname="mine"),
        )
        await driver.create(spec, quiet)
        await driver.power_on(uid_of(spec))
        seen = await driver.observe(uid_of(spec))
        assert seen is not None
        assert (seen.power, seen.nics[0].network) == (ON, v1.NetworkRef(kind=v1.NetworkKind.NAT))
        await driver.destroy(uid_of(spec), quiet)
        await driver.delete_image(image.id)
    assert list((session_home / "images").iterdir()) == []


async def test_a_missing_pool_is_named(bench: Bench) -> None:
    spec = machine_spec(disks=[v1.DiskSpec(name="root", size_bytes=MIB, storage="nowhere")])
    with pytest.raises(ResourceNotFoundError, match="storage pool nowhere"):
        await bench.driver.create(spec, quiet)


async def test_a_full_pool_leaves_nothing(own_libvirtd: PrivateLibvirtd, guest_image: Path) -> None:
    own_libvirtd.run("mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", str(own_libvirtd.pool_path))
    async with bench_on(own_libvirtd, guest_image.parent) as bench:
        image = await bench.image(guest(guest_image.name))
        spec = machine_spec(disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id))])
        own_libvirtd.run("sh", "-c", f"dd if=/dev/zero of={own_libvirtd.pool_path}/filler bs=64k 2>/dev/null || true")
        with pytest.raises(HostFullError):
            await bench.driver.create(spec, quiet)
        with pytest.raises(HostFullError):
            await bench.image(guest(guest_image.name))
        assert bench.files(uid_of(spec)) == []
        assert [found.id for found in await bench.driver.list_images()] == [image.id]
        assert len(own_libvirtd.run("ls", str(own_libvirtd.pool_path)).split()) == 3


async def test_guests_survive_a_libvirtd_that_is_killed(own_libvirtd: PrivateLibvirtd, guest_image: Path) -> None:
    """We reconnect by ourselves, learn what happened meanwhile, and the guest never noticed."""
    async with bench_on(own_libvirtd, guest_image.parent) as bench:
        spec = machine_spec()
        uid = uid_of(spec)
        await bench.driver.create(spec, quiet)
        await bench.driver.power_on(uid)
        processes = own_libvirtd.guests()
        generation = bench.hypervisor.generation
        own_libvirtd.kill()
        with pytest.raises(HypervisorUnavailableError):
            await bench.driver.observe(uid)
        own_libvirtd.start()
        await bench.hypervisor.wait_connected()
        assert bench.hypervisor.generation > generation
        seen = await bench.driver.observe(uid)
        assert seen is not None
        assert seen.power is ON
        assert own_libvirtd.guests() == processes


async def test_W22_a_hanging_libvirtd_is_unavailable_within_the_timeout(
    own_libvirtd: PrivateLibvirtd, guest_image: Path
) -> None:
    async with bench_on(own_libvirtd, guest_image.parent, call_timeout=1.0) as bench:
        await bench.hypervisor.wait_connected()
        await bench.driver.check()
        own_libvirtd.pause()
        try:
            with pytest.raises(HypervisorUnavailableError, match="no answer within 1 s"):
                await bench.driver.check()
        finally:
            own_libvirtd.resume()
        await bench.hypervisor.wait_connected()
        assert "QEMU" in await bench.driver.check()


async def test_the_provider_starts_before_libvirtd_does(own_libvirtd: PrivateLibvirtd, guest_image: Path) -> None:
    own_libvirtd.kill()
    async with bench_on(own_libvirtd, guest_image.parent) as bench:
        with pytest.raises(HypervisorUnavailableError):
            await bench.driver.describe()
        own_libvirtd.start()
        await bench.hypervisor.wait_connected()
        assert (await bench.driver.describe()).capabilities.graceful_shutdown


async def test_the_serial_console_carries_bytes_both_ways(bench: Bench, guest_image: Path) -> None:
    image = await bench.image(guest(guest_image.name))
    spec = await booting(bench, image)
    uid = uid_of(spec)
    await bench.driver.power_on(uid)
    await bench.wait(uid, lambda m: m.guest.agent_running)
    async with bench.driver.console(uid, v1.ConsoleKind.SERIAL, force=False) as console:
        await console.write(b"\n")
        seen = b""
        while b"#" not in seen:
            seen += await console.read()
        await console.write(b"echo $((6 * 7))x\n")
        while b"42x" not in seen:
            seen += await console.read()
        await bench.driver.power_off(uid)
        while await console.read():
            pass
