"""JSON of which only the values are foreign: its types are those that the library before our parser makes."""

from __future__ import annotations

import json
from typing import Any

from fuzz.registry import UnfitError


def value(data: bytes) -> Any:
    """As JSON.

    Raises:
        UnfitError: it is none.
    """
    try:
        return json.loads(data, parse_constant=_unfit)
    except (ValueError, RecursionError):
        raise UnfitError from None


def _unfit(_: str) -> None:
    raise UnfitError  # NaN is not itself, so that nothing could be compared


def of_type(given: Any, shape: Any) -> Any:
    """What of a value has this shape: `[shape]`, `{str: shape}`, `{key: shape}`, a type, Any; else the type's zero."""
    if shape is Any:
        return given
    if isinstance(shape, list):
        return [of_type(each, shape[0]) for each in given] if isinstance(given, list) else []
    if isinstance(shape, dict):
        had = given if isinstance(given, dict) else {}
        if str in shape:
            return {key: of_type(each, shape[str]) for key, each in had.items()}
        return {key: of_type(had[key], each) for key, each in shape.items() if key in had}
    return given if type(given) is shape else shape()
