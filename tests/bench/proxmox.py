"""`make bench SECTIONS=proxmox`: what the Proxmox VE provider costs on a simulated cluster of 10 nodes.

The simulated cluster is a process of its own, as slow as a real one. Latencies are taken on the whole cluster while
nothing else happens, which is when it is looked at most rarely.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from os import getpid
from pathlib import Path
from typing import Any

import processes
from common import v1
from common.clock import SystemClock
from common.rpc import Stub
from processes import delete, settle
from provider_proxmox import stamp
from provider_proxmox.session.login import Endpoint
from provider_proxmox.session.pace import BUSY_SECONDS
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Pace
from simulators.proxmox.process import Running, process

from .figures import Figure, Reach, Reference, cpu, memory, quantiles

OWNER = "bench"
MIB = 1 << 20
NODES = 10
IDLE_SECONDS = 120.0
TICK = 2.85
"""The provider's own."""
FIRST_VMID = 100


def uid_of(vmid: int) -> str:
    """Of the machine with this VMID."""
    return str(uuid.UUID(int=vmid))


@asynccontextmanager
async def cluster(machines: int, nodes: int = NODES, **options: object) -> AsyncIterator[Running]:
    """A cluster with so many machines of ours, every second one running."""
    async with process(nodes=nodes, vms=machines, **options) as server:
        for vmid in range(FIRST_VMID, FIRST_VMID + machines):
            identity = v1.MachineIdentity(uid=uid_of(vmid), namespace="bench", name=f"vm{vmid}", owner=OWNER)
            await server.switch(
                "guest", vmid=vmid, do="edit", config={"description": stamp.written("", stamp.of(identity, vmid, 0))}
            )
        yield server


class Session:
    """The provider's session, and when it told of each machine."""

    def __init__(self, server: Running, home: Path, tick: float = TICK) -> None:
        self.server = server
        self.pve = Pve(Endpoint(server.urls, credentials=server.credentials(home)), clock=SystemClock(), tick=tick)
        self._changed = asyncio.Event()
        self.pve.on_change(lambda _uid: self._changed.set())

    async def wait(self, holds: Callable[[], object]) -> float:
        """Wait until the index says so; when that was, by the monotonic clock."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()
        return time.monotonic()

    def name(self, vmid: int) -> str:
        """As the index has it."""
        return self.pve.index.guests[vmid].name


async def session_costs(
    server: Running, home: Path, machines: int, idle: float = IDLE_SECONDS, quiet: float = BUSY_SECONDS
) -> list[Figure]:
    """From nothing to a complete index, and what keeping it true costs while nothing happens."""
    pid, session = getpid(), Session(server, home)
    used, begun = cpu(pid), time.monotonic()
    async with session.pve.session():
        await session.pve.wait_known()
        took = time.monotonic() - begun
        assert len(session.pve.index.guests) >= machines
        figures = [
            Figure(
                f"from nothing to the index of {machines} machines", took, "s", "From log-in until each guest is known."
            ),
            Figure("CPU until then", cpu(pid) - used, "s", "Of the session's process, the bench's own included."),
            Figure("requests until then", session.pve.requests, "requests", "Counted by the session."),
            Figure(
                "memory of the session's process", memory(pid), "MiB", "Resident, the bench's own included.",
                reference=Reference("the simulator", memory(server.pid)),
            ),
        ]  # fmt: skip
        await asyncio.sleep(quiet)
        before, used = session.pve.requests, cpu(pid)
        await asyncio.sleep(idle)
        asked = (session.pve.requests - before) / idle * 60 / len(session.pve.index.nodes)
        figures += [
            Figure(
                "requests a minute and node, idle",
                asked,
                "requests",
                f"For {idle:g} s in which nothing happens.",
                reach=Reach(30),
            ),
            Figure("CPU a minute, idle", (cpu(pid) - used) / idle * 60, "s", "Of the session's process, meanwhile."),
        ]
    return figures


# -- one change --------------------------------------------------------------------------------------------------------


async def latency(
    server: Running, home: Path, changes: int, machines: int, quiet: float = BUSY_SECONDS, tick: float = TICK
) -> list[Figure]:
    """From a change by somebody else to the index, of such that leave a task and of such that leave none."""
    session = Session(server, home, tick)
    async with session.pve.session():
        await session.pve.wait_known()
        await asyncio.sleep(quiet)
        silent = [await renamed(session, machines, tick) for _ in range(changes)]
        async with asyncio.timeout(60 + changes * (BUSY_SECONDS + 30)):
            tasks = [
                await snapshotted(session, machines, quiet + random.uniform(0, tick))
                for _ in range(max(2, changes // 5))
            ]
    figures = []
    for what, samples, reach in (("without a task", silent, 3000), ("by a task", tasks, 1000)):
        p50, p99 = quantiles(samples)
        taken = f"{len(samples)} changes by somebody else, at any moment between two looks."
        spread = {"the session": [sample * 1000 for sample in samples]}
        figures += [
            Figure(f"change {what} to the index, p50", p50 * 1000, "ms", taken, samples=spread),
            Figure(f"change {what} to the index, p99", p99 * 1000, "ms", taken, reach=Reach(reach), samples=spread),
        ]
    return figures


async def renamed(session: Session, machines: int, tick: float) -> float:
    """Seconds from a synchronous change, at any moment between two looks."""
    vmid, name = random.randrange(FIRST_VMID, FIRST_VMID + machines), f"n-{uuid.uuid4().hex[:8]}"
    await asyncio.sleep(random.uniform(0, tick))
    begun = time.monotonic()
    await session.server.switch("guest", vmid=vmid, do="edit", config={"name": name})
    return await session.wait(lambda: session.name(vmid) == name) - begun


async def snapshotted(session: Session, machines: int, quiet: float) -> float:
    """Seconds from the end of a task that leaves no trace in a list of guests; it takes as long as `Pace` says."""
    vmid, name = random.randrange(FIRST_VMID, FIRST_VMID + machines), f"s{uuid.uuid4().hex[:8]}"
    await asyncio.sleep(quiet)  # the cluster is quiet again
    person = Pve(session.pve.endpoint, clock=SystemClock())
    guest = session.pve.index.guests[vmid]
    await person.post("take a snapshot", f"{guest.path}/snapshot", snapname=name)
    ended = time.monotonic() + Pace().snapshot
    person.close()
    seen = await session.wait(lambda: any(each["name"] == name for each in session.pve.index.guests[vmid].snapshots))
    return max(seen - ended, 0.0)


# -- requests per operation --------------------------------------------------------------------------------------------


def spec(size: int = 1 << 30) -> v1.MachineSpec:
    """A small machine, off."""
    uid = str(uuid.uuid4())
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="bench", name=f"m-{uid[:8]}", owner=OWNER),
        cpu=v1.CpuSpec(count=1),
        memory=v1.MemorySpec(size_bytes=64 * MIB),
        disks=[v1.DiskSpec(name="root", size_bytes=size)],
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr0"))],
        power=v1.PowerSpec(state=v1.PowerState.OFF),
    )


@asynccontextmanager
async def provider(server: Running, home: Path) -> AsyncIterator[processes.Provider]:
    """The provider as a process."""
    arguments = ["--credentials-directory", str(server.credentials(home / "credentials"))]
    for url in server.urls:
        arguments += ["--endpoint", url]
    async with processes.provider("provider_proxmox", home, OWNER, *arguments) as running:
        yield running


async def operations(server: Running, home: Path, pause: float = 1.0) -> list[Figure]:
    """What each operation asks, without what the session asks by itself meanwhile."""
    figures: list[Figure] = []
    looks = ("GET /cluster/tasks", "GET /cluster/resources", "GET /nodes/{node}/qemu", "GET /nodes/{node}/network")
    async with provider(server, home) as running, running.machines() as stub:
        await _listed(stub)
        wish = spec()

        async def measure(name: str, work: Callable[[], Awaitable[object]]) -> None:
            await asyncio.sleep(pause)  # what the one before still causes is not its
            await server.switch("requests/reset")
            begun = time.monotonic()
            await work()
            took = time.monotonic() - begun
            counts = await server.requests()
            own = sum(count for route, count in counts.items() if route not in looks)
            looked = (
                f"Counted by the simulator, beside {sum(counts.values()) - own} looks that the session makes anyway."
            )
            figures.append(Figure(f"{name}: requests", own, "requests", looked))
            figures.append(Figure(f"{name}: time", took * 1000, "ms", "Until nothing is under way any more."))

        def with_(**fields: Any) -> Callable[[], Awaitable[object]]:
            for field, value in fields.items():
                setattr(wish, field, value)
            return lambda: settle(stub, wish)

        uid = wish.identity.uid if wish.identity is not None else ""
        await measure("create, empty disk", with_())
        await measure("apply, nothing to do", with_())
        await measure("observe", lambda: stub.get_machine(v1.GetMachineRequest(uid=uid), timeout=10))
        await measure("list", lambda: _listed(stub))
        await measure("power on", with_(power=v1.PowerSpec(state=v1.PowerState.ON)))
        await measure("power off", with_(power=v1.PowerSpec(state=v1.PowerState.OFF)))
        await measure("change CPUs", with_(cpu=v1.CpuSpec(count=2)))
        await measure("delete", lambda: delete(stub, wish))
    return figures


async def _listed(stub: Stub) -> int:
    while True:
        try:
            request = v1.ListMachinesRequest(include_foreign=True)
            return sum([len(batch.machines) async for batch in stub.list_machines(request, timeout=120)])
        except Exception as error:  # its session is still being made
            if getattr(error, "reason", "") != "HypervisorUnavailable":
                raise
            await asyncio.sleep(0.1)


# -- all of it ---------------------------------------------------------------------------------------------------------


async def measure(machines: int = 2000, changes: int = 100) -> list[Figure]:
    """Every figure."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        async with cluster(machines) as server:
            figures += await session_costs(server, Path(home), machines)
            figures += await latency(server, Path(home), changes, machines)
            figures += await operations(server, Path(home))
    return figures
