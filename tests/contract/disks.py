"""What every provider owes its callers about the content of disks."""

from __future__ import annotations

import asyncio
import hashlib
import random
import uuid
from collections.abc import AsyncIterator, Iterable

import google_crc32c
import pytest
from common import v1
from common.errors import (
    ChecksumMismatchError,
    ForeignMachineError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    OperationCancelledError,
    ProviderError,
    ResourceNotFoundError,
    SnapshotNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)

from . import snapshots
from .subject import OFF, ON, Subject

KIB = 1 << 10
STEP = 256 * KIB
"""Most bytes of an extent that these tests send."""


def ref(spec: v1.MachineSpec, *, snapshot_id: str = "", name: str = "root") -> v1.DiskRef:
    assert spec.identity is not None
    return v1.DiskRef(machine_uid=spec.identity.uid, disk_name=name, snapshot_id=snapshot_id)


def sparse(size: int, seed: int) -> bytes:
    """Content with holes of all sizes, at borders and across them."""
    seeds, content = random.Random(seed), bytearray(size)
    for _ in range(12):
        start = seeds.randrange(size)
        length = min(size - start, seeds.choice((1, 511, 4 * KIB, 64 * KIB, 300 * KIB)))
        content[start : start + length] = seeds.randbytes(length)
    content[:9] = content[-9:] = b"the edges"
    return bytes(content)


def extents(content: bytes, start: int = 0) -> list[v1.Extent]:
    """As a sender cuts them: zeros of 64 KiB are holes, neighbours are joined."""
    found: list[v1.Extent] = []
    for at in range(start, len(content), 64 * KIB):
        block = content[at : at + 64 * KIB]
        last = found[-1] if found else None
        if not any(block):
            if last is not None and not last.data:
                last.length += len(block)
            else:
                found.append(v1.Extent(offset=at, length=len(block)))
        elif last is not None and last.data and last.length < STEP:
            last.data, last.length = last.data + block, last.length + len(block)
        else:
            found.append(v1.Extent(offset=at, length=len(block), data=block))
    for extent in found:
        extent.crc32c = google_crc32c.value(extent.data) if extent.data else 0
    return found


async def write(
    subject: Subject,
    disk: v1.DiskRef,
    size: int,
    parts: Iterable[v1.Extent],
    *,
    sha256: str = "",
    resume_offset: int = 0,
) -> v1.WriteDiskResponse:
    """One call, as it answers."""

    async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
        target = v1.WriteDiskTarget(disk=disk, size_bytes=size, resume_offset=resume_offset)
        yield v1.WriteDiskRequest(target=target)
        for extent in parts:
            yield v1.WriteDiskRequest(extent=extent)
        if sha256:
            yield v1.WriteDiskRequest(finish_sha256=sha256)

    answer: v1.WriteDiskResponse = await subject.disks.write_disk(requests(), timeout=subject.pace.settle)
    return answer


async def filled(subject: Subject, disk: v1.DiskRef, content: bytes) -> None:
    """Write all of it."""
    digest = hashlib.sha256(content).hexdigest()
    answer = await write(subject, disk, len(content), extents(content), sha256=digest)
    assert answer == v1.WriteDiskResponse(offset=len(content), complete=True)


async def durable(subject: Subject, disk: v1.DiskRef, size: int) -> int:
    """Ask how far an unfinished write came: a write of nothing."""
    answer = await write(subject, disk, size, [])
    assert not answer.complete
    offset: int = answer.offset
    return offset


async def read(subject: Subject, disk: v1.DiskRef, **fields: object) -> list[v1.Extent]:
    """Every extent; what is true of each is checked on the way."""
    size = (await info(subject, disk)).size_bytes
    found: list[v1.Extent] = []
    request = v1.ReadDiskRequest(disk=disk, **fields)  # type: ignore[arg-type]  # fields of the message
    async for message in subject.disks.read_disk(request, timeout=subject.pace.settle):
        for extent in message.extents:
            end = found[-1].offset + found[-1].length if found else request.offset
            assert extent.offset >= end
            assert 0 < extent.length <= size - extent.offset
            if extent.data:
                assert len(extent.data) == extent.length <= 4 << 20
                assert extent.crc32c == google_crc32c.value(extent.data)
            found.append(extent)
    return found


async def content_of(subject: Subject, disk: v1.DiskRef, offset: int = 0) -> bytes:
    """Everything from an offset to the end, without a gap."""
    found = await read(subject, disk, offset=offset)
    position = offset
    for extent in found:
        assert extent.offset == position
        position += extent.length
    assert position == (await info(subject, disk)).size_bytes
    return b"".join(extent.data or bytes(extent.length) for extent in found)


async def info(subject: Subject, disk: v1.DiskRef) -> v1.GetDiskResponse:
    answer: v1.GetDiskResponse = await subject.disks.get_disk(v1.GetDiskRequest(disk=disk), timeout=subject.pace.call)
    return answer


async def made(subject: Subject, *capabilities: str, power: v1.PowerState = OFF) -> v1.MachineSpec:
    """A machine with an empty disk, where the provider has what the test is about."""
    can = await subject.can()
    lacking = [name for name in capabilities if not getattr(can, name)]
    if lacking:
        pytest.skip(f"not declared: {', '.join(lacking)}")
    spec = subject.spec(power=power)
    if "changed_blocks" in capabilities:
        spec.extra_config = dict(subject.traits.change_tracking)
    await subject.settle(spec)
    return spec


def size_of(subject: Subject) -> int:
    return subject.traits.disk_bytes


class DiskContract:
    """Sparse, checked, resumable; and never while somebody else writes."""

    async def test_an_empty_disk_is_one_hole(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read"))
        size = (await info(subject, disk)).size_bytes
        assert size >= size_of(subject)
        assert await read(subject, disk) == [v1.Extent(offset=0, length=size)]

    async def test_facts_of_a_disk(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        await filled(subject, disk, sparse(size_of(subject), 1))
        facts = await info(subject, disk)
        assert size_of(subject) <= facts.size_bytes
        assert 0 < facts.allocated_bytes <= facts.size_bytes
        assert facts.format

    @pytest.mark.parametrize("seed", [2, 3])
    async def test_what_is_written_is_read(self, subject: Subject, seed: int) -> None:
        """Also over what stood there before."""
        disk = ref(await made(subject, "disk_read", "disk_write"))
        for content in (sparse(size_of(subject), seed), sparse(size_of(subject), seed + 100)):
            await filled(subject, disk, content)
            assert await content_of(subject, disk) == content

    async def test_holes_stay_holes(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        content = b"a" * 4096 + bytes(size_of(subject) - 4096)
        await filled(subject, disk, content)
        found = await read(subject, disk)
        assert sum(len(extent.data) for extent in found) <= 1 << 20
        assert not found[-1].data

    async def test_a_written_disk_survives_the_server(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        content = sparse(size_of(subject), 4)
        await filled(subject, disk, content)
        await subject.restart()
        assert await content_of(subject, disk) == content

    async def test_P40_reading_resumes_anywhere(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        content = sparse(size_of(subject), 5)
        await filled(subject, disk, content)
        for offset in (1, 512, 64 * KIB + 7, len(content) - 3):
            assert await content_of(subject, disk, offset) == content[offset:]

    async def test_P26_a_machine_is_the_same_and_starts_after_its_disk_was_written(self, subject: Subject) -> None:
        """Writing content is no change of the spec."""
        spec = await made(subject, "disk_write")
        await filled(subject, ref(spec), sparse(size_of(subject), 6))
        assert (await subject.plan(spec)).changes == []
        spec.power.state = ON
        assert (await subject.settle(spec)).machine.power is ON

    async def test_nothing_is_left_of_a_machine_whose_disk_was_written(self, subject: Subject) -> None:
        spec = await made(subject, "disk_write")
        await filled(subject, ref(spec), sparse(size_of(subject), 7))
        await subject.delete(spec.identity)
        assert await subject.world.leftovers(spec.identity.uid) == []

    # -- what goes wrong -------------------------------------------------------------------------------------------

    async def test_a_damaged_extent_is_refused_and_not_kept(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        content = sparse(size_of(subject), 8)
        parts = extents(content)
        bad = max(index for index, extent in enumerate(parts) if extent.data)
        parts[bad].crc32c ^= 1
        with pytest.raises(ChecksumMismatchError):
            await write(subject, disk, len(content), parts, sha256=hashlib.sha256(content).hexdigest())
        assert await durable(subject, disk, len(content)) <= parts[bad].offset

    async def test_a_wrong_digest_is_refused(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_write"))
        content = sparse(size_of(subject), 9)
        with pytest.raises(ChecksumMismatchError):
            await write(subject, disk, len(content), extents(content), sha256="0" * 64)

    async def test_P40_a_write_that_broke_off_is_resumed_where_it_is_durable(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        content = sparse(size_of(subject), 10)
        parts = extents(content)
        answer = await write(subject, disk, len(content), parts[: len(parts) // 2])
        assert not answer.complete
        await subject.restart()
        offset = await durable(subject, disk, len(content))
        assert offset == answer.offset <= parts[len(parts) // 2].offset
        rest = extents(content, offset)
        digest = hashlib.sha256(content).hexdigest()
        answer = await write(subject, disk, len(content), rest, sha256=digest, resume_offset=offset)
        assert answer.complete
        assert await content_of(subject, disk) == content

    async def test_resuming_behind_what_is_durable_is_refused(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_write"))
        size = size_of(subject)
        with pytest.raises(StalePreconditionError):
            await write(subject, disk, size, [v1.Extent(offset=size - 512, length=512)], resume_offset=size - 512)

    async def test_a_writer_that_goes_away_lets_go(self, subject: Subject) -> None:
        spec = await made(subject, "disk_write")
        async with asyncio.TaskGroup() as group:
            call = await _stuck(subject, spec, group)
            call.cancel()
        spec.power.state = ON
        assert (await subject.settle(spec)).machine.power is ON

    async def test_a_machine_that_goes_ends_its_reader(self, subject: Subject) -> None:
        """With an error: what came is not all of it."""
        spec = await made(subject, "disk_read", "disk_write")
        await filled(subject, ref(spec), random.Random(15).randbytes(size_of(subject)))
        request = v1.ReadDiskRequest(disk=ref(spec), offset=1)
        async with subject.disks.read_disk(request, timeout=subject.pace.settle) as messages:
            seen = (await anext(messages)).extents[0].length
            await subject.delete(spec.identity)
            try:
                async for message in messages:
                    seen += message.extents[0].length
            except ProviderError:
                return
        assert seen == size_of(subject) - 1  # it was all on its way already

    async def test_a_write_holds_its_machine(self, subject: Subject) -> None:
        """Like any change: others are told of the operation, and a deletion ends it."""
        spec = await made(subject, "disk_write")
        async with asyncio.TaskGroup() as group:
            call = await _stuck(subject, spec, group)
            spec.power.state = ON
            answer = await subject.apply(spec)
            assert answer.operation is not None
            assert answer.operation.kind == "write-disk"
            await subject.delete(spec.identity)
            assert isinstance(await call, OperationCancelledError)
        assert await subject.world.leftovers(spec.identity.uid) == []

    async def test_a_reader_that_goes_away_lets_go(self, subject: Subject) -> None:
        spec = await made(subject, "disk_read", "disk_write")
        await filled(subject, ref(spec), random.Random(12).randbytes(size_of(subject)))
        async with subject.disks.read_disk(v1.ReadDiskRequest(disk=ref(spec)), timeout=subject.pace.settle) as messages:
            async for _ in messages:
                break
        spec.power.state = ON
        assert (await subject.settle(spec)).machine.power is ON

    @pytest.mark.parametrize(
        "parts",
        [
            [v1.Extent(offset=512, length=512), v1.Extent(offset=0, length=512)],
            [v1.Extent(offset=0, length=1024), v1.Extent(offset=512, length=512)],
            [v1.Extent(offset=0, length=0)],
            [v1.Extent(offset=0, length=1 << 50)],
            [v1.Extent(offset=0, length=7, data=b"short")],
        ],
    )
    async def test_extents_that_make_no_sense_are_refused(self, subject: Subject, parts: list[v1.Extent]) -> None:
        disk = ref(await made(subject, "disk_write"))
        with pytest.raises((InvalidSpecError, NotSupportedError)):
            await write(subject, disk, size_of(subject), parts)

    async def test_content_that_does_not_fit_is_refused(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_read", "disk_write"))
        size = (await info(subject, disk)).size_bytes
        with pytest.raises(InvalidSpecError, match="size_bytes"):
            await write(subject, disk, size + 512, [v1.Extent(offset=0, length=512)])

    async def test_what_is_not_there_is_not_found(self, subject: Subject) -> None:
        spec = await made(subject, "disk_read")
        nobody = v1.DiskRef(machine_uid=str(uuid.uuid4()), disk_name="root")
        for disk, error in ((nobody, MachineNotFoundError), (ref(spec, name="other"), ResourceNotFoundError)):
            with pytest.raises(error):
                await info(subject, disk)
            with pytest.raises(error):
                await _first(subject, disk)
            if (await subject.can()).disk_write:
                with pytest.raises(error):
                    await write(subject, disk, 512, [v1.Extent(offset=0, length=512)])
        if (await subject.can()).snapshots:
            with pytest.raises(SnapshotNotFoundError):
                await _first(subject, ref(spec, snapshot_id="none"))

    async def test_a_foreign_machine_is_neither_read_nor_written(self, subject: Subject) -> None:
        await made(subject, "disk_read")
        uid = str(uuid.uuid4())
        machine = await subject.world.make_foreign(f"foreign-{uid[:8]}", uid)
        before = await subject.world.fingerprint(machine)
        disk = v1.DiskRef(machine_uid=uid, disk_name="root")
        with pytest.raises(ForeignMachineError):
            await _first(subject, disk)
        if (await subject.can()).disk_write:
            with pytest.raises(ForeignMachineError):
                await write(subject, disk, 512, [v1.Extent(offset=0, length=512)])
        assert await subject.world.fingerprint(machine) == before

    # -- running machines and snapshots ----------------------------------------------------------------------------

    async def test_a_running_machines_disk_is_not_written(self, subject: Subject) -> None:
        disk = ref(await made(subject, "disk_write", power=ON))
        with pytest.raises(WrongPowerStateError):
            await write(subject, disk, size_of(subject), [v1.Extent(offset=0, length=512)])

    async def test_a_running_machines_disk_is_read_at_a_snapshot_only(self, subject: Subject) -> None:
        """What changes while it is read is no copy of anything."""
        spec = await made(subject, "disk_read", "disk_write", "snapshots")
        content = sparse(size_of(subject), 13)
        await filled(subject, ref(spec), content)
        spec.power.state = ON
        await subject.settle(spec)
        with pytest.raises(WrongPowerStateError):
            await _first(subject, ref(spec))
        taken = await snapshots.take(subject, spec.identity.uid)
        assert await content_of(subject, ref(spec, snapshot_id=taken.id)) == content
        assert await content_of(subject, ref(spec, snapshot_id=taken.id), 64 * KIB + 7) == content[64 * KIB + 7 :]

    async def test_what_changed_since_is_told(self, subject: Subject) -> None:
        """At least what changed, and not everything; applied to the old content it gives the new one."""
        spec = await made(subject, "disk_read", "disk_write", "changed_blocks", "snapshots")
        size = size_of(subject)
        old = bytearray(sparse(size, 14))
        await filled(subject, ref(spec), bytes(old))
        first = await snapshots.take(subject, spec.identity.uid, "first")
        before = (await info(subject, ref(spec, snapshot_id=first.id))).change_id
        assert before
        await subject.world.scribble(spec.identity.uid, "root", size // 2, b"something new")
        second = await snapshots.take(subject, spec.identity.uid, "second")
        now = ref(spec, snapshot_id=second.id)
        changed = await read(subject, now, changed_since=before)
        assert 0 < sum(extent.length for extent in changed) < size
        for extent in changed:
            old[extent.offset : extent.offset + extent.length] = extent.data or bytes(extent.length)
        assert bytes(old) == await content_of(subject, now)
        assert bytes(old[size // 2 : size // 2 + 13]) == b"something new"
        same = (await info(subject, now)).change_id
        assert await read(subject, now, changed_since=same) == []

    async def test_an_unknown_change_is_refused(self, subject: Subject) -> None:
        """Then all of it must be read: nothing at all would be a lie."""
        spec = await made(subject, "disk_read", "changed_blocks", "snapshots")
        taken = await snapshots.take(subject, spec.identity.uid)
        with pytest.raises(ProviderError) as refusal:
            await read(subject, ref(spec, snapshot_id=taken.id), changed_since="nothing like it")
        assert isinstance(refusal.value, StalePreconditionError | InvalidSpecError)


async def _stuck(
    subject: Subject, spec: v1.MachineSpec, group: asyncio.TaskGroup
) -> asyncio.Task[ProviderError | None]:
    """A write that waits for its sender, who has sent a little and says no more; its result is what it failed with."""
    content, begun = sparse(size_of(subject), 11), asyncio.Event()

    async def requests() -> AsyncIterator[v1.WriteDiskRequest]:
        yield v1.WriteDiskRequest(target=v1.WriteDiskTarget(disk=ref(spec), size_bytes=len(content)))
        yield v1.WriteDiskRequest(extent=extents(content)[0])
        begun.set()
        await asyncio.Event().wait()

    async def outcome() -> ProviderError | None:
        try:
            await subject.disks.write_disk(requests(), timeout=60)
        except ProviderError as error:
            return error
        return None

    call = group.create_task(outcome())
    await begun.wait()
    async with asyncio.timeout(subject.pace.settle):
        while True:
            listed = await subject.operations.list_operations(v1.ListOperationsRequest(), timeout=subject.pace.call)
            if all(each.kind != "write-disk" for each in listed.operations):
                await asyncio.sleep(0)  # not before the server has got the first of it
                continue
            return call


async def _first(subject: Subject, disk: v1.DiskRef) -> v1.ReadDiskResponse | None:
    """The first answer to a read, which some tests expect to be a refusal."""
    async with subject.disks.read_disk(v1.ReadDiskRequest(disk=disk), timeout=subject.pace.settle) as messages:
        async for message in messages:
            first: v1.ReadDiskResponse = message
            return first
    return None
