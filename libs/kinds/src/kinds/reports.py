"""What an object asks for and nobody does: said by field, never dropped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldReport:
    """A field that asks for something which is not done."""

    field: str
    """Path from the root of the object, with the kind where it is not the VirtualMachine."""
    reason: str
    message: str
