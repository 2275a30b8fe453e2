"""A hypervisor on another host: a real libvirtd behind SSH and behind TLS, with credentials from files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
import trustme
from common import v1
from common.errors import CredentialsRefusedError, HypervisorUnavailableError, ProviderError
from libvirtd.fixtures import CACHE, missing
from libvirtd.private import LibvirtdUnavailableError, PrivateLibvirtd
from libvirtd.remote import USER, SshHost, ssh_host, tls_port

from .conftest import Bench, bench_on, machine_spec, quiet, uid_of

pytestmark = pytest.mark.real
PASSWORD = "canary-of-the-ssh-password"
DIRECTORY = "remote"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, directory: Path, name: str) -> None:
    """A certificate under the names of a TLS Secret; libvirt wants keyEncipherment, even of EC keys."""
    certificate = authority.issue_cert(name)
    certificate.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    certificate.private_key_pem.write_to_path(directory / "tls.key")
    authority.cert_pem.write_to_path(directory / "ca.crt")


@pytest.fixture(scope="module")
def distant(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateLibvirtd]:
    """A libvirtd that serves TLS, too."""
    certificates = tmp_path_factory.mktemp("server")
    issue(authority, certificates, "127.0.0.1")
    try:
        daemon = PrivateLibvirtd(CACHE / "libvirt-capabilities", tls=certificates).__enter__()
    except LibvirtdUnavailableError as error:
        missing(str(error))
    yield daemon
    daemon.close()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """What the Secret of a Provider becomes: a directory of files."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    return directory


@asynccontextmanager
async def over_ssh(daemon: PrivateLibvirtd, credentials: Path, scratch: Path) -> AsyncIterator[SshHost]:
    """An SSH server, and a private key for it among the credentials."""
    async with ssh_host(daemon, scratch, PASSWORD) as host:
        (credentials / "known_hosts").write_bytes(host.known_hosts.read_bytes())
        (credentials / "username").write_text(USER)
        yield host


def give_key(host: SshHost, credentials: Path) -> None:
    key = credentials / "ssh-privatekey"
    key.touch(mode=0o600)
    key.write_bytes(host.key.read_bytes())


async def reached(bench: Bench) -> None:
    """An SSH server of a busy computer may break off the first connection; the provider makes another."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(HypervisorUnavailableError):
                await bench.driver.observe_all()
                return
            await asyncio.sleep(0.1)


async def a_life(bench: Bench, image_name: str) -> None:
    """From the upload of an image to a guest that is seen from within, and to nothing."""
    await reached(bench)
    image = await bench.image(v1.ImageSource(file=v1.FileSource(path=image_name), format="qcow2"))
    spec = machine_spec(
        "far",
        disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id))],
        nics=[v1.NicSpec(name="lan", network=v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=bench.daemon.network))],
        boot_data=v1.BootData(user_data="#cloud-config\nhostname: far\n"),
    )
    uid = uid_of(spec)
    await bench.driver.create(spec, quiet)
    await bench.driver.power_on(uid)
    up = await bench.wait(uid, lambda m: m.guest.hostname == "far" and m.addresses != [])
    assert up.power is v1.PowerState.ON
    await bench.driver.destroy(uid, quiet)
    await bench.driver.delete_image(image.id)
    assert bench.files(uid) == []


async def refused(daemon: PrivateLibvirtd, uri: str, credentials: Path, images: Path) -> str:
    """What the refusal of these credentials says, once an attempt has told more than that the line was closed."""
    said: ProviderError = HypervisorUnavailableError("not tried yet")
    async with bench_on(daemon, images, uri=uri, credentials=credentials) as bench, asyncio.timeout(30):
        while not isinstance(said, CredentialsRefusedError):
            with pytest.raises((CredentialsRefusedError, HypervisorUnavailableError)) as refusal:
                await bench.driver.observe_all()
            said = refusal.value
            assert PASSWORD not in str(said)
            await asyncio.sleep(0.1)
    return str(said)


async def test_a_whole_life_over_ssh(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, tmp_path: Path
) -> None:
    async with over_ssh(distant, credentials, tmp_path) as host:
        give_key(host, credentials)
        uri = f"qemu+ssh://127.0.0.1:{host.port}/system"
        async with bench_on(distant, guest_image.parent, uri=uri, credentials=credentials) as bench:
            await a_life(bench, guest_image.name)
        assert host.commands, "it went through the server"


async def test_a_cut_ssh_connection_is_made_anew(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, tmp_path: Path
) -> None:
    async with over_ssh(distant, credentials, tmp_path) as host:
        give_key(host, credentials)
        uri = f"qemu+ssh://127.0.0.1:{host.port}/system"
        async with bench_on(distant, guest_image.parent, uri=uri, credentials=credentials) as bench:
            await reached(bench)
            assert await bench.driver.observe_all() == []
            changes = bench.driver.changes()
            host.cut()
            async with asyncio.timeout(30):
                assert await anext(changes) is None, "a new connection: anything may have changed"
            await changes.aclose()
            assert await bench.driver.observe_all() == []


async def test_a_password_from_its_file(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, tmp_path: Path
) -> None:
    """libvirt repeats a wrong one for ever when it is let; we say it once, so that no account is locked."""
    async with over_ssh(distant, credentials, tmp_path) as host:
        uri = f"qemu+libssh2://127.0.0.1:{host.port}/system"
        (credentials / "password").write_text(PASSWORD + "\n")
        async with bench_on(distant, guest_image.parent, uri=uri, credentials=credentials) as bench:
            await reached(bench)
            assert await bench.driver.observe_all() == []
        (credentials / "password").write_text("wrong")
        host.passwords.clear()
        assert "refuses the user name or the password" in await refused(distant, uri, credentials, guest_image.parent)
        assert host.passwords == ["wrong"]


async def test_a_host_key_that_nobody_vouched_for_is_refused(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, tmp_path: Path
) -> None:
    async with over_ssh(distant, credentials, tmp_path) as host:
        give_key(host, credentials)
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        (credentials / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {other}\n")
        said = await refused(distant, f"qemu+ssh://127.0.0.1:{host.port}/system", credentials, guest_image.parent)
        assert "host key" in said.lower()
        assert host.commands == []


async def test_a_private_key_that_the_host_does_not_know_is_refused(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, tmp_path: Path
) -> None:
    async with over_ssh(distant, credentials, tmp_path) as host:
        give_key(host, credentials)
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(credentials / "ssh-privatekey")
        said = await refused(distant, f"qemu+ssh://127.0.0.1:{host.port}/system", credentials, guest_image.parent)
        assert "Permission denied" in said


async def test_a_whole_life_over_tls(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, authority: trustme.CA
) -> None:
    issue(authority, credentials, "virtrigaud.provider")
    async with (
        tls_port(distant) as port,
        bench_on(
            distant, guest_image.parent, uri=f"qemu+tls://127.0.0.1:{port}/system", credentials=credentials
        ) as bench,
    ):
        await a_life(bench, guest_image.name)


async def test_certificates_of_another_authority_are_refused(
    distant: PrivateLibvirtd, guest_image: Path, credentials: Path, authority: trustme.CA
) -> None:
    issue(trustme.CA(), credentials, "virtrigaud.provider")
    async with tls_port(distant) as port:
        uri = f"qemu+tls://127.0.0.1:{port}/system"
        ours = await refused(distant, uri, credentials, guest_image.parent)
        assert "certificate" in ours.lower()
        authority.cert_pem.write_to_path(credentials / "ca.crt")  # the host is trusted, we are not
        theirs = await refused(distant, uri, credentials, guest_image.parent)
        assert theirs != ours
