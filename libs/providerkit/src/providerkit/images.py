"""Images: prepared once however many ask, followed as an operation."""

from __future__ import annotations

import asyncio
import dataclasses

from common import faults, logging, tracing, v1
from common.clock import Clock
from common.errors import ImageNotFoundError, InvalidSpecError

from .driver import Driver
from .operations import Job, Operations
from .violations import check_identity, has_control, shown

log = logging.get(__name__)

PREPARE_BEFORE = faults.declare("images.prepare.before", "an image was asked for and nothing is there yet")
PREPARE_AFTER = faults.declare("images.prepare.after", "an image is ready and nobody knows yet")
DELETE_BEFORE = faults.declare("images.delete.before", "an image is about to be removed")

_CHECKSUM_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}


class Images:
    """Prepared images of one provider."""

    def __init__(
        self, driver: Driver, operations: Operations, clock: Clock, *, owner: str, short_wait: float = 1.0
    ) -> None:
        self._driver = driver
        self._operations = operations
        self._clock = clock
        self._owner = owner
        self._short_wait = short_wait
        self._jobs: dict[str, Job[v1.Image]] = {}
        self._leaving: dict[str, asyncio.Event] = {}

    async def prepare(
        self, request: v1.PrepareImageRequest, *, remaining: float | None = None
    ) -> tuple[v1.Image | None, v1.Operation | None]:
        """The image when it is ready; else the one operation that makes it, shared by all who ask.

        Raises:
            InvalidSpecError: the request can never work; every fault is named.
            ImageNotFoundError: with check_only, it is neither there nor being made.
        """
        if violations := _violations(request, self._owner):
            raise InvalidSpecError("; ".join(violations))
        request = dataclasses.replace(request, owner=self._owner)
        image_id = await self._driver.image_id(request)
        if (leaving := self._leaving.get(image_id)) is not None:
            await leaving.wait()  # what is being removed is not ready, however ready it still looks
        job = self._jobs.get(image_id)
        if job is None:
            if (image := await self._driver.get_image(image_id)) is not None:
                return image, None
            if request.check_only:
                raise ImageNotFoundError(f"image {request.namespace}/{request.name} is not prepared here")
            job = self._jobs.get(image_id) or self._begin(image_id, request)
        elif request.check_only:
            return None, job.show()
        seconds = self._short_wait if remaining is None else min(self._short_wait, remaining * 0.8)
        if not await job.wait(self._clock, seconds):
            return None, job.show()
        return job.result(), None

    async def get(self, image_id: str) -> v1.Image:
        """A prepared image.

        Raises:
            ImageNotFoundError: there is none of this id.
        """
        image = await self._driver.get_image(_image_id(image_id))
        if image is None:
            raise ImageNotFoundError(f"there is no prepared image {shown(image_id)}")
        return image

    async def all(self) -> list[v1.Image]:
        """Every image that was prepared here."""
        return await self._driver.list_images()

    async def delete(self, image_id: str) -> None:
        """Remove a prepared image; one that is being made is stopped first."""
        while (job := self._jobs.get(_image_id(image_id))) is not None:
            job.cancel()
            await job.ended.wait()
        self._leaving[image_id] = gone = asyncio.Event()
        try:
            await faults.point(DELETE_BEFORE)
            await self._driver.delete_image(image_id)
        finally:
            gone.set()
            if self._leaving.get(image_id) is gone:
                del self._leaving[image_id]
        log.info("image.deleted", image=image_id)

    def _begin(self, image_id: str, request: v1.PrepareImageRequest) -> Job[v1.Image]:
        async def body(job: Job[v1.Image]) -> v1.Image:
            await faults.point(PREPARE_BEFORE)
            log.info("image.prepare", image=image_id, namespace=request.namespace, name=request.name)
            with tracing.span("driver.prepare_image", image=image_id):
                image = await self._driver.prepare_image(request, job.progress)
            await faults.point(PREPARE_AFTER)
            return image

        def free(job: Job[v1.Image]) -> None:
            del self._jobs[image_id]

        job = self._operations.start("prepare-image", image_id, body, at_end=free)
        self._jobs[image_id] = job
        return job


def _image_id(text: str) -> str:
    if not text or len(text) > 1024 or has_control(text):
        raise InvalidSpecError(f"id: {shown(text)} is no image id")
    return text


def _violations(request: v1.PrepareImageRequest, owner: str) -> list[str]:
    identity = v1.MachineIdentity(uid=request.uid, namespace=request.namespace, name=request.name, owner=request.owner)
    found = [violation.removeprefix("identity.") for violation in check_identity(identity)]
    if request.owner not in ("", owner):
        found.append(f"owner: this server keeps images of {shown(owner)}, not of {shown(request.owner)}")
    if has_control(request.storage) or "/" in request.storage:
        found.append(f"storage: {shown(request.storage)} is no storage name")
    source = request.source
    if source is None:
        return [*found, "source: is missing"]
    if all(one is None for one in (source.url, source.file, source.template, source.library, source.registry)):
        found.append("source: names neither url, file, template, library nor registry")
    if source.checksum is not None and source.checksum.digest:
        length = _CHECKSUM_LENGTHS.get(source.checksum.algorithm)
        digest = source.checksum.digest
        if length is None:
            known = ", ".join(_CHECKSUM_LENGTHS)
            found.append(f"source.checksum.algorithm: {shown(source.checksum.algorithm)} is none of {known}")
        elif len(digest) != length or set(digest) - set("0123456789abcdef"):
            found.append(f"source.checksum.digest: is not {length} lower-case hexadecimal digits")
    if has_control(source.format) or len(source.format) > 32:
        found.append(f"source.format: {shown(source.format)} is no image format")
    return found
