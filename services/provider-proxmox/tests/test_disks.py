"""Content of disks: read over SSH or from a mounted storage, written by an import, on a simulated cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from common import faults, v1
from common.errors import (
    ChecksumMismatchError,
    CredentialsRefusedError,
    DownloadFailedError,
    HypervisorUnavailableError,
    InvalidSpecError,
    NotSupportedError,
    ProviderError,
    ResourceNotFoundError,
    SnapshotNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from provider_proxmox import stamp
from provider_proxmox.content import mounted
from provider_proxmox.content.disks import Disks
from provider_proxmox.content.mounted import Mounted
from provider_proxmox.content.ssh import Ssh
from provider_proxmox.content.uploads import Uploads
from provider_proxmox.guests import Guests
from provider_proxmox.session.pve import Pve
from provider_proxmox.snapshots import Snapshots
from providerkit import extents
from providerkit.extents import Incoming
from simulators.proxmox import Proxmox
from simulators.proxmox.disks import bytes_of_volume
from simulators.proxmox.sshd import COMMAND, Sshd, sshd
from simulators.proxmox.world import Volume

from .conftest import OWNER, connected, credentials_of, eventually, vm
from .test_importing import imports

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None and not os.environ.get("REQUIRE_REAL"), reason="qemu-nbd is not installed"
)

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
UID = str(uuid.uuid4())


class Bench:
    """Everything that reads and writes the disks of one machine, which has VMID 101 and is off."""

    def __init__(self, server: Proxmox, cluster: Pve, directory: Path, ssh: Sshd | None, *, root: str = "") -> None:
        credentials = ssh.credentials(directory / "ssh") if ssh is not None else None
        self.server, self.cluster, self.directory = server, cluster, directory
        self.guests = Guests(cluster, owner=OWNER)
        self.snapshots = Snapshots(cluster, self.guests, owner=OWNER)
        self.ssh = Ssh(cluster, credentials=credentials, port=ssh.port if ssh is not None else 22)
        self.mounted = Mounted({root: directory / "mounted"} if root else {})
        self.disks = Disks(cluster, self.guests, self.snapshots, self.ssh, self.mounted)
        self.uploads = Uploads(cluster, self.guests, self.disks, directory=directory / "spool")

    async def read(self, offset: int = 0, **ref: str) -> list[v1.Extent]:
        request = v1.ReadDiskRequest(disk=disk(**ref), offset=offset)
        async with aclosing(self.disks.read(request)) as found:
            return [extent async for extent in found]

    async def content(self, offset: int = 0, **ref: str) -> bytes:
        found = bytearray()
        for extent in await self.read(offset, **ref):
            assert extent.offset == offset + len(found)
            found += extent.data or bytes(extent.length)
        return bytes(found)

    async def write(self, parts: Iterable[v1.Extent], *, sha256: str = "", resume: int = 0, size: int = SIZE) -> int:
        target = v1.WriteDiskTarget(disk=disk(), size_bytes=size, resume_offset=resume)

        async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
            for extent in parts:
                yield v1.WriteDiskRequest(extent=extent)
            if sha256:
                yield v1.WriteDiskRequest(finish_sha256=sha256)

        return await self.uploads.write(target, Incoming(target, requests()))

    async def fill(self, content: bytes) -> None:
        assert await self.write(cut(content), sha256=hashlib.sha256(content).hexdigest()) == len(content)

    def volumes(self) -> set[str]:
        """Volumes of the machine, wherever they are."""
        every = self.server.world.storages.values()
        return {
            volume.volid
            for storage in every
            for there in storage.volumes.values()
            for volume in there.values()
            if volume.vmid == 101 and volume.content == "images"
        }


def disk(name: str = "root", uid: str = UID, snapshot: str = "") -> v1.DiskRef:
    return v1.DiskRef(machine_uid=uid, disk_name=name, snapshot_id=snapshot)


def sparse(seed: int, size: int = SIZE) -> bytes:
    """Content with holes of all sizes, at borders and across them."""
    seeds, content = random.Random(seed), bytearray(size)
    for _ in range(8):
        start = seeds.randrange(size)
        length = min(size - start, seeds.choice((1, 511, 4 * KIB, 64 * KIB, 300 * KIB)))
        content[start : start + length] = seeds.randbytes(length)
    content[:9] = content[-9:] = b"the edges"
    return bytes(content)


def cut(content: bytes, start: int = 0) -> list[v1.Extent]:
    """As a sender cuts it."""
    found = []
    for at in range(start, len(content), 256 * KIB):
        part = content[at : at + 256 * KIB]
        found.append(extents.data(at, part) if any(part) else extents.hole(at, len(part)))
    return found


def machine(server: Proxmox, volume: str, format: str, node: str = "pve1") -> None:
    """One that we made, with one disk."""
    server.world.storage(volume.partition(":")[0]).on(node)[volume] = Volume(
        volume, "images", format, SIZE, used=64 * KIB, vmid=101
    )
    identity = v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner=OWNER)
    mark = replace(stamp.of(identity, 101, created=1), made=True)
    mark = mark.with_disk(stamp.DiskStamp("root", "scsi0", volume))
    description = stamp.written("the shop", mark)
    vm(server, 101, node, name="shop.web", description=description, scsi0=f"{volume},discard=on,size=8M")


FILE, BLOCK = ("shared:101/vm-101-disk-0.qcow2", "qcow2"), ("local-lvm:vm-101-disk-0", "raw")


@pytest.fixture(params=[FILE, BLOCK], ids=["file", "block"])
async def bench(request: pytest.FixtureRequest, pve: Proxmox, tmp_path: Path) -> AsyncIterator[Bench]:
    machine(pve, *request.param)
    async with (
        sshd(pve) as ssh,
        connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster,
    ):
        yield Bench(pve, cluster, tmp_path, ssh)


@pytest.fixture
async def file_bench(pve: Proxmox, tmp_path: Path) -> AsyncIterator[Bench]:
    machine(pve, *FILE)
    async with (
        sshd(pve) as ssh,
        connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster,
    ):
        yield Bench(pve, cluster, tmp_path, ssh)


async def test_what_is_written_is_read(bench: Bench) -> None:
    """Also over what stood there before; the disk is the same disk, and nothing else is left."""
    before = (await bench.guests.get(UID, "test")).config
    for seed in (1, 2):
        content = sparse(seed)
        await bench.fill(content)
        assert await bench.content() == content
    guest = await bench.guests.get(UID, "test")
    assert guest.stamp is not None
    root = guest.stamp.disk("root")
    assert root is not None
    assert bench.volumes() == {root.volume}
    assert guest.config["scsi0"] == before["scsi0"].replace(before["scsi0"].partition(",")[0], root.volume)
    assert (guest.description, guest.stamp.settings) == ("the shop", {})
    assert not [key for key in guest.config if key.startswith("unused")]
    assert imports(bench.server) == []
    assert list((bench.directory / "spool").iterdir()) == []


async def test_an_empty_disk_is_one_hole(bench: Bench) -> None:
    assert await bench.read() == [v1.Extent(offset=0, length=SIZE)]
    facts = await bench.disks.info(disk())
    assert (facts.size_bytes, facts.format) == (SIZE, "qcow2" if "shared" in next(iter(bench.volumes())) else "raw")
    assert 0 < facts.allocated_bytes <= SIZE


async def test_P40_reading_resumes_anywhere(bench: Bench) -> None:
    content = sparse(3)
    await bench.fill(content)
    for offset in (1, 512, 64 * KIB + 7, SIZE - 3):
        assert await bench.content(offset) == content[offset:]


async def test_holes_are_not_sent(file_bench: Bench) -> None:
    await file_bench.fill(b"a" * 4096 + bytes(SIZE - 4096))
    found = await file_bench.read()
    assert [(bool(extent.data), extent.offset + extent.length) for extent in found] == [(True, 64 * KIB), (False, SIZE)]


async def test_P40_a_write_that_broke_off_is_gone_on_with(file_bench: Bench) -> None:
    """Also by another process: what is kept is in a file."""
    content = sparse(4)
    parts = cut(content)
    half = await file_bench.write(parts[: len(parts) // 2])
    assert half == parts[len(parts) // 2].offset
    again = Uploads(file_bench.cluster, file_bench.guests, file_bench.disks, directory=file_bench.directory / "spool")
    file_bench.uploads = again
    assert await file_bench.write([]) == half
    with pytest.raises(StalePreconditionError, match=f"{half} bytes"):
        await file_bench.write(cut(content, half + 256 * KIB), resume=half + 256 * KIB)
    digest = hashlib.sha256(content).hexdigest()
    assert await file_bench.write(cut(content, half), resume=half, sha256=digest) == SIZE
    assert await file_bench.content() == content


async def test_a_write_that_begins_anew_forgets_an_earlier_one(file_bench: Bench) -> None:
    await file_bench.write(cut(sparse(5))[:4])
    content = bytes(SIZE - 1) + b"x"
    await file_bench.fill(content)
    assert await file_bench.content() == content


async def test_content_that_is_not_right_changes_nothing(file_bench: Bench) -> None:
    content = sparse(6)
    await file_bench.fill(content)
    volumes = file_bench.volumes()
    with pytest.raises(ChecksumMismatchError):
        await file_bench.write(cut(sparse(7)), sha256="0" * 64)
    assert await file_bench.write([]) == 0
    parts = cut(sparse(7))
    bad = max(index for index, extent in enumerate(parts) if extent.data)
    parts[bad].crc32c ^= 1
    with pytest.raises(ChecksumMismatchError):
        await file_bench.write(parts)
    assert await file_bench.write([]) <= parts[bad].offset
    assert file_bench.volumes() == volumes
    assert await file_bench.content() == content


@pytest.mark.parametrize("point", ["received", "uploaded", "noted", "swapped"])
async def test_a_write_that_was_killed_is_finished_by_the_next(pve: Proxmox, tmp_path: Path, point: str) -> None:
    """The line is cut there and then, as if the process had died; the disk is either the old or the new one."""
    machine(pve, *FILE)
    old, new, next_ = sparse(8), sparse(9), sparse(10)

    async def cut_line() -> None:
        await pve.down(0)
        raise DownloadFailedError("killed")

    plan = faults.FaultPlan().does(f"proxmox.disk.{point}", lambda _: cut_line())
    async with sshd(pve) as ssh:
        async with connected(pve, credentials_of(pve, tmp_path / "first")) as cluster:
            bench = Bench(pve, cluster, tmp_path, ssh)
            await bench.fill(old)
            with plan.installed(), pytest.raises(DownloadFailedError):
                await bench.fill(new)
        await pve.up(0)
        async with connected(pve, credentials_of(pve, tmp_path / "second")) as cluster:
            bench = Bench(pve, cluster, tmp_path, ssh)
            assert await bench.content() == (new if point == "swapped" else old)
            await bench.fill(next_)
            assert await bench.content() == next_
            assert (len(bench.volumes()), imports(pve)) == (1, [])
            guest = await bench.guests.get(UID, "test")
            assert guest.stamp is not None
            assert guest.stamp.settings == {}


@pytest.mark.parametrize("instead", ["", "local-lvm:vm-900-disk-3,size=8M"], ids=["nothing", "another"])
async def test_a_disk_that_a_person_unplugs_before_it_is_exchanged_is_kept(file_bench: Bench, instead: str) -> None:
    """What is not replaced by its new content is the only copy there is."""
    old = sparse(13)
    await file_bench.fill(old)
    config = file_bench.server.world.guests[101].config
    volume = config["scsi0"].partition(",")[0]

    def unplug(_: str) -> None:
        config["unused0"] = volume
        del config["scsi0"]
        if instead:
            config["scsi0"] = instead

    plan = faults.FaultPlan().does("proxmox.disk.noted", unplug)
    with plan.installed(), pytest.raises(StalePreconditionError):
        await file_bench.fill(sparse(14))
    assert volume in file_bench.volumes()
    assert config["unused0"] == volume
    guest = await file_bench.guests.get(UID, "test")
    assert guest.stamp is not None
    assert (guest.stamp.settings, guest.stamp.disks[0].volume) == ({}, volume)


async def test_nothing_is_left_when_the_machine_goes(file_bench: Bench) -> None:
    await file_bench.write(cut(sparse(11))[:4])
    await file_bench.uploads.clear(UID, "test")
    assert list((file_bench.directory / "spool").iterdir()) == []
    assert await file_bench.write([]) == 0


async def test_a_write_can_be_cancelled_while_it_waits(file_bench: Bench) -> None:
    waits = asyncio.Event()
    target = v1.WriteDiskTarget(disk=disk(), size_bytes=SIZE)

    async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
        yield v1.WriteDiskRequest(extent=cut(sparse(12))[0])
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(file_bench.uploads.write(target, Incoming(target, requests())))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await file_bench.write([]) == 256 * KIB


# -- what is refused -------------------------------------------------------------------------------------------------


async def test_a_running_machine_is_neither_read_nor_written(file_bench: Bench) -> None:
    await file_bench.cluster.run("test", "POST", "nodes/pve1/qemu/101/status/start", {})
    await file_bench.cluster.refresh(101, "test")
    with pytest.raises(WrongPowerStateError):
        await file_bench.read()
    with pytest.raises(WrongPowerStateError):
        await file_bench.write(cut(sparse(13)))


async def test_a_machine_that_is_started_ends_its_reader(file_bench: Bench) -> None:
    await file_bench.fill(random.Random(14).randbytes(SIZE))
    async with aclosing(file_bench.disks.read(v1.ReadDiskRequest(disk=disk()))) as found:
        await anext(found)
        await file_bench.cluster.run("test", "POST", "nodes/pve1/qemu/101/status/start", {})
        await file_bench.cluster.refresh(101, "test")
        with pytest.raises(WrongPowerStateError):
            await anext(found)


async def test_a_snapshot_is_read_while_the_machine_runs(file_bench: Bench) -> None:
    """And what stands on snapshots is not replaced under them."""
    content = sparse(15)
    await file_bench.fill(content)
    request = v1.CreateSnapshotRequest(machine_uid=UID, uid=str(uuid.uuid4()), name="before")
    taken = await file_bench.snapshots.create(request, lambda _done, _phase: None)
    with pytest.raises(NotSupportedError, match="snapshots stand on it"):
        await file_bench.fill(sparse(16))
    await file_bench.cluster.run("test", "POST", "nodes/pve1/qemu/101/status/start", {})
    await file_bench.cluster.refresh(101, "test")
    assert await file_bench.content(snapshot=taken.id) == content
    assert await file_bench.content(64 * KIB + 7, snapshot=taken.id) == content[64 * KIB + 7 :]
    with pytest.raises(SnapshotNotFoundError):
        await file_bench.read(snapshot="none")


async def test_what_can_not_be_done_is_refused(file_bench: Bench) -> None:
    with pytest.raises(ResourceNotFoundError):
        await file_bench.read(name="other")
    with pytest.raises(InvalidSpecError, match="size_bytes"):
        await file_bench.write(cut(sparse(17)), size=SIZE + 512)
    with pytest.raises(NotSupportedError, match="a gap"):
        await file_bench.write([extents.data(512, bytes(range(256)) * 2)])
    with pytest.raises(StalePreconditionError, match="what changed"):
        await anext(file_bench.disks.read(v1.ReadDiskRequest(disk=disk(), changed_since="x")))
    guest = await file_bench.guests.get(UID, "test")
    assert guest.stamp is not None
    root = guest.stamp.disk("root")
    assert root is not None
    foreign = stamp.written("", guest.stamp.with_disk(replace(root, owned=False)))
    await file_bench.guests.change(guest, "test", description=foreign)
    with pytest.raises(NotSupportedError, match="somebody else's"):
        await file_bench.write(cut(sparse(17)))


# -- the way to the node ---------------------------------------------------------------------------------------------


async def test_only_set_up_ways_count(pve: Proxmox, tmp_path: Path) -> None:
    machine(pve, *FILE)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        bench = Bench(pve, cluster, tmp_path, None)
        assert not bench.disks.can_read()
        with pytest.raises(NotSupportedError, match=r"proxmox\.md"):
            await bench.read()
        await cluster.wait_known()
        assert bench.uploads.can_write()


async def test_an_unknown_host_key_is_refused(file_bench: Bench) -> None:
    known = file_bench.directory / "ssh" / "known_hosts"
    known.write_text(known.read_text().replace("pve1 ", "pve9 "))
    with pytest.raises(CredentialsRefusedError, match="known_hosts"):
        await file_bench.read()


async def test_a_key_that_the_node_does_not_take_is_told(file_bench: Bench) -> None:
    other = Sshd(file_bench.server.world)
    (file_bench.directory / "ssh" / "ssh_privatekey").write_text(other.key)
    with pytest.raises(CredentialsRefusedError, match="does not accept our SSH key") as refusal:
        await file_bench.read()
    assert "PRIVATE" not in str(refusal.value)
    (file_bench.directory / "ssh" / "ssh_privatekey").write_text("no key")
    with pytest.raises(CredentialsRefusedError, match="SSH files"):
        await file_bench.read()


async def test_a_node_that_is_away_is_told(pve: Proxmox, tmp_path: Path) -> None:
    machine(pve, *FILE)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        async with sshd(pve) as ssh:
            bench = Bench(pve, cluster, tmp_path, ssh)
        with pytest.raises(HypervisorUnavailableError, match="SSH to node pve1"):
            await bench.read()


async def test_what_the_node_says_is_told(file_bench: Bench) -> None:
    """Its volume may have gone meanwhile."""
    volume = next(iter(file_bench.volumes()))
    del file_bench.server.world.storage("shared").on("pve1")[volume]
    with pytest.raises(ProviderError, match="node pve1 says: pvesm knows no volume"):
        await file_bench.read()


async def test_the_node_is_asked_for_nothing_else(pve: Proxmox, tmp_path: Path) -> None:
    machine(pve, *FILE)
    async with (
        sshd(pve) as ssh,
        connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster,
    ):
        bench = Bench(pve, cluster, tmp_path, ssh)
        await bench.content()
        assert ssh.asked == [f"virtrigaud-disk {FILE[0]}"]
        async with aclosing(bench.disks.read(v1.ReadDiskRequest(disk=disk()))) as found:
            await anext(found)
            assert not ssh.idle.is_set()
        await ssh.idle.wait()  # a reader that goes away lets go


def servers_of(path: Path) -> list[str]:
    """Command lines of the qemu-nbd that serve something there."""
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines.append(each.read_bytes().replace(b"\0", b" ").decode())
    return [line for line in lines if line.startswith("qemu-nbd ") and str(path) in line]


async def test_the_command_puts_its_node_right_when_its_reader_has_gone(tmp_path: Path) -> None:
    """As OpenSSH leaves it: with a pipe that nobody reads."""
    volume, pvesm, temporary = tmp_path / "vm-1-disk-0.raw", tmp_path / "pvesm", tmp_path / "temporary"
    volume.write_bytes(bytes(MIB))
    pvesm.write_text(f"#!/bin/sh\necho {volume}\n")
    pvesm.chmod(0o755)
    temporary.mkdir()
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "SSH_ORIGINAL_COMMAND": "virtrigaud-disk local:1/vm-1-disk-0.raw",
    }
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        str(COMMAND), stdin=asyncio.subprocess.PIPE, stdout=writing, env=environment
    )
    os.close(writing)
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    assert list(temporary.iterdir()) == []
    assert servers_of(tmp_path) == []


async def test_a_mounted_storage_is_read_without_ssh(pve: Proxmox, tmp_path: Path) -> None:
    pve.world.storages["shared"].root = tmp_path / "mounted"
    machine(pve, *FILE)
    async with connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        bench = Bench(pve, cluster, tmp_path, None, root="shared")
        assert bench.disks.can_read()
        with pytest.raises(ResourceNotFoundError, match="mounted there"):
            await bench.read()
        bytes_of_volume(pve.world, "pve1", FILE[0])
        content = sparse(18)
        await bench.fill(content)
        assert await bench.content() == content
        assert await bench.content(64 * KIB + 7) == content[64 * KIB + 7 :]


async def test_a_mounted_file_that_is_no_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    there = tmp_path / "mounted" / "images" / "101" / "vm-101-disk-0.qcow2"
    there.parent.mkdir(parents=True)
    there.write_text("no qcow2")
    with pytest.raises(HypervisorUnavailableError, match="not in qcow2 format"):
        async with Mounted({"shared": tmp_path / "mounted"}).open(FILE[0], "", "test"):
            pytest.fail("it opened")
    assert servers_of(tmp_path) == []


SILENT = """#!{python}
import os, socket, sys, time
(path,) = (each.partition("=")[2] for each in sys.argv if each.startswith("--socket="))
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
client, _ = listening.accept()
open("{met}.new", "w").write(str(os.getpid()))
os.rename("{met}.new", "{met}")
time.sleep(600)
"""


async def test_a_mounted_disk_that_nobody_agreed_on_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wanted it leaves while the two talk: a qemu-nbd would wait for another client for ever."""
    silent, met = tmp_path / "bin" / "qemu-nbd", tmp_path / "met"
    there = tmp_path / "mounted" / "images" / "101" / "vm-101-disk-0.qcow2"
    for path, text in ((silent, SILENT.format(python=sys.executable, met=met)), (there, "")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    silent.chmod(0o700)
    monkeypatch.setenv("PATH", f"{silent.parent}:{os.environ['PATH']}")

    async def read() -> None:
        async with Mounted({"shared": tmp_path / "mounted"}).open(FILE[0], "", "test"):
            pytest.fail("it opened")

    reading = asyncio.ensure_future(read())
    await eventually(met.exists, lambda: asyncio.sleep(0.02))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(ProcessLookupError):
        os.kill(int(met.read_text()), 0)


async def test_a_mount_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads from it hangs; we end that, and say what it was."""
    hangs = tmp_path / "bin" / "qemu-nbd"
    there = tmp_path / "mounted" / "images" / "101" / "vm-101-disk-0.qcow2"
    for path, text in ((hangs, "#!/bin/sh\nexec sleep 600\n"), (there, "")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    hangs.chmod(0o700)
    monkeypatch.setenv("PATH", f"{hangs.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(mounted, "_START_SECONDS", 0.1)
    with pytest.raises(HypervisorUnavailableError, match="does the mount answer"):
        async with Mounted({"shared": tmp_path / "mounted"}).open(FILE[0], "", "test"):
            pytest.fail("it opened")


async def test_an_exchange_that_is_cancelled_is_over_when_the_cancellation_leaves(pve: Proxmox, tmp_path: Path) -> None:
    """What follows, a destroy or a start, meets either the old disk or the new one, and a stamp that tells which."""
    machine(pve, *FILE)
    async with sshd(pve) as ssh, connected(pve, credentials_of(pve, tmp_path / "credentials")) as cluster:
        bench = Bench(pve, cluster, tmp_path, ssh)
        content = sparse(20)
        asked = asyncio.Event()
        pve.checks.append(lambda call: asked.set() if "import-from" in str(call.params) else None)
        pve.world.tasks.hold("qmconfig")
        task = asyncio.ensure_future(bench.fill(content))
        await asked.wait()
        task.cancel()
        pve.world.tasks.release("qmconfig")
        with pytest.raises(asyncio.CancelledError):
            await task
        guest = await bench.guests.get(UID, "test")
        assert guest.stamp is not None
        root = guest.stamp.disk("root")
        assert root is not None
        assert guest.config["scsi0"].startswith(f"{root.volume},")
        assert (guest.stamp.settings, bench.volumes()) == ({}, {root.volume})
        assert await bench.content() in (content, bytes(SIZE))
