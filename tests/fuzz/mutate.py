"""Inputs made of seeds: the same ones for the same number, each with a few of the ways in which input goes wrong."""

from __future__ import annotations

import copy
import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fuzz.registry import LONGEST

_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMB = f'<?xml version="1.0"?><!DOCTYPE domain [<!ENTITY l0 "lol">{_LAUGHS}]>'.encode()
OUTSIDE = b'<?xml version="1.0"?><!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
YAML_BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(12)
)

NUMBERS = (
    b"0", b"-1", b"1", b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"-9223372036854775809", b"9" * 40, b"9" * 5000, b"1e400", b"1e-400", b"0.1", b"1.2.3",
    b"NaN", b"Infinity", b"-Infinity", b".", b"0x10", b"1_000", b"+5", "²".encode(), "٣".encode(), b"00", b" 1",
)  # fmt: skip
WORDS = (
    b"\0", b"\r\n", b"\n", b"\t", b" ", b"\x1b[2J", b"\x7f", "\x85".encode(), "\u2028".encode(), "\ufeff".encode(),
    b"\xed\xa0\x80", b"\\ud800", b"\\udfff\\ud800", b"\xff", b"\xc3", "\N{PILE OF POO}".encode(), b"\\u0000", b"null",
    b"true", b"[]", b"{}", b'""', b"''", b'"', b"'", b"\\", b"/", b"../", b"%00", b"%", b"&", b"<", b">", b"-->",
    b"]]>", b"&x;", b"&l9;", b"&#0;", b"&#55296;", b"<<: *a", b"&a", b"*a", b"!!python/object:os.system", b"!!binary",
    b"2001-99-99", b"2001-02-30T25:61:61Z", b"#", b"---\n", b"...", b"? ", b"|", b",", b";", b":", b"=", b"@", b"$",
    b"~1", b"~", b"-", b"*", b"..", b"[", b"]", b"{", b"}", b"(", b")", b"$patch", b"$retainKeys",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 10**30, -(1 << 63), 1e300, "", "\0", "x" * 5000,
    "9" * 5000, "1e400", "NaN", "\ud800", "²", "1.2.3", [], {}, [[]], [None], [{}], {"": None}, {"": {}},
)  # fmt: skip

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def inputs(name: str, seeds: Sequence[bytes], count: int) -> Iterator[bytes]:
    """The seeds, and `count` inputs that are made of them."""
    yield from seeds
    rng = random.Random(name)
    for _ in range(count):
        yield mutated(rng, rng.choice(seeds), seeds)


def mutated(rng: random.Random, data: bytes, seeds: Sequence[bytes], longest: int = LONGEST) -> bytes:
    """One input: mostly one thing is wrong with it, sometimes several."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        data = rng.choice(_ALL)(rng, data, seeds)[:longest]
    return data


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 16, 64, 256)))


def _flip(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _truncate(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _insert(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.choice(WORDS) + data[rng.choice((start, end)) :]


def _number(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _insert(rng, data, _seeds)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]


def _repeat(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    piece = rng.choice((data[start:end], rng.choice(WORDS), rng.choice(b" \n,.([{:/;9a=\"'").to_bytes()))
    count = rng.choice((2, 3, 20, LONGEST)) if piece else 0
    return data[:start] + (piece * count)[: LONGEST - len(data)] + data[start:]


def _splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    start, end = _span(rng, other)
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[start : end if rng.random() < 0.5 else len(other)] + data[at:]


def _nest(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    count = rng.choice((10, 150, 5000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"<a>", b"</a>"), (b"(", b")"), (b"{", b"}")))
    return data[:start] + opening * count + data[start:end] + closing * count + data[end:]


def _prefix(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    return rng.choice((BOMB, OUTSIDE, YAML_BOMB, b"\xef\xbb\xbf", b"\xff\xfe", b"#cloud-config\n")) + data


def _structured(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Change a value of what is JSON, or an element of what is XML, so that all around it stays well-formed."""
    try:
        return json.dumps(_json(rng, json.loads(data))).encode()
    except (ValueError, RecursionError):
        pass
    try:
        return _xml(rng, ET.fromstring(data))
    except (ET.ParseError, LookupError, ValueError, RecursionError):
        return _number(rng, data, seeds)


def _json(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.randrange(8)
        if kind == 0:
            return {each: inner for each, inner in value.items() if each != key}
        if kind == 1:
            return value | {rng.choice(("", "\ud800", "x" * 300, key + "\n", key.upper())): value[key]}
        return value | {key: _json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.randrange(6) == 0:
            return value + [value[at]] * rng.choice((1, 2, 200))
        return [*value[:at], _json(rng, value[at]), *value[at + 1 :]]
    if rng.random() < 0.2:
        return [value] if rng.random() < 0.5 else {"a": value}
    return rng.choice(_VALUES)


def _xml(rng: random.Random, root: ET.Element) -> bytes:
    every = list(root.iter())
    element = rng.choice(every)
    kind = rng.randrange(9)
    if kind >= 6:
        return _xml_number(rng, root, every)
    if kind == 0 and len(element):
        element.remove(rng.choice(list(element)))
    elif kind == 1 and len(element):
        element.extend([copy.deepcopy(rng.choice(list(element)))] * rng.choice((1, 2, 50)))
    elif kind == 2:
        element.append(copy.deepcopy(rng.choice(every)))
    elif kind == 3:
        element.text = _xml_text(rng)
    elif element.attrib:
        name = rng.choice(list(element.attrib))
        element.set(name, _xml_text(rng))
        if kind == 4:
            del element.attrib[name]
    return ET.tostring(root)


def _xml_number(rng: random.Random, root: ET.Element, every: Sequence[ET.Element]) -> bytes:
    """Another number in place of one."""
    places = [(element, name) for element in every for name, text in element.items() if text.isdigit()]
    places += [(element, "") for element in every if (element.text or "").strip().isdigit()]
    if places:
        element, name = rng.choice(places)
        if name:
            element.set(name, _xml_text(rng))
        else:
            element.text = _xml_text(rng)
    return ET.tostring(root)


def _xml_text(rng: random.Random) -> str:
    found = rng.choice((*NUMBERS, *WORDS)).decode(errors="ignore")
    return "".join(ch for ch in found if ch >= " " or ch in "\t\n\r")


_ALL: tuple[Mutation, ...] = (
    _flip, _flip, _truncate, _remove, _insert, _insert, _number, _number, _repeat, _splice, _nest, _prefix,
    *(_structured,) * 8,
)  # fmt: skip
