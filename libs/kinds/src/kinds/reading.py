"""Numbers and words of a spec, checked; each refusal names the field and the cure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TypeVar

from common.errors import InvalidSpecError

from . import duration, quantity

W = TypeVar("W")


def uint32(value: int, where: str, least: int = 0) -> int:
    if not least <= value < 1 << 32:
        raise InvalidSpecError(f"{where}: {value} is out of range; the least is {least}")
    return value


def optional_uint32(value: int | None, where: str) -> int | None:
    return None if value is None else uint32(value, where)


def uint64(value: int, where: str) -> int:
    if not 0 <= value < 1 << 60:
        raise InvalidSpecError(f"{where}: {value} bytes is out of range; at most 1 EiB")
    return value


def byte_count(text: str | int, where: str) -> int:
    try:
        return uint64(quantity.parse(text), where)
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise InvalidSpecError(f"{where}: {text!r} is no quantity of bytes; write for example 4Gi") from error


def seconds_of(text: str, where: str) -> float:
    try:
        seconds = duration.parse(text)
    except (ValueError, OverflowError) as error:
        raise InvalidSpecError(f"{where}: {text!r} is no duration; write for example 90s") from error
    if not 0 <= seconds <= 86400:
        raise InvalidSpecError(f"{where}: {text!r} is out of range; at most 24h")
    return seconds


def meaning(word: str | None, words: Mapping[str, W], where: str, unset: W) -> W:
    """The value that a word stands for."""
    if not word:
        return unset
    if word not in words:
        raise InvalidSpecError(f"{where}: {word!r} is none of {', '.join(words)}")
    return words[word]


def mac_address(text: str, where: str) -> str:
    mac = text.lower().replace("-", ":")
    parts = mac.split(":")
    if mac and (len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts)):
        raise InvalidSpecError(f"{where}: {text!r} is no MAC address; write for example 52:54:00:12:34:56")
    return mac


def check_cidr(text: str, where: str) -> None:
    try:
        ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidSpecError(f"{where}: {text!r} is no address with a prefix length; write 192.0.2.7/24") from error
