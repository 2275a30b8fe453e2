"""Reading a request: which resource it means, its options, its body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from . import errors, protobuf, yamltext
from .yamltext import MAX_DEPTH

MAX_BODY = 3 << 20


@dataclass(frozen=True)
class Target:
    """What a path names; `plural` is empty for the group-version itself."""

    group: str
    version: str
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""
    watch: bool = False
    scoped: bool = False
    """The path went through a namespace."""


def parse_path(path: str) -> Target | None:
    """Read a path below /api or /apis; None if it has no such shape."""
    parts = path.strip("/").split("/")
    if "" in parts or len(parts) < 2:
        return None
    if parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    watch = bool(rest) and rest[0] == "watch"
    if watch:
        rest = rest[1:]
    namespace, scoped = "", False
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] != "status":
        namespace, scoped, rest = rest[1], True, rest[2:]
    if len(rest) > 3:
        return None
    plural, name, subresource = (*rest, "", "", "")[:3]
    return Target(group, version, namespace, plural, name, subresource, watch, scoped)


def flag(params: Mapping[str, str], name: str) -> bool:
    """Read a boolean parameter.

    Raises:
        ApiError: 400.
    """
    value = params.get(name, "")
    if value in ("true", "1", "True", "t", "T", "TRUE"):
        return True
    if value in ("", "false", "0", "False", "f", "F", "FALSE"):
        return False
    raise errors.bad_request(f'unable to convert query parameter {name}: "{value}" is no boolean')


def number(params: Mapping[str, str], name: str) -> int | None:
    """Read a non-negative integer parameter.

    Raises:
        ApiError: 400.
    """
    value = params.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise errors.bad_request(f'unable to convert query parameter {name}: "{value}" is no non-negative integer')
    return int(value)


def revision(params: Mapping[str, str]) -> int | None:
    """Read resourceVersion; None if it is not given.

    Raises:
        ApiError: 400.
    """
    value = params.get("resourceVersion", "")
    if value and (not value.isascii() or not value.isdigit() or len(value) > 18):
        raise errors.bad_request(f'Invalid value: "{value}": resourceVersion must be a number this server gave out')
    return int(value) if value else None


def media_type(content_type: str) -> str:
    """Return a content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def decode_body(body: bytes, kind: str) -> Any:
    """Decode a JSON or YAML body.

    Raises:
        ApiError: 400 it cannot be read, 415 of another type.
    """
    try:
        if kind == protobuf.MEDIA_TYPE:
            value = protobuf.decode(body)
        elif kind.endswith("yaml"):
            value = yamltext.decode(body)
        else:
            value = msgspec.json.decode(body)
    except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise errors.bad_request(f"the body cannot be read: {error}") from error
    except RecursionError as error:
        raise errors.bad_request("the body is nested too deeply") from error
    _measure(value)
    return value


def _measure(value: Any) -> None:
    """Refuse bodies nested deeper than the walkers go."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [c for v in level if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return
    raise errors.bad_request("the body is nested too deeply")


def duplicate_fields(body: bytes) -> tuple[str, ...]:
    """Return a message for each field that stands twice in a JSON body."""
    twice = False

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        out = dict(members)
        twice = twice or len(out) != len(members)
        return out

    try:
        json.loads(body, object_pairs_hook=pairs)
        return tuple(f'duplicate field "{path}"' for path in _duplicate_paths(body)) if twice else ()
    except (ValueError, RecursionError):
        return ()  # the decoder proper says what is wrong with it


def _duplicate_paths(body: bytes) -> list[str]:
    """Return the full paths of repeated keys (slow; only for bodies that have some)."""
    paths: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, tuple):
            seen: set[str] = set()
            for key, member in value:
                here = f"{path}.{key}" if path else key
                if key in seen:
                    paths.append(here)
                seen.add(key)
                walk(member, here)
        elif isinstance(value, list):
            for index, member in enumerate(value):
                walk(member, f"{path}[{index}]")

    walk(json.loads(body, object_pairs_hook=tuple), "")
    return list(dict.fromkeys(paths))
