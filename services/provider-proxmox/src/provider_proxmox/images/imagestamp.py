"""An image's stamp: whose a template is that we made, in its description, given with the very call that makes it.

It names the VMID, so that a copy that brings it along is no image. A guest that has one and is no template is what an
interrupted import left.
"""

from __future__ import annotations

from dataclasses import dataclass

from providerkit.records import decoded

from provider_proxmox import comment

MARK = "virtrigaud-image"


@dataclass(frozen=True)
class ImageStamp:
    """Everything in the comment."""

    id: str
    uid: str
    namespace: str
    name: str
    owner: str
    vmid: int
    """The guest that it was written for; on another one it means nothing."""
    created: int = 0
    """Seconds since 1970."""
    source_digest: str = ""
    """sha256 of what was fetched."""
    size_bytes: int = 0
    """Bytes that were fetched."""
    format: str = ""
    """Of what was fetched."""


def written(stamp: ImageStamp) -> str:
    """As a description."""
    return comment.written(f"Image {stamp.namespace}/{stamp.name}", MARK, stamp)


def read(description: str, vmid: int) -> ImageStamp | None:
    """The stamp in the description of a guest; None when there is none that makes sense, or that of another guest."""
    _, json = comment.read(description, MARK)
    stamp = decoded(json, ImageStamp)
    return stamp if stamp is not None and stamp.owner and stamp.vmid == vmid else None
