"""Provider servers as children: real processes of the fake provider, and what they leave on disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from common.clock import ManualClock, SystemClock
from common.pki import Authority
from common.tls import CONTROLLER
from controller import installation
from controller.__main__ import _runtimes
from controller.api import Api
from controller.holds import WAITING, Hold
from controller.runtime import RuntimeState
from controller.runtime.arguments import refuse_password
from controller.runtime.process import SHARED_IMAGES, ProcessRuntime, ProcessSettings
from controller.secrets import Secrets
from controller.settings import Settings
from controller_harness import OWNER, until
from cryptography import x509
from kinds.provider import Provider

UID = "u-1"


class Vault:
    """Secrets whose one Secret holds this password."""

    def __init__(self, password: str) -> None:
        self.password, self.gone = password, False

    async def credentials(self, namespace: str, name: str, where: str) -> dict[str, bytes]:
        if self.gone:
            raise Hold(WAITING, f"Secret {namespace}/{name} ({where}) does not exist")
        return {"password": self.password.encode()}


def provider(kind: str = "fake", endpoint: str = "fake://local", **more: Any) -> Provider:
    spec = {"type": kind, "endpoint": endpoint, "credentialSecretRef": {"name": "login"}, **more}
    return msgspec.convert({"metadata": {"name": "near", "namespace": "lab", "uid": UID}, "spec": spec}, Provider)


@asynccontextmanager
async def running(home: Path, vault: Vault) -> AsyncIterator[ProcessRuntime]:
    settings = ProcessSettings(home / "run", home / "logs", home / "images", OWNER)
    authority = Authority.create(home / "ca")
    client, secrets = authority.issue(home / "client", CONTROLLER), cast(Secrets, vault)
    runtime = ProcessRuntime(settings, authority, client, secrets, SystemClock(), random.Random(1), lambda _: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runtime.run())
        await asyncio.sleep(0)
        yield runtime
        task.cancel()


async def served(runtime: ProcessRuntime, wanted: Provider) -> RuntimeState:
    """Its server, when it serves."""

    async def serving() -> bool:
        return (await runtime.ensure(wanted)).phase == "Running"

    await until(serving, "the provider server")
    return await runtime.ensure(wanted)


def pids(place: Path) -> list[str]:
    """Processes whose command line names the directory."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if str(place).encode() in words:
            found.append(each.parent.name)
    return found


async def test_a_provider_that_goes_leaves_neither_child_nor_secret(tmp_path: Path) -> None:
    place = tmp_path / "run" / UID
    async with running(tmp_path, Vault("first-secret")) as runtime:
        await served(runtime, provider())
        assert (place / "credentials" / "password").read_text() == "first-secret"
        assert (place / "tls" / "tls.key").is_file()
        assert pids(place)
        await runtime.remove(UID)
        assert not pids(place)
        assert not place.exists()
        await runtime.remove(UID)
        assert not place.exists()


async def test_a_restart_for_new_credentials_keeps_the_directory(tmp_path: Path) -> None:
    place, vault = tmp_path / "run" / UID, Vault("first-secret")
    async with running(tmp_path, vault) as runtime:
        await served(runtime, provider())
        (before,) = pids(place)
        kept = place / "kept"
        kept.touch()
        vault.password = "second-secret"
        await served(runtime, provider())
        assert kept.exists()
        assert (place / "credentials" / "password").read_text() == "second-secret"
        assert pids(place) != [before]


@pytest.mark.parametrize(("phase", "endpoint"), [("Pending", ""), ("Failed", "qemu+ssh://root:pw@hv/system")])
async def test_a_server_works_on_while_it_cannot_be_changed(tmp_path: Path, phase: str, endpoint: str) -> None:
    """Its Secret is gone, or the object makes no sense any more; its machines are as manageable as before."""
    vault = Vault("first-secret")
    async with running(tmp_path, vault) as runtime:
        before = await served(runtime, provider())
        vault.gone = not endpoint
        state = await runtime.ensure(provider(endpoint=endpoint) if endpoint else provider())
        assert (state.phase, state.target) == (phase, before.target)
        vault.gone = False
        assert await served(runtime, provider()) == before


async def test_our_own_certificate_is_renewed_while_we_run(tmp_path: Path) -> None:
    """A controller that runs for longer than the 90 days must not become a stranger to its providers."""
    clock = ManualClock()
    settings = ProcessSettings(tmp_path / "run", tmp_path / "logs", tmp_path / "images", OWNER)
    authority = Authority.create(tmp_path / "ca", clock=clock)
    client, vault = authority.issue(tmp_path / "client", CONTROLLER), cast(Secrets, Vault("first-secret"))
    runtime = ProcessRuntime(settings, authority, client, vault, clock, random.Random(1), lambda _: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runtime.run())
        await clock.wait_sleeping()
        before = client.read()
        await clock.advance(59 * 86400)
        assert client.read() == before, "what is good for a third of its life stays"
        for _ in range(2):
            await clock.advance(60 * 86400)
            assert client.check(clock) - clock.now() > timedelta(days=30)
        assert client.read() != before
        task.cancel()


async def test_credentials_go_with_their_reference(tmp_path: Path) -> None:
    place = tmp_path / "run" / UID
    async with running(tmp_path, Vault("first-secret")) as runtime:
        await served(runtime, provider())
        await served(runtime, provider(credentialSecretRef=None))
        assert not [path for path in place.rglob("*") if path.is_file() and b"first-secret" in path.read_bytes()]


async def test_images_of_the_whole_machine_are_offered_beside_our_own(tmp_path: Path) -> None:
    """The documentation promises /var/lib/virtrigaud/images; a relative path is looked up in ours, the first."""
    async with running(tmp_path, Vault("first-secret")) as runtime:
        wish = await runtime._wish(provider("libvirt", "qemu:///system"))
    given = [word.partition("=")[2] for word in wish.command if word.startswith("--image-directory=")]
    assert given == [str(tmp_path / "images"), "/var/lib/virtrigaud/images"]


async def test_a_proxmox_provider_gets_its_endpoint_and_defaults(tmp_path: Path) -> None:
    defaults = {"resourcePool": "lab", "datastore": "ceph", "network": "vmbr1", "folder": "none of it"}
    async with running(tmp_path, Vault("first-secret")) as runtime:
        full = await runtime._wish(
            provider(
                "proxmox",
                "https://pve1.example:8006,https://pve2.example:8006",
                insecureSkipVerify=True,
                defaults=defaults,
            )
        )
    assert Path(full.command[0]).name == "virtrigaud-provider-proxmox"
    endpoints = [after for word, after in pairwise(full.command) if word == "--endpoint"]
    assert endpoints == ["https://pve1.example:8006", "https://pve2.example:8006"]
    wanted = ("--insecure-skip-verify", "--default-storage=ceph", "--default-pool=lab", "--default-bridge=vmbr1")
    assert full.command[-len(wanted) :] == wanted
    assert not [word for word in full.command if "first-secret" in word]


async def test_a_vsphere_provider_gets_its_endpoint_and_defaults(tmp_path: Path) -> None:
    defaults = {"cluster": "c1", "resourcePool": "lab", "datastore": "", "network": "VM Network"}
    async with running(tmp_path, Vault("first-secret")) as runtime:
        bare = await runtime._wish(provider("vsphere", "https://vc.example"))
        full = await runtime._wish(
            provider("vsphere", "https://vc.example", insecureSkipVerify=True, defaults=defaults)
        )
    directory = str(tmp_path / "run" / UID / "credentials")
    assert Path(bare.command[0]).name == "virtrigaud-provider-vsphere"
    images = tuple(f"--image-directory={each}" for each in (tmp_path / "images", SHARED_IMAGES))
    given = ("--credentials-directory", directory, *images, "--endpoint", "https://vc.example")
    assert bare.command[-len(given) :] == given
    wanted = ("--insecure-skip-verify", "--default-cluster=c1", "--default-network=VM Network")
    assert full.command[len(bare.command) :] == (*wanted, "--default-resource-pool=lab")
    assert not [word for word in full.command if "first-secret" in word]


@pytest.mark.parametrize(
    "endpoint",
    [
        "qemu+ssh://root:hunter2@host.example/system",
        "https://admin%40lab:hunter2@vc.example:443/sdk?insecure=1",
        "qemu+ssh://root:hunter2/x@host.example/system",
        "qemu+ssh://root:hunter2#?@host.example/system",
        "qemu+ssh://root:hunter2@[::1]:22/system",
    ],
)
async def test_a_password_in_the_endpoint_is_refused_and_not_shown(tmp_path: Path, endpoint: str) -> None:
    """It would be on the child's command line, which everybody on the machine can read."""
    async with running(tmp_path, Vault("first-secret")) as runtime:
        state = await runtime.ensure(provider("libvirt", endpoint))
        assert (state.phase, state.reason, state.target) == ("Failed", "InvalidConfiguration", None)
        assert "spec.endpoint holds a password" in state.message
        assert "spec.credentialSecretRef" in state.message
        assert "hunter2" not in state.message
        assert not pids(tmp_path / "run" / UID)


@pytest.mark.parametrize(
    "endpoint",
    [
        "qemu:///system",
        "qemu+ssh://root@host.example:22/system?keyfile=/keys/a:b@c",
        "qemu+ssh://host.example:22/system?socket=/run/x@y",
        "qemu+tls://[2001:db8::1]:16514/system?pkipath=/a@b",
    ],
)
def test_an_endpoint_without_a_password_is_taken(endpoint: str) -> None:
    assert refuse_password(endpoint) is None  # type: ignore[func-returns-value]


def test_in_a_pod_the_clients_of_an_embedded_stack_have_the_names_that_vrtg_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a CI job: the pod's namespace is nothing to the stack that runs inside of it."""
    account = tmp_path / "namespace"
    account.write_text("ci-jobs")
    monkeypatch.setattr(installation, "_ACCOUNT", account)
    settings = Settings(runtime="process", home=tmp_path)
    make = _runtimes(settings, cast(Api, None), OWNER, SystemClock(), random.Random(1))
    make(cast(Secrets, None), lambda _: None)
    made = x509.load_pem_x509_certificate((tmp_path / "pki" / "controller" / "tls.crt").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [CONTROLLER]
