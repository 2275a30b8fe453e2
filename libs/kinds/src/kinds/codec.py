"""Bytes of the Kubernetes API to models and back; one bad object never spoils a list."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from .metadata import ObjectMeta, Resource

R = TypeVar("R", bound=Resource)


class BadObject(msgspec.Struct, frozen=True):
    """An object that does not fit its model, and why; `metadata` is empty where even that is unreadable."""

    metadata: ObjectMeta
    error: str


class _Page(msgspec.Struct):
    """A list answer with its items undecoded."""

    items: list[msgspec.Raw] = []
    metadata: dict[str, msgspec.Raw] = {}


class _Head(msgspec.Struct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


@cache
def _decoder(model: type[Resource]) -> msgspec.json.Decoder[Any]:  # Any: the cache cannot be generic
    return msgspec.json.Decoder(model)


_page = msgspec.json.Decoder(_Page)
_head = msgspec.json.Decoder(_Head)
_encoder = msgspec.json.Encoder()


def decode(model: type[R], data: bytes | msgspec.Raw) -> R | BadObject:
    """One object; what does not fit comes back as a BadObject that names the field."""
    try:
        decoded: R = _decoder(model).decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # 5,000 digits, a thousand brackets
        return BadObject(_metadata(data), str(error))
    return decoded


def decode_list(model: type[R], data: bytes) -> tuple[list[R], list[BadObject], str, str]:
    """A list answer: objects, bad ones, resourceVersion, continue token.

    Raises:
        msgspec.DecodeError: the answer as a whole is no list.
    """
    page = _page.decode(data)
    good: list[R] = []
    bad: list[BadObject] = []
    for item in page.items:
        decoded = decode(model, item)
        if isinstance(decoded, BadObject):
            bad.append(decoded)
        else:
            good.append(decoded)
    return good, bad, _text(page, "resourceVersion"), _text(page, "continue")


def encode(value: object) -> bytes:
    """JSON of a model or a part of one; unset fields are left out."""
    return _encoder.encode(value)


def _metadata(data: bytes | msgspec.Raw) -> ObjectMeta:
    try:
        return _head.decode(data).metadata
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ObjectMeta()


def _text(page: _Page, key: str) -> str:
    return msgspec.json.decode(page.metadata[key], type=str) if key in page.metadata else ""
