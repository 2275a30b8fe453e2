"""The stamp of a shell: the machine that exists only while the content of a disk is uploaded. See `uploads.py`.

It is written by the very call that makes the shell, which is found by it and by nothing else; a copy of a shell, whose
`instanceUuid` is another, is none.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec
from providerkit.records import decoded

KEY = "virtrigaud.upload"
"""Name of the extra configuration key."""

_SPACE = uuid.UUID("0d4c3b52-7f0e-4c39-9f8a-5d1de2a5c5b7")


@dataclass(frozen=True)
class UploadStamp:
    """Everything under KEY."""

    uid: str
    """Of the machine that the disk is for."""
    disk: str
    owner: str

    def text(self) -> str:
        """As the value of KEY."""
        return msgspec.json.encode(self).decode()

    def instance_uuid(self) -> str:
        """`instanceUuid` of the shell."""
        return str(uuid.uuid5(_SPACE, f"{self.uid}/{self.disk}"))


def read(text: str | None, instance: str) -> UploadStamp | None:
    """The stamp in a value of KEY; None when there is none that makes sense, or that of another VM.

    Args:
        instance: `instanceUuid` of the VM that has it.
    """
    stamp = decoded(text or "", UploadStamp)
    return stamp if stamp is not None and stamp.owner and stamp.instance_uuid() == instance else None
