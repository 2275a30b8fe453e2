"""The fake provider as a real process: TLS, readiness, shutdown, and death at the worst moments."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import uuid
from pathlib import Path

import aiohttp
import pytest
from common import rpc, v1
from common.errors import HypervisorUnavailableError, OutcomeUnknownError
from common.pki import Authority
from common.tls import CONTROLLER, TlsFiles
from provider_process import OWNER, machines, spec, started
from providerkit.fake.__main__ import main


async def test_it_serves_with_mutual_tls_and_leaves_when_told(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    server = authority.issue(tmp_path / "server", "provider", sans=["127.0.0.1"])
    client = authority.issue(tmp_path / "client", CONTROLLER)
    ready = tmp_path / "ready"
    flags = ["--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-ca", str(server.ca)]
    async with started(*flags, "--ready-file", str(ready), "--metrics-address", "127.0.0.1:0") as process:
        assert ready.read_text() == process.address
        async with rpc.connect(process.address, client, registry=None) as channel:
            answer = await machines(channel).apply_machine(
                v1.ApplyMachineRequest(spec=spec(str(uuid.uuid4()))), timeout=10
            )
            assert answer.machine.power is v1.PowerState.ON
            watch = machines(channel).watch_machines(v1.WatchMachinesRequest())
            await anext(watch)
            process.process.send_signal(signal.SIGTERM)
            with pytest.raises(HypervisorUnavailableError):
                async for _ in watch:
                    pass
        assert await process.wait_ended() == 0
        assert not ready.exists()


@pytest.mark.parametrize("whose", ["stranger", "nobody"])
async def test_a_client_without_the_right_certificate_gets_nothing(tmp_path: Path, whose: str) -> None:
    authority = Authority.create(tmp_path / "ca")
    server = authority.issue(tmp_path / "server", "provider", sans=["127.0.0.1"])
    other = Authority.create(tmp_path / "other")
    flags = ["--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-ca", str(server.ca)]
    async with started(*flags) as process:
        if whose == "stranger":
            theirs = other.issue(tmp_path / "client", CONTROLLER)
            files = TlsFiles(theirs.cert, theirs.key, theirs.ca)
            channel = rpc.connect(process.address, files, registry=None)
        else:
            channel = rpc.connect(process.address, insecure=True, registry=None)
        async with channel:
            with pytest.raises((HypervisorUnavailableError, OutcomeUnknownError)):
                await machines(channel).get_machine(v1.GetMachineRequest(uid=str(uuid.uuid4())), timeout=5)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--owner", "x"], "--tls-cert"),
        (["--insecure"], "--owner"),
        (["--owner", "x", "--tls-cert", "/nowhere"], "belong together"),
        (["--owner", "x", "--insecure", "--max-concurrent-changes", "0"], "max_concurrent_changes"),
    ],
)
def test_settings_that_cannot_work_are_named(capsys: pytest.CaptureFixture[str], flags: list[str], text: str) -> None:
    """Plaintext is never served by accident."""
    assert main(flags) == 2
    assert text in capsys.readouterr().err


async def test_an_address_that_is_taken_is_named() -> None:
    async with started("--insecure") as first:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "providerkit.fake", "--insecure", "--owner", OWNER, "--listen-address", first.address,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, log = await process.communicate()
        assert process.returncode == 1
        assert first.address in log.decode()
        assert "Traceback" not in log.decode()


async def test_it_leaves_when_its_parent_is_gone() -> None:
    async with started("--insecure", "--exit-with-stdin") as process:
        assert process.process.stdin is not None
        process.process.stdin.close()
        assert await process.wait_ended() == 0


async def test_metrics_and_readiness_are_served() -> None:
    async with started("--insecure", "--metrics-address", "127.0.0.1:0") as process:
        page = next(entry for entry in process.log if entry["event"] == "provider.metrics")
        url = f"http://127.0.0.1:{page['port']}"
        async with rpc.connect(process.address, insecure=True, registry=None) as channel:
            await machines(channel).apply_machine(v1.ApplyMachineRequest(spec=spec(str(uuid.uuid4()))), timeout=10)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/readyz") as answer:
                assert answer.status == 200
            async with session.get(f"{url}/metrics") as answer:
                assert 'method="ApplyMachine"' in await answer.text()


@pytest.mark.parametrize(
    "point", ["fake.create.volumes", "machines.create.after", "machines.power_on.before", "machines.apply.reply"]
)
async def test_killed_in_a_create_it_goes_on(tmp_path: Path, point: str) -> None:
    """SIGKILL at the worst moments: afterwards one machine, on, with its two disks, and nothing else."""
    world, uid = tmp_path / "world.json", str(uuid.uuid4())
    request = v1.ApplyMachineRequest(spec=spec(uid))
    flags = ("--insecure", "--world", str(world))
    async with started(*flags, environment={"VIRTRIGAUD_FAULT": f"{point}:kill"}) as process:
        async with rpc.connect(process.address, insecure=True, registry=None) as channel:
            with pytest.raises((HypervisorUnavailableError, OutcomeUnknownError)):
                await machines(channel).apply_machine(request, timeout=10)
        assert await process.wait_ended() == -signal.SIGKILL
    async with started(*flags) as process, rpc.connect(process.address, insecure=True, registry=None) as channel:
        answer = await machines(channel).apply_machine(request, timeout=10)
        assert answer.machine.power is v1.PowerState.ON
        again = await machines(channel).apply_machine(request, timeout=10)
        assert again.applied == []
    kept = json.loads(world.read_text())
    assert list(kept["machines"]) == [uid]
    assert sorted(kept["volumes"]) == [f"{uid}/data", f"{uid}/root"]


@pytest.mark.parametrize("point", ["machines.destroy.before", "fake.destroy.volumes", "machines.destroy.after"])
async def test_killed_in_a_delete_it_leaves_nothing_in_the_end(tmp_path: Path, point: str) -> None:
    world, uid = tmp_path / "world.json", str(uuid.uuid4())
    apply = v1.ApplyMachineRequest(spec=spec(uid))
    delete = v1.DeleteMachineRequest(identity=spec(uid).identity)
    flags = ("--insecure", "--world", str(world))
    async with started(*flags, environment={"VIRTRIGAUD_FAULT": f"{point}:kill"}) as process:
        async with rpc.connect(process.address, insecure=True, registry=None) as channel:
            await machines(channel).apply_machine(apply, timeout=10)
            with pytest.raises((HypervisorUnavailableError, OutcomeUnknownError)):
                await machines(channel).delete_machine(delete, timeout=10)
        assert await process.wait_ended() == -signal.SIGKILL
    async with started(*flags) as process, rpc.connect(process.address, insecure=True, registry=None) as channel:
        assert (await machines(channel).delete_machine(delete, timeout=10)).gone
    kept = json.loads(world.read_text())
    assert (kept["machines"], kept["volumes"]) == ({}, {})
