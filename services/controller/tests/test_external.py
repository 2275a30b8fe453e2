"""External provider servers: certificates that cannot work are named before anything is dialled."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest
from common.clock import ManualClock
from common.pki import Authority
from common.tls import CONTROLLER, TlsFiles
from controller.providers import _tls
from controller.runtime.external import ExternalRuntime
from kinds.provider import Provider

ADDRESS = "provider.example:9443"


class Vault:
    """A Secret that holds these files."""

    def __init__(self, **values: bytes) -> None:
        self.values = values

    async def get(self, namespace: str, name: str, where: str) -> dict[str, bytes]:
        return {key.replace("_", "."): value for key, value in self.values.items()}


def provider() -> Provider:
    tls = {"secretRef": {"name": "certs"}}
    spec = {"type": "libvirt", "endpoint": "qemu:///system"}
    spec["runtime"] = {"mode": "External", "address": ADDRESS, "service": {"tls": tls}}  # type: ignore[assignment]
    return msgspec.convert({"metadata": {"name": "far", "namespace": "lab", "uid": "u-1"}, "spec": spec}, Provider)


def vault_of(files: TlsFiles, **other: bytes) -> Any:  # stands in for Secrets
    return Vault(
        **{"tls_crt": files.cert.read_bytes(), "tls_key": files.key.read_bytes(), "ca_crt": files.ca.read_bytes()}
        | other
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def files(tmp_path: Path, clock: ManualClock) -> TlsFiles:
    return Authority.create(tmp_path / "ca", clock=clock, days=3650).issue(tmp_path / "client", CONTROLLER, days=30)


async def test_certificates_that_work_are_dialled_with(tmp_path: Path, files: TlsFiles, clock: ManualClock) -> None:
    state = await ExternalRuntime(vault_of(files), tmp_path / "run", None, clock).ensure(provider())
    assert (state.phase, state.target and state.target.address) == ("Running", ADDRESS)


async def test_an_expired_certificate_is_named_with_its_secret_and_the_cure(
    tmp_path: Path, files: TlsFiles, clock: ManualClock
) -> None:
    await clock.advance(dt.timedelta(days=31).total_seconds())
    state = await ExternalRuntime(vault_of(files), tmp_path / "run", None, clock).ensure(provider())
    assert (state.phase, state.reason, state.target) == ("Failed", "TLSInvalid", None)
    assert "Secret lab/certs" in state.message
    assert "expired at" in state.message
    assert "issue a new one" in state.message
    told = _tls(provider(), state)
    assert (told.status, told.reason, told.message) == ("False", "TLSInvalid", state.message)


async def test_the_key_of_another_certificate_is_named_and_not_shown(
    tmp_path: Path, files: TlsFiles, clock: ManualClock
) -> None:
    stranger = Authority.create(tmp_path / "other", clock=clock).issue(tmp_path / "stranger", CONTROLLER)
    key = stranger.key.read_bytes()
    state = await ExternalRuntime(vault_of(files, tls_key=key), tmp_path / "run", None, clock).ensure(provider())
    assert state.reason == "TLSInvalid"
    assert "does not belong to certificate" in state.message
    assert key.decode().splitlines()[1] not in state.message


async def test_a_provider_that_goes_leaves_no_key_behind(tmp_path: Path, files: TlsFiles, clock: ManualClock) -> None:
    runtime = ExternalRuntime(vault_of(files), tmp_path / "run", None, clock)
    await runtime.ensure(provider())
    assert (tmp_path / "run" / "u-1" / "tls.key").read_bytes() == files.key.read_bytes()
    neighbour = tmp_path / "run" / "u-12" / "tls.key"
    neighbour.parent.mkdir()
    neighbour.write_text("another Provider's")
    await runtime.remove("u-1")
    await runtime.remove("u-1")
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [neighbour]
    assert not (tmp_path / "run" / "u-1").is_symlink()
