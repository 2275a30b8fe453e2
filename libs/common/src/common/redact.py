"""Keeps secrets out of whatever people or machines read: logs, errors on the wire, traces.

Four nets, each of which would be enough for what it catches:
- fields marked `debug_redact` in the contract are never rendered (`message`);
- keys that sound like a secret hide their value (`value`);
- private keys in PEM, and user information in URLs, are cut out of any text (`text`);
- values that were read from a secret's file, and sessions they opened, are registered and masked wherever they turn
  up, also as they look in a URL, in JSON, in XML or in base64 (`register`, `text`).
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, quote_plus

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

_KEPT = 16
"""Newest values of one slot that are masked. Those before them open nothing any more, and every one costs each line."""

_lock = threading.Lock()
_slots: dict[str, dict[str, frozenset[str]]] = {}
"""Secrets by what they are of, oldest first, each with the forms it may turn up in."""
_layers: tuple[tuple[frozenset[str], re.Pattern[str]], ...] = ()
"""Forms that are masked, largest layer first. A new secret is a layer of its own until there are as many like it: to
compile all anew for each of a thousand would take minutes."""


def register(secret: str, slot: str = "") -> None:
    """Mask this value in every text from now on, whole and line by line; shorter than 4 characters is not masked.

    The register belongs to the process, as its logs do.

    Args:
        slot: what the secret is of, where that is renewed again and again: a file, a session. The newest values of a
            slot are masked, so that what an old one still did when it was replaced does not show it; without a slot
            a value is masked for ever.
    """
    global _layers
    with _lock:
        held = _slots.setdefault(slot, {})
        if next(reversed(held), None) == secret or (not slot and secret in held):
            return
        forms = held[secret] = held.pop(secret, frozenset()) or frozenset(_forms(secret))
        if slot and len(held) > _KEPT:
            del held[next(iter(held))]
            forms, _layers = frozenset().union(*(each for of in _slots.values() for each in of.values())), ()
        kept = list(_layers)
        while kept and len(kept[-1][0]) <= 2 * len(forms):
            forms |= kept.pop()[0]
        _layers = (*kept, (forms, _compiled(forms))) if forms else tuple(kept)


def _forms(secret: str) -> Iterator[str]:
    """The ways in which a text may show it; a part of it that is too short to be told from other text is left out."""
    whole = {secret, secret.strip()}
    for plain in whole | {line.strip() for line in secret.splitlines()}:
        if len(plain) < _SHORTEST:
            continue
        yield plain
        yield from (quote(plain), quote(plain, safe=""), quote_plus(plain))
        yield from (html.escape(plain), html.escape(plain, quote=False), repr(plain)[1:-1])
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1])
    for plain in whole:
        yield from _encoded(plain)


def _encoded(plain: str) -> Iterator[str]:
    """Base64 of it wherever it begins in what was encoded ("user:password"), without the letters that others share."""
    data = plain.encode("utf-8", "surrogatepass")
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        inner = coded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        if len(inner) >= 2 * _SHORTEST:
            yield from (inner, inner.replace("+", "-").replace("/", "_"))


def _compiled(forms: frozenset[str]) -> re.Pattern[str]:
    """Longest first; by first letter, or a long register would be gone through at each letter of a text."""
    by_first: dict[str, list[str]] = {}
    for form in sorted(forms, key=len, reverse=True):
        by_first.setdefault(form[0], []).append(re.escape(form[1:]))
    groups = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items())
    return re.compile("|".join(groups))


def _masked(value: str) -> str:
    """Without what any layer finds; what two of them find of one place is one place."""
    found = sorted(match.span() for _, pattern in _layers for match in pattern.finditer(value))
    if not found:
        return value
    shown: list[str] = []
    end = 0
    for begin, stop in found:
        if begin >= end:
            shown += [value[end:begin], MASK]
        end = max(end, stop)
    return "".join(shown) + value[end:]


def text(value: str) -> str:
    """The text without registered secrets, private keys, bearer tokens and passwords in URLs."""
    if _layers:
        value = _masked(value)
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
