"""Targets: a plain function of bytes each, and what it may answer with instead of a result."""

from __future__ import annotations

import importlib
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CRASHES = HERE / "crashes"
AREAS = ("apiserver", "cli", "common", "controller", "kinds", "kit", "libvirt", "proxmox", "vsphere", "wire")
"""Modules that register targets."""
CANARY = "kanarienvogel-4711"
"""Stands in seeds where a secret would: no refusal may repeat it."""
CPU_SECONDS = 5.0
"""Of one input of at most LONGEST bytes: what takes longer is a hang, on however slow a computer."""
LONGEST = 64 << 10

TARGETS: dict[str, Target] = {}


class HangError(AssertionError):
    """One small input took CPU_SECONDS."""


class LeakError(AssertionError):
    """A refusal repeats a secret of the input."""


class UnfitError(Exception):
    """The input is none for this target: a library before our parser would have refused it."""


@dataclass(frozen=True)
class Target:
    """One parser, and the promises that it keeps whatever it is given."""

    name: str
    function: Callable[..., None]
    """Feeds the parser and asserts its promises; takes the parsers as keyword arguments, so that others can be put in
    their place."""
    seeds: tuple[bytes, ...]
    refuses: tuple[type[Exception], ...] = ()
    """The documented errors of the parser; anything else is a bug."""
    bad: tuple[bytes, ...] = ()
    """Seeds that are refused."""
    secret: bool = False
    """The input may hold secrets."""
    inputs: int = 250
    """How many the gate makes of the seeds."""

    def run(self, data: bytes) -> None:
        """Feed one input.

        Raises:
            Exception: whatever is no documented error: a bug.
        """
        try:
            with _cpu_limit():
                self.function(data)
        except UnfitError:
            return
        except self.refuses as error:
            if self.secret and CANARY.encode() in data and CANARY in "".join(traceback.format_exception(error)):
                raise LeakError(f"{type(error).__name__} repeats a secret") from None

    def with_parsers(self, **parsers: Any) -> Target:
        """The same promises, asked of other parsers."""
        return replace(self, function=partial(self.function, **parsers))

    def crashes(self) -> list[bytes]:
        """What was a bug once."""
        return [path.read_bytes() for path in sorted((CRASHES / self.name).glob("*"))]


def target(
    name: str,
    seeds: Iterable[bytes | str],
    *,
    refuses: tuple[type[Exception], ...] = (),
    bad: Iterable[bytes | str] = (),
    secret: bool = False,
    inputs: int = 250,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a target."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        if name in TARGETS:
            raise ValueError(f"two targets are called {name}")
        TARGETS[name] = Target(name, function, _encoded(seeds), refuses, _encoded(bad), secret, inputs)
        return function

    return register


def _encoded(seeds: Iterable[bytes | str]) -> tuple[bytes, ...]:
    return tuple(seed.encode(errors="surrogateescape") if isinstance(seed, str) else seed for seed in seeds)


def load(*areas: str) -> dict[str, Target]:
    """Every target, by name; of these areas, if any are given."""
    for area in areas or AREAS:
        importlib.import_module(f"fuzz.{area}")
    return TARGETS


def text(data: bytes) -> str:
    """As text: bytes that are no UTF-8 become lone surrogates, which a parser meets in JSON's escapes, too."""
    return data.decode(errors="surrogateescape")


def utf8(data: bytes) -> str:
    """As text from a library that lets only UTF-8 through."""
    return data.decode(errors="replace")


def parts(data: bytes, count: int) -> list[bytes]:
    """For a target with several inputs: the lines between NUL bytes, the last one with all the rest."""
    found = data.split(b"\0", count - 1)
    return found + [b""] * (count - len(found))


@contextmanager
def _cpu_limit() -> Iterator[None]:
    def strike(_number: int, _frame: object) -> None:
        raise HangError(f"more than {CPU_SECONDS:g} s of CPU")

    before = signal.signal(signal.SIGVTALRM, strike)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
