"""From `kubectl apply` to a running machine, beside the same machine made without us.

All ways are stopped by one clock: libvirt's own word, on a connection of the bench, that the domain was started. They
take turns, and each machine is gone before the next is made.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
from libvirtd.private import PrivateLibvirtd

from . import bare
from .figures import Figure, Reach, Reference
from .libvirt_rig import NAMESPACE, Rig, is_ready, own_rig, wish
from .spans import Span

STARTED = libvirt.VIR_DOMAIN_EVENT_STARTED
CALL = "virtrigaud.provider.v1.MachineService/ApplyMachine"
COUNT = 25
OVERHEAD = Reach(20.0)
"""Per cent over what it is to be compared with."""
OTHERS = CALLS, SCRIPT, VIRT_INSTALL = "libvirt calls", "libvirt script", "virt-install --import"
APPLY = "kubectl apply"


@dataclass(frozen=True)
class Apply:
    """One create through kubectl, by the clocks outside of us: seconds since 1970."""

    begun: float
    stored: float
    running: float
    ready: float
    bare_kubectl: float
    """Seconds that kubectl took just before to do nothing (`kubectl version --client`)."""


@dataclass
class Samples:
    """Seconds from the begin of each way to the domain running; one of each way in every turn."""

    running: dict[str, list[float]]
    """By the way, ours not among them."""
    applies: list[Apply] = field(default_factory=list)


async def creates(rig: Rig, home: Path, count: int, others: Sequence[str]) -> Samples:
    """Every way in turn, so often."""
    samples, like = Samples({way: [] for way in others}), await _pattern(rig, home)
    for number in range(count):
        samples.applies.append(await apply(rig, f"a{number}"))
        await _delete(rig, f"a{number}")
        for place, way in enumerate(others):
            samples.running[way].append(await _other(rig, home, way, like, f"b{number}-{place}"))
    return samples


async def _other(rig: Rig, home: Path, way: str, like: bare.Pattern, name: str) -> float:
    """One machine without us: seconds until it runs."""
    connection, file = rig.lifecycle.connection, home / "pattern.json"
    script = [sys.executable, "-m", "bench.bare", rig.uri, str(file), name]
    install = bare.virt_install(rig.uri, like, name, rig.stack.libvirtd.pool_path)
    like.write(file)
    begun = time.time()
    if way == CALLS:
        await asyncio.to_thread(bare.make, connection, like, name)
    else:
        await asyncio.to_thread(_run, script if way == SCRIPT else install)
    running = await rig.lifecycle.wait(name, STARTED, begun)
    await asyncio.to_thread(bare.remove, connection, name)
    return running - begun


def _run(command: Sequence[str]) -> None:
    here = Path(__file__).parents[1]  # where the package of the benches is found
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=here)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


async def apply(rig: Rig, name: str) -> Apply:
    """One machine through kubectl, until its object says that it runs."""
    begun = time.time()
    await asyncio.to_thread(rig.stack.kubectl, "version", "--client")
    idle, text = time.time() - begun, json.dumps(wish(name))
    begun = time.time()
    await asyncio.to_thread(rig.stack.kubectl, "apply", "-f", "-", stdin=text)
    running = await rig.lifecycle.wait(f"{NAMESPACE}.{name}", STARTED, begun)
    ready, stored = await rig.told.wait(name, is_ready), await rig.told.wait(name, lambda body: True)
    return Apply(begun, stored, running, ready, idle)


async def _delete(rig: Rig, name: str) -> None:
    await asyncio.to_thread(rig.stack.kubectl, "delete", "vm", name, "-n", NAMESPACE, "--timeout=60s")


async def _pattern(rig: Rig, home: Path) -> bare.Pattern:
    """A machine of ours as it is on the hypervisor, and its drive."""
    await apply(rig, "pattern")
    found = await asyncio.to_thread(_read, rig.lifecycle.connection, rig.stack.libvirtd, home)
    await _delete(rig, "pattern")
    return found


def _read(connection: libvirt.virConnect, daemon: PrivateLibvirtd, home: Path) -> bare.Pattern:
    name = f"{NAMESPACE}.pattern"
    domain = connection.lookupByName(name)
    uid, definition = domain.UUIDString(), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    volume = connection.storagePoolLookupByName(daemon.pool).storageVolLookupByName(f"{uid}-root.qcow2")
    root, disk = ET.fromstring(definition), ET.fromstring(volume.XMLDesc(0))
    drive = home / "boot-data.iso"
    drive.write_bytes((daemon.pool_path / f"{uid}-boot-data.iso").read_bytes())
    source = root.find("devices/interface/source")
    assert source is not None, definition
    return bare.Pattern(
        uid=uid,
        name=name,
        definition=definition,
        pool=daemon.pool,
        image=disk.findtext("backingStore/path") or "",
        capacity=int(disk.findtext("capacity") or 0),
        memory_mib=int(root.findtext("memory") or 0) // 1024,
        network=source.get("network", ""),
        drive=str(drive),
    )


# -- where the time goes -----------------------------------------------------------------------------------------------


def phases(apply: Apply, spans: Sequence[Span]) -> dict[str, float]:
    """Seconds of each phase of one create, in their order; they add up to the whole.

    Raises:
        LookupError: its trace has not come yet, or not all of it.
    """
    within = [span for span in spans if apply.begun <= span.begin <= apply.ready]
    trace = next((span.trace for span in within if span.name == "driver.create"), None)
    found: dict[str, Span] = {}
    for span in within:
        if span.trace == trace:
            found.setdefault(span.name, span)
    # A call is a span on both sides, of one name: the server's is the one within the other.
    calls = {span.name: span for span in sorted(within, key=lambda span: span.begin) if span.trace == trace}
    marks = {
        "kubectl: its own start": apply.begun + apply.bare_kubectl,
        "kubectl and API server, until it is stored": apply.stored,
        "watch and queue": found["reconcile VirtualMachine"].begin,
        "controller: finalizer, and whom it asks": found["provider apply_machine"].begin,
        "RPC": calls[CALL].begin,
        "provider: look and plan": found["driver.create"].begin,
        "provider: names, network, drive's content": found["libvirt.disks"].begin,
        "provider: disk": found["libvirt.disks"].end,
        "provider: drive": found["libvirt.boot_data"].end,
        "provider: definition": found["driver.create"].end,
        "provider: look and plan again": found["driver.power_on"].begin,
        "libvirt: start of QEMU": apply.running,
        "provider: last look, reply": found["provider apply_machine"].end,
        "status, until a client is told": apply.ready,
    }
    taken, at = {}, apply.begun
    for phase, end in marks.items():
        taken[phase] = max(0.0, end - at)
        at = max(at, end)
    return taken


async def _phases(rig: Rig, applies: Sequence[Apply]) -> dict[str, float]:
    """Mean seconds of each phase, over the half of the creates that is neither fast nor slow."""
    ordered = sorted(applies, key=lambda each: each.ready - each.begun)
    middle = ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4]

    def all_there(spans: Sequence[Span]) -> list[dict[str, float]]:
        return [phases(each, spans) for each in middle]

    found = await asyncio.to_thread(rig.spans.wait, all_there)
    return {phase: statistics.mean(each[phase] for each in found) for phase in found[0]}


# -- the figures -------------------------------------------------------------------------------------------------------


def _overhead(name: str, taken: str, ours: Sequence[float], theirs: Sequence[float], whose: str) -> Figure:
    """By how much ours takes longer than theirs of the same turn: the median, in per cent."""
    overhead = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)) * 100 - 100
    return Figure(
        name, overhead, "%", taken, reference=Reference(whose, statistics.median(theirs) * 1000, "ms"), reach=OVERHEAD
    )


def figures(samples: Samples, parts: dict[str, float]) -> list[Figure]:
    """Of everything that was taken."""
    ours = [each.running - each.begun for each in samples.applies]
    stored = [each.running - each.stored for each in samples.applies]
    ready = [each.ready - each.begun for each in samples.applies]
    calls, script = samples.running[CALLS], samples.running[SCRIPT]

    def ms(values: Sequence[float]) -> list[float]:
        return [value * 1000 for value in values]

    def middle(values: Sequence[float]) -> float:
        return statistics.median(values) * 1000

    turn = f"{len(ours)} turns, each way once in every turn; stopped by libvirt's own event"
    return [
        Figure(
            "kubectl apply to a running machine, p50", middle(ours), "ms",
            f"Image prepared; overlay, NoCloud drive, one NIC, one CPU, guest emulated. {turn}.",
            reference=Reference(SCRIPT, middle(script)),
            samples={APPLY: ms(ours), **{way: ms(values) for way, values in samples.running.items()}},
        ),
        _overhead(
            "overhead of kubectl apply over a libvirt script", "Both as a person runs them: a command, from its start. "
            f"The script has the definition that ours made, and checks nothing. {turn}.", ours, script, SCRIPT,
        ),
        _overhead(
            "overhead of kubectl apply over libvirt calls",
            f"The same calls on an open connection: no process is started, and nothing is loaded. {turn}.",
            ours, calls, CALLS,
        ),
        _overhead(
            "overhead from the stored object on over libvirt calls",
            f"Without kubectl: from the moment at which a client that watches is told of the object. {turn}.",
            stored, calls, CALLS,
        ),
        Figure(
            "kubectl apply to status Ready, p50", middle(ready), "ms",
            "Until a client that watches is told powerState On and condition Ready.",
            reference=Reference("of it, until the domain runs", middle(ours)),
            samples={"status Ready": ms(ready), "domain runs": ms(ours)},
        ),
        Figure(
            "where the time of a create goes", sum(parts.values()) * 1000, "ms",
            "From the traces of our processes, libvirt's event and a watching client; mean of the middle half of the "
            "creates. kubectl's own start is what `kubectl version --client` takes.",
            parts={phase: seconds * 1000 for phase, seconds in parts.items()},
        ),
    ]  # fmt: skip


async def taken(rig: Rig, home: Path, count: int = COUNT, others: Sequence[str] = OTHERS) -> list[Figure]:
    """Every figure."""
    samples = await creates(rig, home, count, others)
    return figures(samples, await _phases(rig, samples.applies))


async def measure() -> list[Figure]:
    """The section `create`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with own_rig(Path(home)) as rig:
            return await taken(rig, Path(home))
