"""Images of the fake: made-up ones of hosts under .example, real files, and what a test serves."""

from __future__ import annotations

import copy
import hashlib
import struct
from pathlib import Path
from urllib.parse import urlsplit

from common import v1
from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    DownloadFailedError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidSpecError,
)

from providerkit.driver import Progress

from .world import GIB, FakeHypervisor


class FakeImages:
    """Verbs of images; see `Driver`."""

    def __init__(self, world: FakeHypervisor) -> None:
        self._world = world

    def image_id(self, request: v1.PrepareImageRequest) -> str:
        source = request.source or v1.ImageSource()
        if source.url is None and source.file is None:
            raise InvalidSpecError("source: the fake takes url and file")
        if source.url is not None:
            parts = urlsplit(source.url.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise InvalidSpecError("source.url: is not an http or https URL without user information")
        if source.file is not None and (not source.file.path.startswith("/") or ".." in Path(source.file.path).parts):
            raise InvalidSpecError("source.file.path: is not an absolute path without ..")
        if source.format not in ("", "qcow2", "raw"):
            raise InvalidSpecError(f"source.format: {source.format[:32]!r} is neither qcow2 nor raw")
        text = source.url.url if source.url is not None else source.file.path if source.file is not None else ""
        checksum = source.checksum or v1.Checksum()
        key = "\n".join((request.uid, text, source.format, checksum.algorithm, checksum.digest))
        return f"image-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    async def prepare(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        image_id = self.image_id(request)
        if (ready := self._world.images.get(image_id)) is not None:
            return copy.deepcopy(ready)
        assert request.source is not None
        progress(0.0, "fetching")
        content = self._fetch(request.source)
        await self._world.enter("prepare_image")
        progress(0.5, "verifying")
        checksum = request.source.checksum
        if checksum is not None and checksum.digest:
            digest = hashlib.new(checksum.algorithm, content, usedforsecurity=False).hexdigest()
            if digest != checksum.digest:
                raise ChecksumMismatchError(
                    f"image {request.namespace}/{request.name}: {checksum.algorithm} is {digest}"
                )
        format_, virtual_size = _image_format(
            f"image {request.namespace}/{request.name}", request.source.format, content
        )
        self._world.reserve(f"prepare image {request.namespace}/{request.name}", len(content))
        image = v1.Image(
            id=image_id, location=f"fake:{image_id}", format=format_, size_bytes=len(content),
            virtual_size_bytes=virtual_size, source_digest=hashlib.sha256(content).hexdigest(), uid=request.uid,
            namespace=request.namespace, name=request.name, create_time=self._world.clock.now(),
        )  # fmt: skip
        self._world.images[image_id] = image
        self._world.save()
        return copy.deepcopy(image)

    def _fetch(self, source: v1.ImageSource) -> bytes:
        if source.file is not None:
            try:
                return Path(source.file.path).read_bytes()
            except OSError as error:
                raise ImageNotFoundError(f"image file {source.file.path}: {error.strerror}") from error
        url = source.url.url if source.url is not None else ""
        if url in self._world.urls:
            return self._world.urls[url]
        host = urlsplit(url).hostname or ""
        if host == "example" or host.endswith(".example"):
            return _QCOW2.pack(b"QFI\xfb", 3, 0, 0, 16, GIB) + url.encode()  # a made-up image: the URL is its content
        raise DownloadFailedError(f"fetch image: host {host} gave no answer")

    async def get(self, image_id: str) -> v1.Image | None:
        await self._world.enter("get_image")
        return copy.deepcopy(self._world.images.get(image_id))

    async def list(self) -> list[v1.Image]:
        await self._world.enter("list_images")
        return copy.deepcopy(list(self._world.images.values()))

    async def delete(self, image_id: str) -> None:
        await self._world.enter("delete_image")
        users = sorted(
            {volume.uid or volume.id for volume in self._world.volumes.values() if volume.image_id == image_id}
        )
        if users:
            raise ImageInUseError(f"image {image_id} is in use by machines {', '.join(users)}")
        self._world.images.pop(image_id, None)
        self._world.save()


_QCOW2 = struct.Struct(">4sIQIIQ")
"""Magic, version, backing file offset and size, cluster bits, capacity. Source: QEMU docs/interop/qcow2.rst."""


def _image_format(what: str, claimed: str, content: bytes) -> tuple[str, int]:
    """Format and capacity in bytes of an image, which must be what it claims to be."""
    is_qcow2 = content[:4] == b"QFI\xfb"
    if is_qcow2 and claimed != "raw":
        if len(content) < _QCOW2.size:
            raise BrokenImageError(f"{what}: a qcow2 file that ends within its header")
        capacity = _QCOW2.unpack_from(content)[5]
        return "qcow2", int(capacity)
    if claimed == "qcow2" or not content:
        raise BrokenImageError(f"{what}: is no qcow2 file")
    return "raw", len(content)
