"""The provider as a process of its own: it serves, leaves when told to, and may be killed at the worst moments."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import processes
import pytest
from common import v1
from common.errors import OperationInProgressError, ProviderError
from common.rpc import Stub
from processes import delete, settle
from provider_proxmox import vmids
from provider_proxmox.__main__ import main
from scenes import CANARY, MIB, OFF, ON, SUSPENDED, Step, changed, machine_spec, uid_of
from simulators.proxmox import Proxmox, proxmox
from simulators.proxmox.faults import Fault
from simulators.proxmox.tasks import Task
from simulators.proxmox.world import World

from .conftest import OWNER, credentials_of

FIRST, LAST = 2000, 2999


def provider(
    server: Proxmox, home: Path, *arguments: str, fault: str = ""
) -> AbstractAsyncContextManager[processes.Provider]:
    """The provider as a process, on the simulated cluster."""
    home.mkdir(exist_ok=True)
    return processes.provider(
        "provider_proxmox", home, OWNER, *(word for url in server.urls for word in ("--endpoint", url)),
        "--credentials-directory", str(credentials_of(server, home / "credentials")), "--tick", "200ms",
        "--spool-directory", str(home / "spool"), "--default-storage", "local-lvm",
        "--vmid-first", str(FIRST), "--vmid-last", str(LAST), *arguments, fault=fault,
    )  # fmt: skip


def guests_of(server: Proxmox, spec: v1.MachineSpec) -> list[int]:
    """VMIDs of every guest that has anything of this machine's."""
    return [guest.vmid for guest in server.world.guests.values() if uid_of(spec) in guest.text()]


def orphans(server: Proxmox) -> list[str]:
    """Volumes of guests that are not there, and first-boot data of machines that are not."""
    volumes = [
        volume
        for storage in server.world.storages.values()
        for each in storage.volumes.values()
        for volume in each.values()
    ]
    texts = "".join(guest.text() for guest in server.world.guests.values())
    left = [each.volid for each in volumes if each.vmid is not None and each.vmid not in server.world.guests]
    return left + [each.volid for each in volumes if "virtrigaud" in each.volid and each.volid not in texts]


async def test_it_serves_and_leaves_when_told_to(pve: Proxmox, tmp_path: Path) -> None:
    async with provider(pve, tmp_path) as running:
        async with running.machines() as machines:
            assert (await settle(machines, machine_spec())).power is ON
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert not running.ready.exists()
    log = (tmp_path / "log").read_text()
    assert CANARY not in log
    assert pve.token_secret not in log


async def test_it_serves_while_the_cluster_is_away(tmp_path: Path) -> None:
    """A provider that came up before its cluster says so at each call, and needs no restart; one node will do."""
    spec = machine_spec()
    async with proxmox(World(), addresses=2) as pve:
        await pve.down(0)
        await pve.down(1)
        async with provider(pve, tmp_path) as running, running.machines() as machines:
            with pytest.raises(ProviderError) as refusal:
                await machines.get_machine(v1.GetMachineRequest(uid=uid_of(spec)), timeout=10)
            assert refusal.value.reason == "HypervisorUnavailable"
            await pve.up(1)
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(ProviderError):
                        assert (await settle(machines, spec)).power is ON
                        break
                    await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    "point",
    ["proxmox.vmid.judged", "proxmox.vmid.claimed", "proxmox.create.shaped", "proxmox.create.grown",
     "proxmox.create.finishing", "proxmox.create.made", "machines.power_on.after", "proxmox.destroy.spared",
     "proxmox.destroy.done"],
)  # fmt: skip
async def test_killed_between_two_steps_it_makes_one_machine_and_leaves_no_orphan(
    pve: Proxmox, tmp_path: Path, point: str
) -> None:
    spec = machine_spec()
    async with provider(pve, tmp_path, fault=f"{point}:kill") as doomed, doomed.machines() as machines:
        with pytest.raises(ProviderError):  # noqa: PT012  # whichever of the two the point lies in
            await settle(machines, spec)
            await delete(machines, spec)
        assert await doomed.ended() == -signal.SIGKILL
    async with provider(pve, tmp_path) as running, running.machines() as machines:
        assert (await settle(machines, spec)).power is ON
        assert len(guests_of(pve, spec)) == 1
        await delete(machines, spec)
        assert guests_of(pve, spec) == []
        assert orphans(pve) == []
    assert CANARY not in (tmp_path / "log").read_text()


async def _clone(machines: Stub, spec: v1.MachineSpec) -> object:
    """Under an identity that is derived from the source's, so that asking again is asking for the same."""
    target = dataclasses.replace(spec, boot_data=None)
    uid = str(uuid.uuid5(uuid.NAMESPACE_URL, uid_of(spec)))
    target.identity = v1.MachineIdentity(uid=uid, namespace="lab", name=f"copy-{uid[:8]}", owner=OWNER)
    request = v1.CloneMachineRequest(source_uid=uid_of(spec), kind=v1.CloneKind.FULL, target=target)
    async with asyncio.timeout(processes.SETTLE_SECONDS):
        while True:
            with contextlib.suppress(OperationInProgressError):
                if (await machines.clone_machine(request, timeout=20)).operation is None:
                    return None
            await asyncio.sleep(0.1)


ROOT = v1.DiskSpec(name="root", size_bytes=8 * MIB)
TASKS: dict[str, tuple[v1.PowerState, Step]] = {
    "qmcreate": (OFF, changed()),
    "qmclone": (OFF, _clone),
    "qmstart": (OFF, changed(power=v1.PowerSpec(state=ON))),
    "qmstop": (ON, changed(power=v1.PowerSpec(state=OFF))),
    "qmpause": (ON, changed(power=v1.PowerSpec(state=SUSPENDED))),
    "qmmove": (OFF, changed(disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB, storage="shared")])),
    "resize": (OFF, changed(disks=[v1.DiskSpec(name="root", size_bytes=16 * MIB)])),
    "qmconfig": (OFF, changed(disks=[ROOT, v1.DiskSpec(name="data", size_bytes=MIB)])),
    "qmigrate": (OFF, changed(placement=v1.Placement(host="pve2"))),
    "qmdestroy": (OFF, delete),
}  # fmt: skip
"""Power of the machine before, and what makes the provider begin the task of this kind."""


async def begun(server: Proxmox, kind: str) -> Task:
    """Wait until a task of this kind stands still in the middle of its work."""
    async with asyncio.timeout(20):
        while True:
            found = [task for task in server.world.tasks.all.values() if task.kind == kind and task.running]
            if found:
                return found[0]
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", TASKS)
async def test_killed_in_the_middle_of_a_task_it_finds_it_again(pve: Proxmox, tmp_path: Path, kind: str) -> None:
    """The cluster goes on with what a dead process began: nothing of it is done twice, and nothing is lost."""
    power, step = TASKS[kind]
    spec = machine_spec(power, placement=v1.Placement(host="pve1"))
    async with provider(pve, tmp_path) as doomed, doomed.machines() as machines:
        if kind != "qmcreate":
            await settle(machines, spec)
        pve.world.tasks.hold(kind)
        work = asyncio.ensure_future(step(machines, spec))
        await begun(pve, kind)
        await doomed.kill()
        await asyncio.wait({work})
        assert isinstance(work.exception(), ProviderError)
    async with provider(pve, tmp_path) as running, running.machines() as machines:
        again = asyncio.ensure_future(step(machines, spec))
        await asyncio.wait({again}, timeout=1.0)
        pve.world.tasks.release()
        await again
        assert len(guests_of(pve, spec)) == (0 if kind == "qmdestroy" else 1)
        assert orphans(pve) == []
        if kind == "qmclone":
            copies = [guest for guest in pve.world.guests.values() if "copy-" in guest.name]
            assert len(copies) == 1
        if kind != "qmdestroy":
            machine = await settle(machines, spec)
            assert spec.power is not None
            assert machine.power is spec.power.state
            assert [disk.size_bytes for disk in machine.disks] == [disk.size_bytes for disk in spec.disks]
            assert machine.pending_restart == []


@pytest.mark.timeout(400)
async def test_200_creates_by_three_processes_make_200_machines(pve: Proxmox, tmp_path: Path) -> None:
    """They share one cluster and one small range of VMIDs, of which strangers hold some: nobody gets one twice."""
    for vmid in range(FIRST, FIRST + 300, 7):
        pve.world.add_guest(vmid, "pve2", {"name": f"stranger-{vmid}"})
    strangers = {vmid: guest.text() for vmid, guest in pve.world.guests.items()}
    specs = [machine_spec(OFF) for _ in range(200)]
    narrow = ("--vmid-last", str(FIRST + 299))
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(provider(pve, tmp_path / str(number), *narrow)) for number in range(3)
        ]
        stubs = [await stack.enter_async_context(each.machines()) for each in running]
        async with asyncio.TaskGroup() as group:
            for number, spec in enumerate(specs):
                group.create_task(settle(stubs[number % 3], spec, seconds=300))
                if number % 10 == 0:  # two providers that are asked for the same one make one
                    group.create_task(settle(stubs[(number + 1) % 3], spec, seconds=300))
    assert [len(guests_of(pve, spec)) for spec in specs] == [1] * len(specs)
    assert {vmid: pve.world.guests[vmid].text() for vmid in strangers} == strangers
    assert len(pve.world.guests) == len(strangers) + len(specs)
    assert orphans(pve) == []


async def test_a_stranger_on_the_next_vmid_is_skipped_and_untouched(pve: Proxmox, tmp_path: Path) -> None:
    """A foreign guest takes the very VMID that the machine would get, right before the call."""
    spec = machine_spec(OFF)
    first, second, third, *_ = vmids.sequence(uid_of(spec), range(FIRST, LAST + 1))
    pve.world.add_guest(first, "pve1", {"name": "early"})

    async def intrude(call: Any) -> None:
        if second not in pve.world.guests:
            pve.world.add_guest(second, "pve3", {"name": "late"})

    pve.faults.append(Fault("POST", "/nodes/{node}/qemu", before=intrude))
    async with provider(pve, tmp_path) as running, running.machines() as machines:
        assert (await settle(machines, spec)).id == str(third)
    assert [pve.world.guests[vmid].name for vmid in (first, second)] == ["early", "late"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bogus"], "--bogus"),
        (["--owner", OWNER, "--insecure"], "endpoint is missing"),
        (["--owner", OWNER, "--insecure", "--endpoint", "https://pve:8006"], "credentials_directory is missing"),
        (["--owner", OWNER, "--insecure", "--endpoint", f"https://a:{CANARY}@pve"], "endpoint: holds credentials"),
        (["--owner", OWNER, "--insecure", "--endpoint", "http://pve"], "http sends the credentials in plaintext"),
        (["--owner", OWNER, "--insecure", "--endpoint", "https://pve", "--fingerprint", "zz"], "fingerprint"),
        (["--owner", OWNER, "--endpoint", "https://pve"], "--tls-cert"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert CANARY not in told
