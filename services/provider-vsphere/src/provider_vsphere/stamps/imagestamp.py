"""An image's stamp: whose a template is that we made, in one key of its extra configuration.

It is written by the very call that makes the VM, and the template is found by it, never by its name. `complete` is
set last: a VM with a stamp that lacks it is what an interrupted import left. A copy brings the key along, so that it
counts only where the `instanceUuid` is the one that follows from the image's id.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec
from providerkit.records import decoded

KEY = "virtrigaud.image"
"""Name of the extra configuration key."""

_SPACE = uuid.UUID("6d3e8f0a-9a57-4f0e-8d2b-3c1b7f5ad9c4")


@dataclass(frozen=True)
class ImageStamp:
    """Everything under KEY."""

    id: str
    uid: str
    namespace: str
    name: str
    owner: str
    created: int = 0
    """Seconds since 1970."""
    complete: bool = False
    """All of it was uploaded, and its digests were right."""
    source_digest: str = ""
    """sha256 of what was fetched."""
    size_bytes: int = 0
    """Bytes that were uploaded."""

    def text(self) -> str:
        """As the value of KEY."""
        return msgspec.json.encode(self).decode()


def instance_uuid(image_id: str) -> str:
    """`instanceUuid` of the template that an image is."""
    return str(uuid.uuid5(_SPACE, image_id))


def read(text: str | None, instance: str) -> ImageStamp | None:
    """The stamp in a value of KEY; None when there is none that makes sense, or that of another VM.

    Args:
        instance: `instanceUuid` of the VM that has it.
    """
    stamp = decoded(text or "", ImageStamp)
    return stamp if stamp is not None and stamp.owner and instance_uuid(stamp.id) == instance else None
