"""Keeps secrets out of whatever people or machines read: logs, errors on the wire, traces.

Four nets, each of which would be enough for what it catches:
- fields marked `debug_redact` in the contract are never rendered (`message`);
- keys that sound like a secret hide their value (`value`);
- private keys in PEM, and user information in URLs, are cut out of any text (`text`);
- values that were read from a secret's file are registered and masked wherever they turn up (`register`, `text`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import betterproto2

MASK = "[redacted]"
_SHORTEST = 4  # masking "a" or "42" everywhere would hide nothing and garble everything
_DEEPEST = 12

_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)|secret|token(?!_id)|authori[sz]ation|cookie|private.?key|api.?key|credential(?!s_directory)"
    r"|user.?data|meta.?data$|ignition|boot.?data|client.?key",
    re.IGNORECASE,
)
_HARMLESS_KEY = re.compile(r"_(file|path|name|ref|count|bytes|seconds|directory)$", re.IGNORECASE)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_URL_USER = re.compile(r"://[^\s/@:]*:[^\s/@]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=\-]{8,}")

_lock = threading.Lock()
_secrets: frozenset[str] = frozenset()
_pattern: re.Pattern[str] | None = None


def register(secret: str) -> None:
    """Mask this value in every text from now on, whole and line by line; shorter than 4 characters is not masked.

    The register belongs to the process, as its logs do.
    """
    global _secrets, _pattern
    parts = {secret, secret.strip(), *(line.strip() for line in secret.splitlines())}
    with _lock:
        _secrets |= {part for part in parts if len(part) >= _SHORTEST}
        longest_first = sorted(_secrets, key=len, reverse=True)
        _pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def text(value: str) -> str:
    """The text without registered secrets, private keys, bearer tokens and passwords in URLs."""
    if _pattern is not None:
        value = _pattern.sub(MASK, value)
    if "PRIVATE KEY" in value:
        value = _PRIVATE_KEY.sub(MASK, value)
    if "://" in value:
        value = _URL_USER.sub(f"://{MASK}@", value)
    if "earer" in value or "asic" in value or "EARER" in value or "ASIC" in value:
        value = _BEARER.sub(rf"\1 {MASK}", value)
    return value


def secret_key(key: str) -> bool:
    """Whether a key of this name holds a secret; the file or name *of* a secret is none."""
    return _SECRET_KEY.search(key) is not None and _HARMLESS_KEY.search(key) is None


def value(key: str, item: Any, depth: int = 0) -> Any:  # Any: log fields are whatever the caller logs
    """A log field as it may be shown."""
    if isinstance(item, bool | int | float | None):
        return item
    if secret_key(key):
        return MASK if item else item
    if isinstance(item, str):
        return text(item)
    if depth >= _DEEPEST:
        return "[too deep]"
    if isinstance(item, betterproto2.Message):
        return message(item, depth)
    if isinstance(item, Mapping):
        return {text(str(k)): value(str(k), v, depth + 1) for k, v in item.items()}
    if isinstance(item, list | tuple | set | frozenset):
        return [value(key, each, depth + 1) for each in item]
    if isinstance(item, bytes | bytearray):
        return f"[{len(item)} bytes]"
    if isinstance(item, datetime):
        return item.isoformat()
    if isinstance(item, timedelta):
        return item.total_seconds()
    return text(str(item))


def message(item: betterproto2.Message, depth: int = 0) -> dict[str, Any]:
    """A message of the contract as a dict of what is set, with `debug_redact` fields hidden and no bytes in it."""
    from common import wire  # here, or wire could never use this module

    shown: dict[str, Any] = {}
    for name, field in wire.fields_by_name(type(item)).items():
        held = getattr(item, name)
        if held is None or held in ("", b"", 0, False) or held == [] or held == {}:
            continue
        if field.GetOptions().debug_redact:
            shown[name] = MASK
        elif isinstance(held, betterproto2.Enum):
            shown[name] = str(held)
        else:
            # The descriptor has said that the field is no secret, so its name does not decide.
            shown[name] = value("", held, depth + 1)
    return shown
