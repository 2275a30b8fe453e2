"""JSON merge patches between two versions of a status: only what differs, nothing when nothing does."""

from __future__ import annotations

from typing import Any

import msgspec


def merge_patch(before: Any, after: Any) -> dict[str, Any]:
    """The RFC 7396 patch that turns one Struct into another; empty when they say the same.

    Any: msgspec Structs, of any kind.
    """
    return _differences(_plain(before), _plain(after))


def _plain(struct: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(struct)
    return plain


def _differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            patch[key] = _differences(old, new)
        else:
            patch[key] = new  # None removes
    return patch
