"""What a seed means: what its user does to a machine, and what goes wrong meanwhile. Plain functions of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .sites import Site
from .sites.site import SIZES, SYSTEM

Spec = dict[str, Any]  # Any: JSON
LEADER, PROVIDER, APISERVER, HYPERVISOR = "leader", "provider", "apiserver", "hypervisor"
PROVIDER_POINTS = (
    "machines.create.before", "machines.create.after", "machines.destroy.before", "machines.destroy.after",
    "machines.power_on.before", "machines.power_on.after", "machines.power_off.after", "machines.set_cpu.after",
    "machines.attach_disk.before", "machines.attach_disk.after", "machines.apply.reply",
)  # fmt: skip
CONTROLLER_POINTS = (
    "controller.machine.before-apply",
    "controller.machine.after-apply",
    "controller.machine.before-release",
)
NEARLY_FULL = (0, 64 << 10, 1200 << 10, 1500 << 10, 2 << 20)
"""Bytes that are left: none, too little for a look, or enough to begin with and too little to end."""


@dataclass(frozen=True)
class Step:
    """Something that the user asks for."""

    after: float
    """Seconds since the last one was acknowledged."""
    verb: str
    """apply, delete, or recreate: apply again once the deleted one is gone."""
    spec: Spec


@dataclass(frozen=True)
class Strike:
    """Something that goes wrong."""

    at: float
    """Seconds from the beginning."""
    what: str
    """kill, stop, point, full, or a weather of the network."""
    whom: str = ""
    seconds: float = 0.0
    """How long it lasts."""
    detail: str = ""
    """The fault point, or how many bytes are left."""

    def __str__(self) -> str:
        how_long = f" for {self.seconds:.1f} s" if self.what != "point" else ""
        return f"{self.what} {self.whom}{how_long} {self.detail}".replace("  ", " ").strip()


@dataclass(frozen=True)
class Story:
    """Everything that a seed says."""

    seed: int
    name: str
    steps: tuple[Step, ...]
    strikes: tuple[Strike, ...]


def draw(seed: int, site: Site | type[Site], *, retain: bool = True) -> Story:
    """The story of a seed on this kind of site.

    Args:
        retain: machines may be asked to outlive their objects.
    """
    rng = random.Random(f"{site.kind} {seed}")
    return Story(seed, f"m-{seed}", tuple(_steps(rng, site, retain)), tuple(_strikes(rng, seed, site)))


# -- the user ----------------------------------------------------------------------------------------------------------


def _steps(rng: random.Random, site: Site | type[Site], retain: bool) -> Iterator[Step]:
    spec = first_spec(rng, site, retain)
    yield Step(rng.uniform(0.0, 1.5), "apply", spec)
    for _ in range(rng.randint(1, 3)):
        spec = edited(rng, spec)
        yield Step(rng.uniform(0.1, 1.5), "apply", spec)
    if rng.random() < 0.5:
        yield Step(rng.uniform(0.1, 1.5), "delete", spec)
        if spec["deletionPolicy"] == "Delete" and rng.random() < 0.5:
            yield Step(rng.uniform(0.0, 0.5), "recreate", first_spec(rng, site, retain))


def first_spec(rng: random.Random, site: Site | type[Site], retain: bool) -> Spec:
    """A new machine."""
    spec = plain(rng.choice(list(SIZES)), rng.choice(["On", "On", "Off"]))
    if retain and rng.random() < 0.25:
        spec["deletionPolicy"] = "Retain"
    if site.boots and rng.random() < 0.15:
        spec["imageRef"] = {"name": SYSTEM, "namespace": "default"}
    return spec


def plain(size: str = "small", power: str = "On") -> Spec:
    """A machine with nothing special."""
    return {
        "classRef": {"name": size, "namespace": "default"},
        "powerState": power,
        "deletionPolicy": "Delete",
        "lifecycle": {"gracefulShutdownTimeout": "1s"},
        "disks": [],
    }


def edited(rng: random.Random, spec: Spec) -> Spec:
    """It, changed in one way."""
    match rng.choice(["power", "size", "disk"]):
        case "power":
            return {**spec, "powerState": "Off" if spec["powerState"] == "On" else "On"}
        case "size":
            other = next(name for name in SIZES if name != spec["classRef"]["name"])
            return {**spec, "classRef": {**spec["classRef"], "name": other}}
        case _:
            size = spec["disks"][0]["sizeGiB"] + 1 if spec["disks"] else 1  # a disk never shrinks
            return {**spec, "disks": [{"name": "data", "sizeGiB": size}]}


# -- the faults --------------------------------------------------------------------------------------------------------


def _strikes(rng: random.Random, seed: int, site: Site | type[Site]) -> Iterator[Strike]:
    """Each kind has its turn, so that a row of seeds has them all; where, when and how long is left to chance."""
    kinds = [*kinds_of(site)]
    yield strike_of(rng, site, *kinds[seed % len(kinds)])
    if rng.random() < 0.3:
        yield strike_of(rng, site, *rng.choice(kinds))


def kinds_of(site: Site | type[Site]) -> Iterator[tuple[str, str]]:
    """What may go wrong there, and with whom."""
    for whom in (PROVIDER, LEADER, APISERVER):
        yield "kill", whom
    yield "dead", "network"
    yield "point", PROVIDER
    if site.killable:
        yield "kill", HYPERVISOR
    for whom in (PROVIDER, LEADER, APISERVER):
        yield "stop", whom
    yield "cut", "network"
    yield "point", LEADER
    if site.pausable:
        yield "stop", HYPERVISOR
    yield "slow", "network"
    if site.fillable:
        yield "full", "storage"


def strike_of(rng: random.Random, site: Site | type[Site], what: str, whom: str) -> Strike:
    """One of a kind."""
    at = rng.uniform(0.3, 4.0)
    match what:
        case "kill":
            return Strike(at, what, whom, rng.choice([0.0, 0.0, rng.uniform(0.5, 3.0)]))
        case "point":
            points = CONTROLLER_POINTS if whom == LEADER else (*PROVIDER_POINTS, *site.points, *site.points)
            return Strike(0.0, what, whom, detail=f"{rng.choice(points)}:kill:{rng.randint(1, 2)}")
        case "full":
            return Strike(rng.uniform(0.0, 1.0), what, whom, rng.uniform(1.0, 2.5), str(rng.choice(NEARLY_FULL)))
        case _:
            return Strike(at, what, whom, rng.uniform(1.0, 6.0))
