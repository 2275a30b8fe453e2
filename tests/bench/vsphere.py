"""`make bench SECTIONS=vsphere`: what the vSphere provider costs on a simulated vCenter.

Each figure is taken in the same run as its reference: a bare pyvmomi client that does the same without a provider.
Latencies are taken on a small inventory and on the large one: they must not differ.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import processes
from common import v1
from common.rpc import Stub
from processes import delete, settle
from provider_vsphere.session import watched
from pyVmomi import vim, vmodl
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .figures import Figure, Reach, Reference, cpu, memory, quantiles

OWNER = "bench"
MIB = 1 << 20
IDLE_SECONDS = 10.0
ALWAYS = ("WaitForUpdatesEx", "CurrentTime")
"""What is asked whether anything happens or not: the one long wait, and the check of health."""
SMALL = 50
"""Machines of the inventory that latencies are measured on besides."""


@contextmanager
def simulator(machines: int) -> Iterator[Vcsim]:
    """A vCenter with this many VMs, half of them in each of two pools."""
    server = Vcsim(vms=machines // 2, start_seconds=600.0)
    with server:
        yield server


@asynccontextmanager
async def provider(server: Vcsim, home: Path) -> AsyncIterator[processes.Provider]:
    """The provider as a process."""
    secrets = home / "credentials"
    secrets.mkdir(exist_ok=True)
    for name, text in (("username", server.user), ("password", server.password), ("ca.crt", server.ca)):
        (secrets / name).write_text(text)
    arguments = ["--endpoint", server.url, "--credentials-directory", str(secrets)]
    arguments += ["--default-cluster", "DC0_C0", "--default-network", "VM Network"]
    async with processes.provider("provider_vsphere", home, OWNER, *arguments) as running:
        yield running


def spec(image: str = "") -> v1.MachineSpec:
    """A small machine, off."""
    uid = str(uuid.uuid4())
    root = v1.DiskSpec(name="root", image=v1.ImageRef(id=image)) if image else v1.DiskSpec(name="root", size_bytes=MIB)
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="bench", name=f"m-{uid[:8]}", owner=OWNER),
        cpu=v1.CpuSpec(count=1),
        memory=v1.MemorySpec(size_bytes=64 * MIB),
        disks=[root],
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAT))],
        power=v1.PowerSpec(state=v1.PowerState.OFF),
    )


# -- cold start --------------------------------------------------------------------------------------------------------


async def cold_start(server: Vcsim, home: Path, machines: int, idle: float = IDLE_SECONDS) -> list[Figure]:
    """From the start of the process to a complete answer, and what the process holds then."""
    bare = await asyncio.to_thread(_bare_sync, server)
    begun = time.monotonic()
    async with provider(server, home) as running:
        async with running.machines() as stub:
            count = await _listed(stub)
            took = time.monotonic() - begun
            assert count >= machines
        pid = running.process.pid
        figures = [
            Figure(
                f"cold start to the list of {machines} machines",
                took,
                "s",
                "From the start of the provider's process to a complete list; the bare client reads nine leaves.",
                reference=Reference("bare pyvmomi, leaves only", bare),
            ),
            Figure(
                f"CPU of the provider until then, {machines} machines", cpu(pid), "s", "Of its process, from /proc."
            ),
            Figure(
                f"memory of the provider, {machines} machines",
                memory(pid),
                "MiB",
                "Resident, after that list.",
                reference=Reference("the simulator", memory(server.pid)),
            ),
        ]
        server.control("requests/reset")
        used = cpu(pid)
        await asyncio.sleep(idle)
        asked = sum(server.requests().values())
        figures += [
            Figure(f"requests in {idle:g} s, {machines} idle machines", asked, "requests", "Counted by the simulator."),
            Figure(f"CPU in {idle:g} s, {machines} idle machines", cpu(pid) - used, "s", "Of the provider's process."),
        ]
    return figures


async def _listed(stub: Stub) -> int:
    while True:
        try:
            request = v1.ListMachinesRequest(include_foreign=True)
            return sum([len(batch.machines) async for batch in stub.list_machines(request, timeout=120)])
        except Exception as error:  # its session is still being made
            if getattr(error, "reason", "") != "HypervisorUnavailable":
                raise
            await asyncio.sleep(0.02)


def _bare_sync(server: Vcsim) -> float:
    """Log in and read the nine leaves that a list needs at least."""
    begun = time.monotonic()
    with Admin(server) as admin:
        content = admin.si.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        collector = vmodl.query.PropertyCollector
        everyone = collector.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
        paths = [
            *("name", "config.instanceUuid", "config.changeVersion", "runtime.powerState", "runtime.host"),
            *("guest.ipAddress", "config.hardware.numCPU", "config.hardware.memoryMB", "config.hardware.device"),
        ]
        content.propertyCollector.RetrieveContents(
            [
                collector.FilterSpec(
                    objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[everyone])],
                    propSet=[collector.PropertySpec(type=vim.VirtualMachine, all=False, pathSet=paths)],
                )
            ]
        )
    return time.monotonic() - begun


# -- one change --------------------------------------------------------------------------------------------------------


async def latency(server: Vcsim, home: Path, changes: int, machines: int) -> list[Figure]:
    """From another administrator's change to the watch event, beside a bare collector's wake-up in the same run."""
    ours: list[float] = []
    bare: list[float] = []
    states = {"poweredOn": v1.PowerState.ON, "poweredOff": v1.PowerState.OFF}

    async def told(stream: Any, state: v1.PowerState) -> float:
        await _wait_state(stream, machine.id, state)
        return time.monotonic()

    async with provider(server, home) as running, running.machines() as stub:
        wish = spec()
        machine = await settle(stub, wish)
        waker = _Waker(server, machine.id)
        waker.start()
        stream = aiter(stub.watch_machines(v1.WatchMachinesRequest()))
        async with asyncio.timeout(120 + changes):
            await _wait_state(stream, machine.id, v1.PowerState.OFF)
            await asyncio.to_thread(waker.wait, "poweredOff")
            for number in range(changes):
                act, state = ("power_on", "poweredOn") if number % 2 == 0 else ("power_off", "poweredOff")
                waker.forget()
                begun = time.monotonic()
                async with asyncio.TaskGroup() as group:  # the event may come before the act has been answered
                    group.create_task(asyncio.to_thread(server.control, "act", vm=machine.id, act=act))
                    event = group.create_task(told(stream, states[state]))
                ours.append(event.result() - begun)
                bare.append(await asyncio.to_thread(waker.wait, state) - begun)
        await asyncio.to_thread(waker.stop)
        await delete(stub, wish)
    return [
        Figure(
            f"change to watch event, {name}, {machines} machines", value * 1000, "ms",
            f"{changes} times, another administrator's power-on or power-off is told by WatchMachines; "
            "the bare client waits on a filter of its own.",
            reference=Reference("bare pyvmomi, same filter", beside * 1000),
            samples={
                "the provider": [sample * 1000 for sample in ours],
                "bare pyvmomi": [sample * 1000 for sample in bare],
            },
        )
        for name, value, beside in zip(("p50", "p99"), quantiles(ours), quantiles(bare), strict=True)
    ]  # fmt: skip


async def _wait_state(stream: Any, moid: str, state: v1.PowerState) -> None:
    async for message in stream:
        for event in message.events:
            if event.changed is not None and event.changed.id == moid and event.changed.power is state:
                return


class _Waker(threading.Thread):
    """A bare pyvmomi client with the provider's own filter, which waits for the power state of one VM."""

    def __init__(self, server: Vcsim, moid: str) -> None:
        super().__init__(daemon=True)
        self._admin = Admin(server)
        self._moid = moid
        self._seen: dict[str, float] = {}
        self._news = threading.Condition()
        self._leaving = False

    def wait(self, state: str) -> float:
        """When it was told of this state; waits for it."""
        with self._news:
            assert self._news.wait_for(lambda: state in self._seen, timeout=10)
            return self._seen[state]

    def forget(self) -> None:
        """Of the next change it has not been told yet."""
        with self._news:
            self._seen.clear()

    def run(self) -> None:
        # One of its own: to the simulator, the default collectors of two sessions are one.
        content = self._admin.si.content
        waiting = content.propertyCollector.CreatePropertyCollector()
        view = content.viewManager.CreateContainerView(content.rootFolder, watched.VIEWED, True)
        waiting.CreateFilter(watched.inventory_filter(view, content.rootFolder), True)
        version, options = "", vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=1)
        while not self._leaving:
            answer = waiting.WaitForUpdatesEx(version, options)
            if answer is None:
                continue
            version, told = answer.version, time.monotonic()
            for each in answer.filterSet[0].objectSet:
                for change in each.changeSet if each.obj._moId == self._moid else ():
                    if change.name == "runtime.powerState":
                        self._tell(str(change.val), told)

    def _tell(self, state: str, told: float) -> None:
        with self._news:
            self._seen[state] = told
            self._news.notify_all()

    def stop(self) -> None:
        """End it."""
        self._leaving = True
        self.join()
        self._admin.__exit__()


# -- requests per operation --------------------------------------------------------------------------------------------


async def requests(server: Vcsim, home: Path) -> list[Figure]:
    """What each operation asks of vCenter, beside its tasks and the one long wait."""
    with Admin(server) as admin:
        golden = admin.create("golden", deviceChange=_disk())
        golden.MarkAsTemplate()
    figures = []
    async with provider(server, home) as running, running.machines() as stub, running.service("ImageService") as images:
        source = v1.ImageSource(template=v1.TemplateSource(name="golden"))
        wish = v1.PrepareImageRequest(uid=str(uuid.uuid4()), namespace="bench", name="golden", source=source)
        await settle(stub, spec())  # settles the doubts of a new session
        image = (await images.prepare_image(wish, timeout=30)).image.id
        await asyncio.sleep(61)  # and the time after it, in which machines are looked up on the server besides
        empty, cloned = spec(), spec(image)

        async def measure(name: str, work: Callable[[], Awaitable[object]], reach: float | None = None) -> None:
            await asyncio.sleep(0.5)  # what the one before still causes is not its
            server.control("requests/reset")
            begun = time.monotonic()
            await work()
            took = time.monotonic() - begun
            await asyncio.sleep(0.5)
            counts = {name: n for name, n in server.requests().items() if name not in ALWAYS}
            tasks = sum(n for name, n in counts.items() if name.endswith("_Task"))
            figures.append(
                Figure(
                    f"{name}: requests", sum(counts.values()) - tasks, "requests",
                    f"Counted by the simulator, beside {tasks} tasks and the one long wait.",
                    reach=None if reach is None else Reach(reach),
                )
            )  # fmt: skip
            figures.append(Figure(f"{name}: time", took * 1000, "ms", "Until nothing is under way any more."))

        def with_(wish: v1.MachineSpec, **fields: Any) -> Callable[[], Awaitable[object]]:
            for field, value in fields.items():
                setattr(wish, field, value)
            return lambda: settle(stub, wish)

        uid = empty.identity.uid if empty.identity is not None else ""
        await measure("create, empty disk", with_(empty), reach=3)
        await measure("create from a template", with_(cloned), reach=3)
        await measure("apply, nothing to do", with_(empty), reach=0)
        await measure("observe", lambda: stub.get_machine(v1.GetMachineRequest(uid=uid), timeout=10), reach=0)
        await measure("list", lambda: _listed(stub), reach=0)
        await measure("power on", with_(empty, power=v1.PowerSpec(state=v1.PowerState.ON)))
        await measure("power off", with_(empty, power=v1.PowerSpec(state=v1.PowerState.OFF)))
        await measure("change CPUs", with_(empty, cpu=v1.CpuSpec(count=2)))
        await measure("delete", lambda: delete(stub, empty))
    return figures


def _disk() -> list[Any]:
    device = vim.vm.device
    controller = device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True)
    disk = device.VirtualDisk(key=-2, controllerKey=-1, unitNumber=0, capacityInKB=1 << 10, backing=backing)
    return [
        device.VirtualDeviceSpec(operation="add", device=controller),
        device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
    ]


# -- all of it ---------------------------------------------------------------------------------------------------------


async def measure(machines: int = 1000, changes: int = 200) -> list[Figure]:
    """Every figure."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="bench-") as home, simulator(SMALL) as small:
        figures += await latency(small, Path(home), changes, SMALL)
        figures += await requests(small, Path(home))
    with tempfile.TemporaryDirectory(prefix="bench-") as home, simulator(machines) as large:
        figures += await cold_start(large, Path(home), machines)
        figures += await latency(large, Path(home), changes, machines)
    return figures
