"""What every provider owes its callers about images."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from common import status, v1
from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidSpecError,
    ProviderError,
)

from .subject import OWNER, Subject


def request(source: v1.ImageSource, **fields: object) -> v1.PrepareImageRequest:
    """For a new VMImage."""
    uid = str(uuid.uuid4())
    return v1.PrepareImageRequest(uid=uid, namespace="contract", name="small", owner=OWNER, source=source, **fields)  # type: ignore[arg-type]  # fields of the message


async def prepare(subject: Subject, wish: v1.PrepareImageRequest) -> v1.Image:
    """Prepare to the end, as a controller does."""
    async with asyncio.timeout(subject.pace.settle + subject.pace.call):
        while True:
            answer = await subject.images.prepare_image(wish, timeout=subject.pace.call)
            if answer.image is not None:
                image: v1.Image = answer.image
                return image
            ended = await subject.ended(answer.operation)
            if ended.state is v1.OperationState.FAILED:
                raise _error(ended)


def _error(operation: v1.Operation) -> ProviderError:
    assert operation.error is not None
    return status.from_wire(operation.error)


def _source(subject: Subject) -> v1.ImageSource:
    if subject.traits.image is None:
        pytest.skip("this provider's tests have no image source")
    return subject.traits.image()


class ImageContract:
    """Prepared once, verified, never removed under a machine."""

    async def test_prepare_twice_is_once(self, subject: Subject) -> None:
        wish = request(_source(subject))
        first = await prepare(subject, wish)
        assert first.virtual_size_bytes > 0
        assert first.uid == wish.uid
        assert await prepare(subject, wish) == first
        got = await subject.images.get_image(v1.GetImageRequest(id=first.id), timeout=subject.pace.call)
        assert got.image == first
        listed = await subject.images.list_images(v1.ListImagesRequest(), timeout=subject.pace.call)
        assert [image.id for image in listed.images].count(first.id) == 1
        await subject.images.delete_image(v1.DeleteImageRequest(id=first.id), timeout=subject.pace.call)

    async def test_W40_equal_requests_share_one_operation(self, subject: Subject) -> None:
        wish = request(_source(subject))
        subject.faults.hangs("images.prepare.before")
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(subject.images.prepare_image(wish, timeout=subject.pace.call)) for _ in range(10)
            ]
        operations = {call.result().operation.id for call in calls}
        assert len(operations) == 1
        check = v1.PrepareImageRequest.from_dict(wish.to_dict())
        check.check_only = True
        answer = await subject.images.prepare_image(check, timeout=subject.pace.call)
        assert answer.operation.id in operations
        cancel = v1.CancelOperationRequest(id=operations.pop())
        await subject.operations.cancel_operation(cancel, timeout=subject.pace.call)
        assert (await subject.ended(answer.operation)).state is v1.OperationState.CANCELLED

    async def test_check_only_begins_nothing(self, subject: Subject) -> None:
        wish = request(_source(subject), check_only=True)
        with pytest.raises(ImageNotFoundError):
            await subject.images.prepare_image(wish, timeout=subject.pace.call)
        assert subject.faults.passed.get("images.prepare.before", 0) == 0

    async def test_a_broken_image_is_refused_and_not_kept(self, subject: Subject) -> None:
        if subject.traits.broken_image is None:
            pytest.skip("this provider's tests have no broken image")
        wish = request(subject.traits.broken_image())
        with pytest.raises(BrokenImageError):
            await prepare(subject, wish)
        await _nothing_kept(subject, wish)

    async def test_a_wrong_checksum_is_refused_and_not_kept(self, subject: Subject) -> None:
        source = _source(subject)
        source.checksum = v1.Checksum(algorithm="sha256", digest="0" * 64)
        wish = request(source)
        with pytest.raises(ChecksumMismatchError):
            await prepare(subject, wish)
        await _nothing_kept(subject, wish)

    @pytest.mark.parametrize(
        ("field", "source"),
        [
            ("source", None),
            ("source", v1.ImageSource()),
            ("source.url", v1.ImageSource(url=v1.UrlSource(url="gopher://x"))),
            ("source.url", v1.ImageSource(url=v1.UrlSource(url="http://user:secret@host.example/x"))),
            ("source.file", v1.ImageSource(file=v1.FileSource(path="/images/../etc/shadow"))),
            (
                "checksum",
                v1.ImageSource(url=v1.UrlSource(url="http://a.example/"), checksum=v1.Checksum("crc32", "00")),
            ),
            (
                "checksum",
                v1.ImageSource(url=v1.UrlSource(url="http://a.example/"), checksum=v1.Checksum("sha256", "XX")),
            ),
        ],
    )
    async def test_a_source_that_can_never_work_is_refused(
        self, subject: Subject, field: str, source: v1.ImageSource | None
    ) -> None:
        wish = v1.PrepareImageRequest(uid=str(uuid.uuid4()), namespace="contract", name="bad", source=source)
        with pytest.raises(InvalidSpecError, match=field) as refusal:
            await subject.images.prepare_image(wish, timeout=subject.pace.call)
        assert "secret" not in str(refusal.value)

    async def test_an_image_in_use_stays(self, subject: Subject) -> None:
        if subject.traits.copies_images:
            pytest.skip("no machine of this provider's tests stands on an image")
        image = await prepare(subject, request(_source(subject)))
        spec = subject.spec()
        spec.disks[0].image = v1.ImageRef(id=image.id)
        spec.disks[0].size_bytes = 0
        machine = (await subject.settle(spec)).machine
        assert machine.disks[0].image_id == image.id
        assert machine.disks[0].size_bytes >= image.virtual_size_bytes
        delete = v1.DeleteImageRequest(id=image.id)
        with pytest.raises(ImageInUseError, match=spec.identity.uid):
            await subject.images.delete_image(delete, timeout=subject.pace.call)
        await subject.delete(spec.identity)
        got = await subject.images.get_image(v1.GetImageRequest(id=image.id), timeout=subject.pace.call)
        assert got.image == image
        for _ in range(2):
            await subject.images.delete_image(delete, timeout=subject.pace.call)
        with pytest.raises(ImageNotFoundError):
            await subject.images.get_image(v1.GetImageRequest(id=image.id), timeout=subject.pace.call)

    async def test_a_copy_outlives_its_image(self, subject: Subject) -> None:
        """What no machine stands on may go; the machine that was made from it stays as it is."""
        if not subject.traits.copies_images:
            pytest.skip("machines of this provider stand on their images")
        image = await prepare(subject, request(_source(subject)))
        spec = subject.spec()
        spec.disks[0].image = v1.ImageRef(id=image.id)
        spec.disks[0].size_bytes = 0
        machine = (await subject.settle(spec)).machine
        assert machine.disks[0].image_id == image.id
        assert machine.disks[0].size_bytes >= image.virtual_size_bytes
        for _ in range(2):
            await subject.images.delete_image(v1.DeleteImageRequest(id=image.id), timeout=subject.pace.call)
        with pytest.raises(ImageNotFoundError):
            await subject.images.get_image(v1.GetImageRequest(id=image.id), timeout=subject.pace.call)
        assert (await subject.get(spec.identity.uid)).disks == machine.disks
        assert not (await subject.plan(spec)).changes
        await subject.delete(spec.identity)

    async def test_images_outlive_the_server(self, subject: Subject) -> None:
        wish = request(_source(subject))
        image = await prepare(subject, wish)
        await subject.restart()
        check = v1.PrepareImageRequest.from_dict(wish.to_dict())
        check.check_only = True
        assert (await subject.images.prepare_image(check, timeout=subject.pace.call)).image == image
        await subject.images.delete_image(v1.DeleteImageRequest(id=image.id), timeout=subject.pace.call)


async def _nothing_kept(subject: Subject, wish: v1.PrepareImageRequest) -> None:
    listed = await subject.images.list_images(v1.ListImagesRequest(), timeout=subject.pace.call)
    assert wish.uid not in {image.uid for image in listed.images}
