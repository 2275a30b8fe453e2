"""Reading bodies in Kubernetes' protobuf form, which some clients use for built-in kinds.

The field numbers come from the published .proto files (`data/protobuf.json`). Answers are always JSON: every such
client also accepts that.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
_PACKAGES = {
    "v1": "k8s.io.api.core.v1.",
    "coordination.k8s.io/v1": "k8s.io.api.coordination.v1.",
    "events.k8s.io/v1": "k8s.io.api.events.v1.",
    "authentication.k8s.io/v1": "k8s.io.api.authentication.v1.",
    "authorization.k8s.io/v1": "k8s.io.api.authorization.v1.",
}
_SIGNED = 1 << 63


@cache
def _messages() -> dict[str, dict[str, list[str]]]:
    raw = files("apiserver").joinpath("data/protobuf.json").read_bytes()
    found: dict[str, dict[str, list[str]]] = json.loads(raw)["messages"]
    return found


def decode(body: bytes) -> dict[str, Any]:
    """Return the object in a protobuf body as its JSON form.

    Raises:
        ValueError: it is malformed, or of a kind that has no protobuf form here.
    """
    if not body.startswith(MAGIC):
        raise ValueError("a protobuf body must start with the Kubernetes prefix")
    head = dict(_fields(body[len(MAGIC) :]))
    type_meta = dict(_fields(_bytes(head.get(1, b""))))
    api_version, kind = _text(type_meta.get(1, b"")), _text(type_meta.get(2, b""))
    package = _META if kind == "DeleteOptions" else _PACKAGES.get(api_version, "")
    name = package + kind
    if not package or name not in _messages():
        raise ValueError(f"{api_version} {kind} cannot be read as protobuf; send JSON")
    return {"apiVersion": api_version, "kind": kind, **_message(name, _bytes(head.get(2, b"")))}


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the protobuf body is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message: numbers, and the bytes of everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case wire:
                raise ValueError(f"unknown protobuf wire type {wire}")
        if at + size > len(data):
            raise ValueError("the protobuf body is cut off")
        yield tag >> 3, data[at : at + size]
        at += size


def _message(name: str, data: bytes, depth: int = 0) -> Any:
    if depth > 64:
        raise ValueError("the protobuf body is nested too deeply")
    special = _SPECIAL.get(name.rpartition(".")[2])
    if special is not None:
        return special(dict(_fields(data)))
    known = _messages()[name]
    out: dict[str, Any] = {}
    for number, raw in _fields(data):
        field = known.get(str(number))
        if field is None:
            continue
        label, kind, how = field
        if how == "map":
            entry = dict(_fields(_bytes(raw)))
            value = _value(kind, entry.get(2, b""), depth)
            out.setdefault(label, {})[_text(entry.get(1, b""))] = value
        elif how == "repeated":
            out.setdefault(label, []).append(_value(kind, raw, depth))
        else:
            value = _value(kind, raw, depth)
            if value not in ("", None):  # Go writes empty strings and times; JSON leaves them out
                out[label] = value
    return out


def _value(kind: str, raw: int | bytes, depth: int) -> Any:
    match kind:
        case "string":
            return _text(raw)
        case "bytes":
            return base64.b64encode(_bytes(raw)).decode()
        case "bool":
            return bool(raw)
        case "int32" | "int64":
            if isinstance(raw, bytes):
                raise ValueError("bytes stand where a number should")
            return raw - 2 * _SIGNED if raw >= _SIGNED else raw
    return _message(kind, _bytes(raw), depth + 1)


def _time(fields: dict[int, int | bytes], spec: str) -> str | None:
    seconds, nanos = fields.get(1, 0), fields.get(2, 0)
    if isinstance(seconds, bytes) or isinstance(nanos, bytes):
        raise ValueError("a time must consist of numbers")
    seconds = seconds - 2 * _SIGNED if seconds >= _SIGNED else seconds
    if not seconds and not nanos:
        return None
    try:
        when = datetime.fromtimestamp(seconds, UTC).replace(microsecond=min(nanos // 1000, 999_999))
    except (OverflowError, OSError) as error:
        raise ValueError("a time is out of range") from error
    return when.isoformat(timespec=spec).replace("+00:00", "Z")


def _embedded(fields: dict[int, int | bytes]) -> Any:
    raw = _bytes(fields.get(1, b""))
    try:
        return msgspec.json.decode(raw) if raw else {}
    except msgspec.DecodeError as error:
        raise ValueError(f"embedded JSON cannot be read: {error}") from error


_SPECIAL: dict[str, Callable[[dict[int, int | bytes]], Any]] = {
    "Time": lambda fields: _time(fields, "seconds"),
    "MicroTime": lambda fields: _time(fields, "microseconds"),
    "FieldsV1": _embedded,
    "RawExtension": _embedded,
}
