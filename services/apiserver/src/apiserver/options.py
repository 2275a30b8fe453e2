"""What a caller may ask of a write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WriteOptions:
    """Of one that makes or changes an object."""

    manager: str = "virtrigaud-apiserver"
    dry_run: bool = False
    validation: str = "Warn"
    """What unknown fields are: "Ignore", "Warn" or "Strict"."""
    force: bool = False
    subresource: str = ""
    duplicates: tuple[str, ...] = ()
    """Fields that stood twice in the body, with the messages for them."""


@dataclass(frozen=True)
class DeleteOptions:
    """Of one that deletes it."""

    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
