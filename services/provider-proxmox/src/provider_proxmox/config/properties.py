"""Property strings, the notation of most values in a guest's configuration: `virtio=BC:24:11:00:00:01,bridge=vmbr0`.

What is not understood is kept as it is, in its place: a string that is read, changed in one key and written again says
nothing else than before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from common.errors import InvalidSpecError


@dataclass(frozen=True, slots=True)
class Property:
    """One property string. An item without "=" is the value of the default key and has the key "" here."""

    items: tuple[tuple[str, str], ...] = ()

    @property
    def head(self) -> str:
        """Value of the default key where it stands without its name: the volume of a disk, the type of a CPU."""
        return self.get("")

    def get(self, key: str, default: str = "") -> str:
        """Value of the first item with this key."""
        return next((value for name, value in self.items if name == key), default)

    def flag(self, key: str, default: bool = False) -> bool:
        """Value of a switch. Source: PVE::JSONSchema::parse_boolean."""
        text = self.get(key)
        return text.lower() in ("1", "on", "yes", "true") if text else default

    def having(self, changes: Mapping[str, str | None]) -> Property:
        """With these values: one that is there keeps its place, a new one comes last, None takes the key away.

        Raises:
            InvalidSpecError: a value that this notation cannot hold.
        """
        for key, value in changes.items():
            if value is not None and ("," in value or (not key and ("=" in value or not value))):
                raise InvalidSpecError(f"{key or 'value'}: {value!r} cannot be written into a property string")
        left = dict(changes)
        items = []
        for key, value in self.items:
            new = left.pop(key, None) if key in left else (None if key in changes else value)
            if new is not None:
                items.append((key, new))
        items += [(key, value) for key, value in left.items() if value is not None]
        return Property(tuple(items))

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" if key else value for key, value in self.items)


def parse(text: object) -> Property:
    """Read a property string; numbers, which Proxmox VE gives for some, are read as their text."""
    return _parsed(str(text))


@lru_cache(maxsize=50_000)
def _parsed(text: str) -> Property:
    """The guests of a whole cluster are looked through for each new one, and hardly ever change."""
    items = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals and key.strip():
            items.append((key.strip(), value))
        elif part.strip():
            items.append(("", part.strip()))
    return Property(tuple(items))


def of(head: str = "", **options: str | None) -> Property:
    """A new one; "_" in a name stands for "-", an option that is None or empty is left out."""
    items = {name.replace("_", "-"): value or None for name, value in options.items()}
    return Property().having(({"": head} if head else {}) | items)
