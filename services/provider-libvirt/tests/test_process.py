"""The provider as a process of its own: it serves, leaves when told to, and may be killed at the worst moments."""

from __future__ import annotations

import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import processes
import pytest
from common import v1
from common.errors import ProviderError
from libvirtd.private import PrivateLibvirtd
from processes import delete, settle
from provider_libvirt.__main__ import main

from .conftest import MIB, OWNER, machine_spec, uid_of

CANARY = "canary-41f7"


def provider(
    tmp_path: Path, endpoint: str, *arguments: str, fault: str = ""
) -> AbstractAsyncContextManager[processes.Provider]:
    """The libvirt provider as a process."""
    return processes.provider("provider_libvirt", tmp_path, OWNER, "--endpoint", endpoint, *arguments, fault=fault)


async def test_it_serves_and_leaves_when_told_to(tmp_path: Path) -> None:
    async with provider(tmp_path, "test:///default", "--pool", "default-pool") as running:
        async with running.machines() as machines:
            machine = await settle(machines, machine_spec(disks=[v1.DiskSpec(name="root", size_bytes=MIB)]))
            assert machine.owned
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert not running.ready.exists()


async def test_W33_P45_it_serves_while_the_hypervisor_is_away(tmp_path: Path) -> None:
    """A provider that came up before its hypervisor says so at each call, and needs no restart."""
    async with (
        provider(tmp_path, f"qemu+unix:///system?socket={tmp_path}/none") as running,
        running.machines() as machines,
    ):
        with pytest.raises(ProviderError, match="connect to qemu") as refusal:
            await machines.get_machine(v1.GetMachineRequest(uid=uid_of(machine_spec())), timeout=10)
        assert refusal.value.reason == "HypervisorUnavailable"


@pytest.mark.real
@pytest.mark.parametrize(
    "point", ["libvirt.create.begun", "libvirt.create.files", "libvirt.create.defined", "libvirt.destroy.done"]
)
async def test_killed_at_the_worst_moment_it_makes_one_machine_and_leaves_no_orphan(
    tmp_path: Path, libvirtd: PrivateLibvirtd, point: str
) -> None:
    spec = machine_spec(
        disks=[v1.DiskSpec(name="root", size_bytes=8 * MIB)],
        boot_data=v1.BootData(user_data=f"#cloud-config\npassword: {CANARY}\n"),
        power=v1.PowerSpec(state=v1.PowerState.ON),
    )
    uid = uid_of(spec)
    async with provider(tmp_path, libvirtd.uri, fault=f"{point}:kill") as doomed, doomed.machines() as machines:
        with pytest.raises(ProviderError):  # noqa: PT012  # whichever of the two the point lies in
            await settle(machines, spec)
            await delete(machines, spec)
        assert await doomed.ended() == -signal.SIGKILL
    async with provider(tmp_path, libvirtd.uri) as running, running.machines() as machines:
        machine = await settle(machines, spec)
        assert machine.power is v1.PowerState.ON
        assert [disk.size_bytes for disk in machine.disks] == [8 * MIB]
        names = {path.name for path in libvirtd.pool_path.iterdir() if path.name.startswith(uid)}
        assert names == {f"{uid}-root.qcow2", f"{uid}-boot-data.iso", f"{uid}-serial.log"}
        await delete(machines, spec)
        assert not [path for path in libvirtd.pool_path.iterdir() if path.name.startswith(uid)]
    assert CANARY not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bogus"], "--bogus"),
        (["--owner", OWNER, "--insecure", "--endpoint", "nowhere"], "endpoint"),
        (["--owner", OWNER], "--tls-cert"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
