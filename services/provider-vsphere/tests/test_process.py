"""The provider as a process of its own: it serves, leaves when told to, and may be killed at the worst moments."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import processes
import pytest
from common import v1
from common.errors import CredentialsRefusedError, HypervisorUnavailableError, ProviderError
from common.rpc import Stub
from processes import delete, settle
from provider_vsphere.__main__ import main
from scenes import CANARY, OFF, ON, SUSPENDED, Step, changed, machine_spec, uid_of
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, credentials_of

pytestmark = pytest.mark.real


def provider(server: Vcsim, tmp_path: Path, *, fault: str = "") -> AbstractAsyncContextManager[processes.Provider]:
    """The vSphere provider as a process, on the simulated vCenter."""
    secrets = tmp_path / "credentials"
    secrets.mkdir(exist_ok=True)
    return processes.provider(
        "provider_vsphere", tmp_path, OWNER, "--endpoint", server.url,
        "--credentials-directory", str(credentials_of(server, secrets)),
        "--default-cluster", "DC0_C0", "--default-network", "VM Network", fault=fault,
    )  # fmt: skip


async def test_it_serves_and_leaves_when_told_to(own_vcsim: Vcsim, tmp_path: Path) -> None:
    async with provider(own_vcsim, tmp_path) as running:
        async with running.machines() as machines:
            assert (await settle(machines, machine_spec())).power is ON
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert not running.ready.exists()
    log = (tmp_path / "log").read_text()
    assert CANARY not in log
    assert own_vcsim.password not in log.replace("credentials", "")


async def test_W33_P45_it_serves_while_the_hypervisor_is_away(own_vcsim: Vcsim, tmp_path: Path) -> None:
    """A provider that came up before its vCenter says so at each call, and needs no restart."""
    own_vcsim.stop()
    spec = machine_spec()
    async with provider(own_vcsim, tmp_path) as running, running.machines() as machines:
        with pytest.raises(ProviderError) as refusal:
            await machines.get_machine(v1.GetMachineRequest(uid=uid_of(spec)), timeout=10)
        assert refusal.value.reason == "HypervisorUnavailable"
        own_vcsim.start()
        credentials_of(own_vcsim, tmp_path / "credentials")
        async with asyncio.timeout(60):
            await _wait_back(machines)
        assert (await settle(machines, spec)).power is ON


async def test_a_password_that_is_no_text_is_named_and_the_provider_goes_on(own_vcsim: Vcsim, tmp_path: Path) -> None:
    """Somebody put a keystore into the Secret, and corrects it."""
    async with provider(own_vcsim, tmp_path) as running, running.machines() as machines:
        (tmp_path / "credentials" / "password").write_bytes(b"\xff\xfe" + CANARY.encode())
        own_vcsim.control("sessions/drop")
        errors: list[ProviderError] = []
        async with asyncio.timeout(60):
            while not any("password is no UTF-8 text" in str(error) for error in errors):
                try:
                    await machines.get_machine(v1.GetMachineRequest(uid=uid_of(machine_spec())), timeout=10)
                except ProviderError as error:
                    errors.append(error)
        assert isinstance(errors[-1], CredentialsRefusedError)
        credentials_of(own_vcsim, tmp_path / "credentials")
        async with asyncio.timeout(60):
            await _wait_back(machines)
    assert CANARY not in (tmp_path / "log").read_text()


async def _wait_back(machines: Stub) -> None:
    """Wait until the provider has a session; the new server's authority is told to it a moment after its start."""
    while True:
        with contextlib.suppress(HypervisorUnavailableError, CredentialsRefusedError):
            async for message in machines.watch_machines(v1.WatchMachinesRequest()):
                if message.snapshot_complete:
                    return
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    "point",
    ["vsphere.create.begun", "vsphere.create.made", "machines.power_on.after", "vsphere.destroy.detached",
     "vsphere.destroy.done"],
)  # fmt: skip
async def test_killed_between_two_tasks_it_makes_one_machine_and_leaves_no_orphan(
    own_vcsim: Vcsim, tmp_path: Path, point: str
) -> None:
    spec = machine_spec()
    async with provider(own_vcsim, tmp_path, fault=f"{point}:kill") as doomed, doomed.machines() as machines:
        with pytest.raises(ProviderError):  # noqa: PT012  # whichever of the two the point lies in
            await settle(machines, spec)
            await delete(machines, spec)
        assert await doomed.ended() == -signal.SIGKILL
    async with provider(own_vcsim, tmp_path) as running, running.machines() as machines:
        assert (await settle(machines, spec)).power is ON
        with Admin(own_vcsim) as admin:
            assert len(admin.with_uuid(uid_of(spec))) == 1
            await delete(machines, spec)
            assert admin.with_uuid(uid_of(spec)) == []
            assert admin.orphans() == []
    assert CANARY not in (tmp_path / "log").read_text()


TASKS: dict[str, tuple[v1.PowerState, Step]] = {
    "CreateVM_Task": (OFF, changed()),
    "PowerOnVM_Task": (OFF, changed(power=v1.PowerSpec(state=ON))),
    "PowerOffVM_Task": (ON, changed(power=v1.PowerSpec(state=OFF))),
    "SuspendVM_Task": (ON, changed(power=v1.PowerSpec(state=SUSPENDED))),
    "ReconfigVM_Task": (OFF, changed(cpu=v1.CpuSpec(count=3))),
    "Destroy_Task": (OFF, delete),
}
"""Power of the machine before, and what makes the provider begin the task."""


def wait_asked(server: Vcsim, method: str) -> None:
    end = time.monotonic() + 20
    while not server.requests().get(method):
        assert time.monotonic() < end, f"{method} was never asked for"
        time.sleep(0.02)


@pytest.mark.parametrize("method", TASKS)
async def test_killed_in_the_middle_of_a_task_it_finds_it_again(own_vcsim: Vcsim, tmp_path: Path, method: str) -> None:
    """vCenter goes on with what a dead process began: nothing of it is done twice, and nothing is lost."""
    power, step = TASKS[method]
    spec = machine_spec(power)
    async with provider(own_vcsim, tmp_path) as doomed, doomed.machines() as machines:
        if method != "CreateVM_Task":
            await settle(machines, spec)
        own_vcsim.control("slow", method=method, seconds=0)
        own_vcsim.control("requests/reset")
        work = asyncio.ensure_future(step(machines, spec))
        await asyncio.to_thread(wait_asked, own_vcsim, method)
        await doomed.kill()
        await asyncio.wait({work})
        assert isinstance(work.exception(), ProviderError)
    async with provider(own_vcsim, tmp_path) as running, running.machines() as machines:
        again = asyncio.ensure_future(step(machines, spec))
        await asyncio.wait({again}, timeout=1.0)
        own_vcsim.control("slow/release")
        await again
        with Admin(own_vcsim) as admin:
            found = admin.with_uuid(uid_of(spec))
            assert len(found) == (0 if method == "Destroy_Task" else 1)
            assert admin.orphans() == []
        if found:
            machine = (await machines.get_machine(v1.GetMachineRequest(uid=uid_of(spec)), timeout=10)).machine
            assert spec.power is not None
            assert spec.cpu is not None
            assert (machine.power, machine.cpu.count) == (spec.power.state, spec.cpu.count)
        if method == "CreateVM_Task":
            assert own_vcsim.requests()[method] == 1


async def test_a_machine_that_is_let_go_while_it_is_made_carries_no_stamp_of_ours(
    own_vcsim: Vcsim, tmp_path: Path
) -> None:
    """Its making outlives the process that began it: let go before it ends, it would come up as ours, and nobody's."""
    spec = machine_spec(OFF)
    async with provider(own_vcsim, tmp_path) as doomed, doomed.machines() as machines:
        own_vcsim.control("slow", method="CreateVM_Task", seconds=0)
        work = asyncio.ensure_future(settle(machines, spec))
        await asyncio.to_thread(wait_asked, own_vcsim, "CreateVM_Task")
        await doomed.kill()
        await asyncio.wait({work})
        assert isinstance(work.exception(), ProviderError)
    async with provider(own_vcsim, tmp_path) as running, running.machines() as machines:
        going = asyncio.ensure_future(delete(machines, spec, retain=True))
        await asyncio.wait({going}, timeout=1.0)
        own_vcsim.control("slow/release")
        await going
        machine = (await machines.get_machine(v1.GetMachineRequest(uid=uid_of(spec)), timeout=10)).machine
        assert not machine.owned


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bogus"], "--bogus"),
        (["--owner", OWNER, "--insecure"], "endpoint is missing"),
        (["--owner", OWNER, "--insecure", "--endpoint", "https://vc"], "credentials_directory is missing"),
        (["--owner", OWNER, "--insecure", "--endpoint", f"https://a:{CANARY}@vc"], "endpoint: holds credentials"),
        (["--owner", OWNER, "--insecure", "--endpoint", "http://vc"], "http sends the password in plaintext"),
        (["--owner", OWNER, "--insecure", "--endpoint", "https://vc", "--thumbprint", "zz"], "thumbprint"),
        (["--owner", OWNER, "--endpoint", "https://vc"], "--tls-cert"),
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
