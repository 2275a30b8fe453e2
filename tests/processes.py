"""Commands of the product as processes of their own: started, spoken to, ended or killed."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common import rpc, v1
from common.errors import OperationInProgressError
from common.pki import Authority
from common.rpc import Stub
from providerkit.serving import PACKAGE

CRDS = Path(__file__).parents[1] / "deploy" / "crds"
START_SECONDS = 30.0
SETTLE_SECONDS = 60.0
END_SECONDS = 20.0


def script(name: str) -> str:
    """A console script of the environment that runs the tests."""
    return str(Path(sys.executable).parent / name)


@asynccontextmanager
async def started(command: Sequence[str], log: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command in the background; ended, gracefully first, when the context is left."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def wait_started(
    holds: Callable[[], bool], process: asyncio.subprocess.Process, log: Path, seconds: float = START_SECONDS
) -> None:
    """Wait for what a process does when it has started: a file that is there."""
    async with asyncio.timeout(seconds):
        while not holds():
            assert process.returncode is None, _last_words(log)
            await asyncio.sleep(0.02)


def _last_words(log: Path) -> str:
    return log.read_text()[-2000:]


# -- the embedded API server -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApiServer:
    """A running one, and how its administrator reaches it."""

    process: asyncio.subprocess.Process
    address: str
    kubeconfig: Path
    token: str
    ca: Path


@asynccontextmanager
async def api_server(
    home: Path, authority: Authority, *, namespace: str = "default", seconds: float = START_SECONDS
) -> AsyncIterator[ApiServer]:
    """One with our kinds; what a former one on this directory stored is still there.

    Args:
        namespace: of the kubeconfig.
        seconds: that its start may take.
    """
    tls = authority.issue(home / "apiserver", "virtrigaud-apiserver", sans=["127.0.0.1", "localhost"])
    token, tokens, endpoint = secrets.token_hex(16), home / "tokens.csv", home / "data" / "endpoint"
    endpoint.unlink(missing_ok=True)
    tokens.touch(mode=0o600)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    command = [
        script("virtrigaud-apiserver"),
        *("--data-dir", str(home / "data"), "--listen", "127.0.0.1:0", "--crds", str(CRDS)),
        *("--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--token-file", str(tokens)),
    ]
    log, kubeconfig = home / "apiserver.log", home / "kubeconfig"
    async with started(command, log) as process:
        await wait_started(endpoint.exists, process, log, seconds)
        address = endpoint.read_text().strip()
        kubeconfig.write_text(
            f"""apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: "https://{address}", certificate-authority: {tls.ca}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test, namespace: {namespace}}}}}]
users: [{{name: test, user: {{token: {token}}}}}]
"""
        )
        yield ApiServer(process, address, kubeconfig, token, tls.ca)


# -- providers ---------------------------------------------------------------------------------------------------------


class Provider:
    """A running process, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, ready: Path) -> None:
        self.process = process
        self.log = log
        self.ready = ready

    @property
    def address(self) -> str:
        """host:port that it serves on."""
        return self.ready.read_text().strip()

    async def ended(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(START_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        """As the kernel would."""
        self.process.kill()
        await self.ended()

    @asynccontextmanager
    async def service(self, name: str) -> AsyncIterator[Stub]:
        """Calls to one of its services."""
        async with rpc.connect(self.address, insecure=True, registry=None) as channel:
            yield rpc.stub(channel, f"{PACKAGE}.{name}")

    @asynccontextmanager
    async def machines(self) -> AsyncIterator[Stub]:
        """Calls to its MachineService."""
        async with self.service("MachineService") as machines:
            yield machines


@asynccontextmanager
async def provider(module: str, home: Path, owner: str, *arguments: str, fault: str = "") -> AsyncIterator[Provider]:
    """Start it, wait until it serves, and end it.

    Args:
        module: Python module of its command: "provider_libvirt".
        home: for its log and ready file.
        fault: value of VIRTRIGAUD_FAULT.
    """
    ready, log = home / "ready", home / "log"
    ready.unlink(missing_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--owner", owner, "--insecure", "--listen-address", "127.0.0.1:0",
            "--ready-file", str(ready), *arguments,
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "VIRTRIGAUD_FAULT": fault},
        )  # fmt: skip
    try:
        await wait_started(ready.exists, process, log)
        yield Provider(process, log, ready)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def settle(machines: Stub, spec: v1.MachineSpec, *, seconds: float = SETTLE_SECONDS) -> v1.Machine:
    """Apply until nothing is under way, as a controller does."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                answer = await machines.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=20)
            except OperationInProgressError:
                await asyncio.sleep(0.1)
                continue
            if answer.operation is None:
                assert answer.machine is not None
                machine: v1.Machine = answer.machine
                return machine


async def delete(machines: Stub, spec: v1.MachineSpec, *, retain: bool = False) -> None:
    """Delete until it is gone, or ours no more."""
    request = v1.DeleteMachineRequest(identity=spec.identity, retain=retain)
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            try:
                if (await machines.delete_machine(request, timeout=20)).gone:
                    return
            except OperationInProgressError:
                await asyncio.sleep(0.1)
