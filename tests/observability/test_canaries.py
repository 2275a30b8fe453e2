"""No provider shows its credentials: not at debug level, not when a login fails, not when a hypervisor quotes them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import json
import re
import signal
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import grpc.aio
import processes
import pytest
from common import redact, v1
from common.errors import ProviderError
from libvirtd.fixtures import CACHE, guest_image, missing
from libvirtd.private import LibvirtdUnavailableError, PrivateLibvirtd
from libvirtd.remote import USER, ssh_host
from processes import settle
from simulators.proxmox import proxmox
from simulators.proxmox.errors import refused
from simulators.proxmox.faults import Fault
from simulators.vcsim import Vcsim
from tools.gomodule import GoUnavailableError

from observability.collector import collecting

__all__ = ["guest_image"]  # a fixture
OWNER = "tests"
RIGHT, WRONG = 'right/cAn4ry+of"the<coal>&mine', "wrong/cAn4ry+of the:pit"


def forms(secret: str, *users: str) -> list[str]:
    """Whatever a dump of a request might show of it."""
    found = [secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]]
    found += [html.escape(secret), html.escape(secret, quote=False), repr(secret)]
    found += [base64.b64encode(f"{user}:{secret}".encode()).decode() for user in users]
    return [*found, base64.b64encode(secret.encode()).decode()]


@dataclass
class Hypervisor:
    """A simulated one, and what a test does with it.

    Attributes:
        flags: of the provider's command.
        secret: file of the credentials that the canary is in.
        users: whose names stand before it in what is encoded.
        quoting: makes it refuse to create a machine, in these words; None where it has no words of its own.
        renew: forces a new login.
    """

    module: str
    flags: tuple[str, ...]
    credentials: Path
    secret: str
    users: tuple[str, ...] = ()
    quoting: Callable[[str], None] | None = None
    renew: Callable[[], object] = lambda: None
    sessions: Callable[[], list[str]] = list
    spec: dict[str, Any] = field(default_factory=dict)


def written(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("_crt", ".crt")).write_text(content)
    return directory


@asynccontextmanager
async def on_vsphere(home: Path) -> AsyncIterator[Hypervisor]:
    server = Vcsim(password=RIGHT)
    try:
        server.start()
    except GoUnavailableError as error:
        missing(str(error))
    try:
        yield Hypervisor(
            "provider_vsphere", ("--endpoint", server.url, "--default-cluster", "DC0_C0"),
            written(home / "credentials", username=server.user, password=RIGHT, ca_crt=server.ca), "password",
            (server.user,),
            lambda words: server.control("faults", method="CreateVM_Task", fault="InvalidName", fields={"name": words}),
            lambda: server.control("sessions/drop"),
        )  # fmt: skip
    finally:
        server.stop()


@asynccontextmanager
async def on_proxmox(home: Path, *, token: bool) -> AsyncIterator[Hypervisor]:
    async with proxmox() as server:
        authority = await asyncio.to_thread(Path(server.ca_file).read_text)
        access, sessions = server.world.access, list[str]()
        ticket, csrf = access.ticket, access.csrf
        access.ticket = lambda *args, **kwargs: _kept(sessions, ticket(*args, **kwargs))  # type: ignore[method-assign]
        access.csrf = lambda user: _kept(sessions, csrf(user))  # type: ignore[method-assign]
        access.users[server.user].password = RIGHT
        name, _, token_name = server.token_id.partition("!")
        access.users[name].tokens[token_name].secret = RIGHT
        given = (
            {"token_id": server.token_id, "token_secret": RIGHT} if token
            else {"username": server.user, "password": RIGHT}
        )  # fmt: skip
        yield Hypervisor(
            "provider_proxmox",
            ("--endpoint", server.urls[0], "--tick", "200ms", "--spool-directory", str(home / "spool"),
             "--default-storage", "local-lvm"),
            written(home / "credentials", ca_crt=authority, **given),
            "token_secret" if token else "password", (server.user, server.token_id),
            lambda words: server.faults.append(Fault("POST", "/nodes/{node}/qemu", refusal=refused(words))),
            access.expire_tickets, lambda: sessions,
        )  # fmt: skip


def _kept(found: list[str], value: str) -> str:
    found.append(value)
    return value


@asynccontextmanager
async def on_libvirt(home: Path) -> AsyncIterator[Hypervisor]:
    try:
        daemon = PrivateLibvirtd(CACHE / "libvirt-capabilities").__enter__()
    except LibvirtdUnavailableError as error:
        missing(str(error))
    try:
        async with ssh_host(daemon, home, RIGHT) as host:
            files = written(
                home / "credentials", username=USER, password=RIGHT, known_hosts=host.known_hosts.read_text()
            )
            uri = f"qemu+libssh2://127.0.0.1:{host.port}/system"
            yield Hypervisor("provider_libvirt", ("--endpoint", uri), files, "password", (USER,), renew=host.cut)
    finally:
        daemon.close()


HYPERVISORS: dict[str, Callable[[Path], AbstractAsyncContextManager[Hypervisor]]] = {
    "vsphere": on_vsphere,
    "proxmox token": lambda home: on_proxmox(home, token=True),
    "proxmox password": lambda home: on_proxmox(home, token=False),
    "libvirt": on_libvirt,
}


def machine_spec() -> v1.MachineSpec:
    uid = str(uuid.uuid4())
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="lab", name=f"m-{uid[:8]}", owner=OWNER),
        cpu=v1.CpuSpec(count=1),
        memory=v1.MemorySpec(size_bytes=64 << 20),
        disks=[v1.DiskSpec(name="root", size_bytes=8 << 20)],
    )


class Said:
    """Everything that a provider answered."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    async def asked(self, call: Any) -> ProviderError | None:
        """Make a call and keep its answer, or its refusal with all that came along."""
        try:
            self.parts.append(repr(await call))
        except ProviderError as error:
            self.parts += [repr(error), str(error)]
            if isinstance(cause := error.__cause__, grpc.aio.AioRpcError):
                self.parts += [repr(cause), repr(cause.trailing_metadata())]
            return error
        return None

    async def until(self, make: Callable[[], Any], holds: Callable[[ProviderError | None], bool]) -> None:
        async with asyncio.timeout(60):
            while True:
                if holds(await self.asked(make())):
                    return
                await asyncio.sleep(0.1)


async def page(log: Path, path: str) -> str:
    """What its metrics address shows."""
    return await asyncio.to_thread(_fetched, log, path)


def _fetched(log: Path, path: str) -> str:
    told = next(json.loads(line) for line in log.read_text().splitlines() if '"provider.metrics"' in line)
    url = f"http://{told['host']}:{told['port']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
    return text


@pytest.mark.real
@pytest.mark.parametrize("name", HYPERVISORS)
async def test_credentials_are_nowhere(name: str, tmp_path: Path) -> None:
    said = Said()
    async with collecting() as collector, HYPERVISORS[name](tmp_path) as hypervisor:
        await _use(hypervisor, said, tmp_path, collector.url)
        spans = "".join(map(str, collector.requests))
        sessions = hypervisor.sessions()
    log = (tmp_path / "log").read_text()
    assert '"level":"debug"' in log or '"level": "debug"' in log
    assert "ApplyMachine" in spans
    if hypervisor.quoting is not None:
        assert f"quoted {redact.MASK}" in "".join(said.parts)
        assert f"quoted {redact.MASK}" in log
    if name == "proxmox password":
        assert len(sessions) >= 4  # two tickets, and what goes with each
    canaries = [each for secret in (RIGHT, WRONG) for each in forms(secret, *hypervisor.users)] + sessions
    for where, text in {"log": log, "answers": "\n".join(said.parts), "spans": spans}.items():
        plain = text.replace('\\"', '"').replace("\\\\", "\\")
        shown = [canary for canary in canaries if canary in text or canary in plain]
        assert shown == [], where
        assert not re.search("(?i)can4ry", text), where


async def _use(hypervisor: Hypervisor, said: Said, home: Path, otlp: str) -> None:
    """A login that fails, one that works, and a hypervisor that repeats what it was told."""
    secret = hypervisor.credentials / hypervisor.secret
    secret.write_text(WRONG + "\n")
    async with processes.provider(
        hypervisor.module, home, OWNER, *hypervisor.flags, "--credentials-directory", str(hypervisor.credentials),
        "--log-level", "debug", "--otlp-endpoint", otlp, "--metrics-address", "127.0.0.1:0",
    ) as running, running.machines() as machines, running.service("ProviderService") as provider:  # fmt: skip
        spec = machine_spec()
        assert spec.identity is not None
        look = v1.GetMachineRequest(uid=spec.identity.uid)
        await said.until(
            lambda: machines.get_machine(look, timeout=20), lambda e: e is not None and e.reason == "CredentialsRefused"
        )
        await said.asked(provider.check_connection(v1.CheckConnectionRequest(), timeout=20))
        said.parts += [await page(home / "log", "/readyz"), await page(home / "log", "/metrics")]
        secret.write_text(RIGHT + "\n")
        hypervisor.renew()
        await said.until(
            lambda: machines.get_machine(look, timeout=20), lambda e: e is None or e.reason == "MachineNotFound"
        )
        await said.asked(provider.get_provider(v1.GetProviderRequest(), timeout=20))
        if hypervisor.quoting is not None:
            for canary in (form for each in (RIGHT, WRONG) for form in forms(each, *hypervisor.users)):
                hypervisor.quoting(f"quoted {canary} in what was sent")
                await _refused(said, running, spec)
        hypervisor.renew()
        with contextlib.suppress(ProviderError):
            said.parts.append(repr(await settle(machines, spec)))
        said.parts += [await page(home / "log", "/readyz"), await page(home / "log", "/metrics")]
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0


async def _refused(said: Said, running: processes.Provider, spec: v1.MachineSpec) -> None:
    """Apply until the refusal is told, by the call or by the operation that it began."""
    before = len(said.parts)
    async with running.machines() as machines, running.service("OperationService") as operations, asyncio.timeout(60):
        while not any("quoted" in part for part in said.parts[before:]):
            await said.asked(machines.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=20))
            await said.asked(operations.list_operations(v1.ListOperationsRequest(), timeout=20))
            await asyncio.sleep(0.05)
