"""The connection: errors in our words, calls that hang, URIs with paths and without secrets, settings."""

from __future__ import annotations

import asyncio
import errno
import shutil
import subprocess
from pathlib import Path

import libvirt
import pytest
from common.clock import SystemClock
from common.errors import (
    CredentialsRefusedError,
    HostFullError,
    HypervisorUnavailableError,
    InternalError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    PermissionMissingError,
    ProviderError,
    WrongPowerStateError,
)
from common.settings import SettingsError, load
from libvirtd.private import PrivateLibvirtd
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.libvirt_errors import translate
from provider_libvirt.remote import Credentials, connection_uri
from provider_libvirt.settings import LibvirtSettings

SECRET = "hunter-2-canary"


class Said(libvirt.libvirtError):
    """An error as libvirt would raise it."""

    def __init__(self, code: int, domain: int = libvirt.VIR_FROM_QEMU, text: str = "text", number: int = 0) -> None:
        super().__init__(text)
        self.err = (code, domain, text, 2, None, None, None, number, -1)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (Said(libvirt.VIR_ERR_NO_DOMAIN), MachineNotFoundError),
        (Said(libvirt.VIR_ERR_OPERATION_INVALID), WrongPowerStateError),
        (Said(libvirt.VIR_ERR_SYSTEM_ERROR, number=errno.ENOSPC), HostFullError),
        (Said(libvirt.VIR_ERR_INTERNAL_ERROR, text="qemu-img: x: No space left on device"), HostFullError),
        (Said(libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_RPC), CredentialsRefusedError),
        (
            Said(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "Cannot recv data: Host key verification failed."),
            CredentialsRefusedError,
        ),
        (Said(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "socket is closed"), HypervisorUnavailableError),
        (Said(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_REMOTE, number=111), HypervisorUnavailableError),
        (Said(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, number=errno.EACCES), PermissionMissingError),
        (Said(libvirt.VIR_ERR_OPERATION_DENIED), PermissionMissingError),
        (Said(libvirt.VIR_ERR_NO_SUPPORT), NotSupportedError),
        (Said(libvirt.VIR_ERR_INTERNAL_ERROR), InternalError),
        (Said(424242), InternalError),
    ],
)  # fmt: skip
def test_errors_are_mapped_by_code(error: Said, ours: type[ProviderError]) -> None:
    said = translate(error, "start machine m-1")
    assert type(said) is ours
    assert str(said).startswith("start machine m-1: ")


async def test_an_endpoint_that_is_not_there_is_unavailable_and_named(tmp_path: Path) -> None:
    hypervisor = Hypervisor(f"qemu+unix:///system?socket={tmp_path}/none", clock=SystemClock())
    async with hypervisor.session():
        with pytest.raises(HypervisorUnavailableError, match="check: connect to qemu"):
            await hypervisor.call("check", lambda c: c.getLibVersion())


async def test_what_the_body_of_a_session_raises_is_not_wrapped() -> None:
    hypervisor = Hypervisor("test:///default", clock=SystemClock())
    with pytest.raises(MachineNotFoundError):
        async with hypervisor.session():
            await hypervisor.call("x", lambda c: c.lookupByUUIDString("0a6b5d6e-3c1c-4a53-9d3e-0000000000a1"))


async def test_events_of_the_mock_driver_come_on_the_loop() -> None:
    hypervisor = Hypervisor("test:///default", clock=SystemClock())
    seen: asyncio.Queue[str | None] = asyncio.Queue()
    hypervisor.on_event(seen.put_nowait)
    async with hypervisor.session(), asyncio.timeout(5):
        assert await seen.get() is None
        await hypervisor.call("suspend", lambda c: c.lookupByName("test").suspend())
        uid = await hypervisor.call("look up", lambda c: c.lookupByName("test").UUIDString())
        assert await seen.get() == uid
        await hypervisor.call("resume", lambda c: c.lookupByName("test").resume())


# -- remote endpoints --------------------------------------------------------------------------------------------------


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    directory = tmp_path / "it's credentials"
    directory.mkdir()
    for name, text in (("ssh-privatekey", SECRET), ("known_hosts", "h key"), ("username", "root\n")):
        (directory / name).write_text(text)
    return directory


def test_local_uris_stay_as_they_are(credentials: Path, tmp_path: Path) -> None:
    for uri in ("qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/x", "qemu+tls://h/system"):
        assert connection_uri(uri, Credentials(credentials), tmp_path) == uri


def test_ssh_gets_paths_and_checks_host_keys(credentials: Path, tmp_path: Path) -> None:
    uri = connection_uri("qemu+ssh://host:2222/system", Credentials(credentials), tmp_path)
    assert uri.startswith("qemu+ssh://root@host:2222/system?keyfile=")
    assert "no_tty=1" in uri
    assert f"command={tmp_path}/ssh" in uri
    assert SECRET not in uri
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "ssh").write_text('#!/bin/sh\nfor a in "$@"; do echo "[$a]"; done\n')
    (fake / "ssh").chmod(0o755)
    shell = shutil.which("sh")
    assert shell is not None
    said = subprocess.run(
        [tmp_path / "ssh", "-T", "host"],
        env={"PATH": f"{fake}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert f"[UserKnownHostsFile={tmp_path}/known_hosts]" in said
    assert (tmp_path / "known_hosts").read_text() == "h key"
    assert "[StrictHostKeyChecking=yes]" in said
    assert said.endswith("[-T]\n[host]\n")


def test_nothing_is_executed_in_the_temporary_directory(credentials: Path, tmp_path: Path) -> None:
    """Containers, and hosts that are careful, execute nothing there."""
    connection_uri("qemu+ssh://host/system", Credentials(credentials), tmp_path)
    assert not (tmp_path / "ssh").resolve().is_relative_to(tmp_path)


def test_libssh2_verifies_too(credentials: Path, tmp_path: Path) -> None:
    (credentials / "ssh-privatekey").unlink()
    (credentials / "password").write_text(SECRET + "\n")
    uri = connection_uri("qemu+libssh2://me@host/system", Credentials(credentials), tmp_path)
    assert "known_hosts_verify=normal" in uri
    assert uri.startswith("qemu+libssh2://me@host/")
    assert SECRET not in uri
    assert SECRET in Credentials(credentials).answers().values()
    with pytest.raises(InvalidSpecError, match="ssh-privatekey"):
        connection_uri("qemu+ssh://host/system", Credentials(credentials), tmp_path)
    with pytest.raises(InvalidSpecError, match="libssh transport stalls"):
        connection_uri("qemu+libssh://me@host/system", Credentials(credentials), tmp_path)


def test_tls_gets_the_certificates_under_libvirts_names(credentials: Path, tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key"):
        (credentials / name).write_text(name + SECRET)
    with pytest.raises(InvalidSpecError, match=r"ca\.crt missing"):
        connection_uri("qemu+tls://host/system", Credentials(credentials), tmp_path)
    (credentials / "ca.crt").write_text("ca")
    for _ in range(2):
        uri = connection_uri("qemu+tls://host/system", Credentials(credentials), tmp_path)
    assert uri == f"qemu+tls://host/system?pkipath={tmp_path}/pki"
    assert (tmp_path / "pki" / "clientkey.pem").read_text() == "tls.key" + SECRET
    assert (tmp_path / "pki" / "clientkey.pem").stat().st_mode & 0o777 == 0o600


def test_a_password_in_the_uri_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError) as refusal:
        connection_uri(f"qemu+ssh://me:{SECRET}@host/system", Credentials(None), tmp_path)
    assert SECRET not in str(refusal.value)


# -- settings ----------------------------------------------------------------------------------------------------------

BASIC = ["--owner", "me", "--insecure"]


def test_defaults_fit_the_endpoint() -> None:
    system, session = load(LibvirtSettings, BASIC), load(LibvirtSettings, [*BASIC, "--endpoint", "qemu:///session"])
    assert (system.endpoint, system.default_pool_path()) == ("qemu:///system", "/var/lib/libvirt/images")
    assert session.session
    assert session.default_pool_path().endswith("/libvirt/images")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--endpoint", "vmware://x"],
        ["--endpoint", f"qemu+ssh://me:{SECRET}@host/system"],
        ["--pool", "a/b"],
        ["--pool-path", "relative"],
        ["--call-timeout", "0s"],
        ["--virtualization", "magic"],
    ],
)
def test_settings_that_cannot_work_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(LibvirtSettings, [*BASIC, *arguments])
    assert SECRET not in str(refusal.value)


@pytest.mark.real
async def test_slow_calls_have_a_connection_of_their_own_that_comes_back(own_libvirtd: PrivateLibvirtd) -> None:
    """An agent that hangs holds up nobody who shares no connection with it."""
    hypervisor = Hypervisor(own_libvirtd.uri, clock=SystemClock())
    async with hypervisor.session(), asyncio.timeout(60):
        first, slow = await hypervisor.call("look", id), await hypervisor.slow_call("ask", id, timeout=10)
        assert first != slow
        assert await hypervisor.slow_call("ask", id, timeout=10) == slow
        await asyncio.to_thread(own_libvirtd.restart)
        for call in (hypervisor.slow_call, hypervisor.call):
            while True:
                await hypervisor.wait_connected()
                try:
                    assert await call("ask", lambda c: c.getLibVersion(), timeout=10) > 0
                    break
                except HypervisorUnavailableError:
                    await asyncio.sleep(0.05)  # neither has noticed yet that it is gone
