"""`make bench SECTIONS=throughput`: how many machines become Ready in a second, all at once and edit by edit."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common import v1
from processes import settle

from .figures import Figure, Reach, Reference, cpu
from .following import Following, following
from .rig import CLIENTS, VMS, Object, Process, Rig, environment, machine, rig

MIB = 1 << 20
COUNT = 500
REACH = Reach(50, "at least")


async def measure(count: int = COUNT) -> list[Figure]:
    """Every figure, on one stack."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with rig(Path(home)) as found:
            writes = await bare_writes(found, count)
            async with found.provider("bare", named=False):
                applies = await bare_applies(found, count)
            async with found.provider("one") as provider, found.controller() as controller:
                parts = [found.apiserver, controller, provider]
                async with following(found.api, str(await found.revision())) as followed:
                    return [
                        *await at_once(found, followed, parts, count, writes),
                        await by_kubectl(found, followed, count, writes),
                        *await edits(found, followed, parts, count, applies),
                    ]


# -- references --------------------------------------------------------------------------------------------------------


async def bare_writes(found: Rig, count: int) -> float:
    """Creates a second of the same objects, with nobody who acts on them; they are gone afterwards."""
    begun = time.time()
    done = await found.many(create(f"bare-{number}") for number in range(count))
    await found.api.request("DELETE", VMS)
    return count / (max(done) - begun)


async def bare_applies(found: Rig, count: int) -> float:
    """ApplyMachine a second of such machines, asked of the fake provider directly."""
    waiting = iter(range(count))
    async with found.machines("bare") as stub:

        async def client() -> None:
            for number in waiting:
                await settle(stub, spec(number))

        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
    return count / (time.monotonic() - begun)


def spec(number: int) -> v1.MachineSpec:
    """What the controller makes of `rig.machine`, but for the image."""
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="bare", name=f"vm-{number}", owner="bench"),
        cpu=v1.CpuSpec(count=1),
        memory=v1.MemorySpec(size_bytes=256 * MIB),
        disks=[v1.DiskSpec(name="root", size_bytes=1024 * MIB)],
        nics=[v1.NicSpec(name="eth0", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan"))],
        power=v1.PowerSpec(state=v1.PowerState.ON),
    )


# -- all at once -------------------------------------------------------------------------------------------------------


def create(name: str, provider: str = "one") -> Object:
    """The request that creates a machine."""
    return {"method": "POST", "path": VMS, "body": machine(name, provider)}


@dataclass
class Cost:
    """What something took of the product."""

    seconds: float = 0.0
    writes: int = 0
    calls: float = 0.0
    cpu: tuple[float, ...] = ()


@asynccontextmanager
async def costing(found: Rig, parts: Sequence[Process]) -> AsyncIterator[Cost]:
    """What happens meanwhile. Args: parts: API server, controller, and providers."""
    cost, begun, revision = Cost(), time.monotonic(), await found.revision()
    calls = [await found.calls(provider) for provider in parts[2:]]
    used = [cpu(part.pid) for part in parts]
    yield cost
    cost.seconds = time.monotonic() - begun
    cost.writes = await found.revision() - revision
    cost.calls = sum([await found.calls(provider) for provider in parts[2:]]) - sum(calls)
    cost.cpu = tuple(cpu(part.pid) - before for part, before in zip(parts, used, strict=True))


async def quiet(found: Rig, seconds: float = 1.0) -> None:
    """Wait until nothing has been written for so long."""
    before = -1
    while (now := await found.revision()) != before:
        before = now
        await asyncio.sleep(seconds)


async def at_once(found: Rig, followed: Following, parts: Sequence[Process], count: int, writes: float) -> list[Figure]:
    """From the first create to the last Ready."""
    names = [f"vm-{number}" for number in range(count)]
    async with costing(found, parts) as cost:
        begun = time.time()
        created = await found.many(create(name) for name in names)
        ready = await followed.wait(names)
        rate = count / (max(ready) - begun)
        await quiet(found)
    taken = f"{count} creates over HTTPS, {CLIENTS} at a time, and a watch that tells when each machine is Ready"
    return [
        Figure(
            f"apply to Ready, {count} at once", rate, "VMs/s", f"{taken}; from the first request to the last Ready.",
            finding=f"{count} machines applied at once become Ready at {rate:.0f} a second",
            reference=Reference("creates of the same objects, no controller", writes), reach=REACH,
        ),
        Figure(
            "apply to Ready, of each", sorted(ready)[len(ready) // 2] - begun, "s",
            f"{taken}; half of them within this time from the first request.",
            finding=f"They become Ready one after the other, at a steady pace, for {max(ready) - begun:.1f} s",
            samples={"Ready": [at - begun for at in ready], "created": [at - begun for at in created]},
        ),
        Figure(
            "API writes per machine, from apply to quiet", cost.writes / count, "writes",
            "By the revision of the API server, the user's own write and Events included.",
        ),
        Figure(
            "calls to the provider per machine, from apply to quiet", cost.calls / count, "calls",
            "By the provider's own metrics.",
        ),
        Figure(
            "CPU per machine, from apply to quiet", sum(cost.cpu) / count * 1000, "ms",
            "Of the three processes, from /proc.",
            finding=f"A machine costs {sum(cost.cpu) / count * 1000:.1f} ms of CPU until it is Ready and quiet",
            parts={part.name: used / count * 1000 for part, used in zip(parts, cost.cpu, strict=True)},
        ),
    ]  # fmt: skip


async def by_kubectl(found: Rig, followed: Following, count: int, writes: float) -> Figure:
    """The same by one `kubectl apply`."""
    names = [f"kubectl-{number}" for number in range(count)]
    file = found.home / "machines.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [machine(name) for name in names]}))
    begun = time.time()
    process = await asyncio.create_subprocess_exec(
        "kubectl", "apply", "-f", str(file), env=environment(found),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    applied = time.time() - begun
    ready = await followed.wait(names)
    rate = count / (max(ready) - begun)
    await quiet(found)
    return Figure(
        f"kubectl apply to Ready, {count} at once", rate, "VMs/s",
        f"One `kubectl apply -f` of {count} machines, which takes {applied:.1f} s: one request after the other, "
        "a look and a create per object.",
        finding=f"One kubectl apply of {count} machines has them Ready at {rate:.0f} a second",
        reference=Reference("creates of the same objects, no controller", writes), reach=REACH,
    )  # fmt: skip


# -- a rolling edit ----------------------------------------------------------------------------------------------------


async def edits(found: Rig, followed: Following, parts: Sequence[Process], count: int, applies: float) -> list[Figure]:
    """Every machine gets another tag, as fast as the API takes it."""
    names = [f"vm-{number}" for number in range(count)]
    async with costing(found, parts) as cost:
        begun = time.time()
        body = {"spec": {"tags": ["edited"]}}
        patch = {"method": "PATCH", "body": body, "content_type": "application/merge-patch+json"}
        await found.many({**patch, "path": f"{VMS}/{name}"} for name in names)
        ready = await followed.wait(names, generation=2)
        rate = count / (max(ready) - begun)
        await quiet(found)
    return [
        Figure(
            f"edit to Ready, {count} one after the other", rate, "VMs/s",
            f"Each machine's spec.tags are patched, {CLIENTS} at a time, until all are Ready in the new generation.",
            finding=f"An edit of all {count} machines is done at {rate:.0f} a second",
            reference=Reference("ApplyMachine asked of the fake provider directly", applies), reach=REACH,
        ),
        Figure(
            "API writes per edit", cost.writes / count, "writes",
            "By the revision of the API server, the user's own write and Events included.",
        ),
        Figure("calls to the provider per edit", cost.calls / count, "calls", "By the provider's own metrics."),
    ]  # fmt: skip
