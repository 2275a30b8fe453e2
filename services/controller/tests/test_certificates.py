"""How one authority takes the place of another on both sides of a connection, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from common import identity, pki
from common.clock import ManualClock, SystemClock
from common.identity import Server
from common.pki import Authority, End
from common.rpc.inspection import Seen
from common.tls import CONTROLLER, TlsFiles, issued
from controller.api import connect
from controller.core import SECRETS
from controller.runtime.authority import ClusterAuthority
from controller.runtime.certificates import Certificates, encoded
from controller_harness import Cluster
from cryptography import x509
from kinds.provider import Provider

LAB = Server("shop", "lab")
PROVIDER = msgspec.convert(
    {
        "metadata": {"name": "lab", "namespace": "shop", "uid": "5f1c"},
        "spec": {"type": "libvirt", "endpoint": "qemu:///system", "runtime": {"mode": "Kubernetes"}},
    },
    Provider,
)


class Site:
    """A server that reads its Secret when it is told to, and the controller's certificates towards it."""

    def __init__(self, home: Path) -> None:
        self.home, self.clock = home, ManualClock(datetime.now(UTC))
        self.secret: dict[str, bytes] = {}
        self.read: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.certificates = self.controller()

    def controller(self, name: str = "first") -> Certificates:
        place = self.home / name
        return Certificates(place / "servers", place / "clients", identity.SYSTEM_NAMESPACE, self.clock, self._see)

    async def _see(self, address: str, client: TlsFiles, server: Server) -> Seen:
        assert server == LAB
        self.asked.append(address)
        shown = x509.load_pem_x509_certificate(self.read["tls.crt"])
        trusted = any(issued(shown, each) for each in of(client.ca.read_bytes()))
        return Seen(certificate=shown if trusted else None)

    async def make(self, authority: Authority) -> TlsFiles:
        made = await self.certificates.make(PROVIDER, authority, self.secret)
        self.secret = dict(made.secret)
        self.work(made.client)
        return made.client

    def work(self, client: TlsFiles) -> None:
        """Both sides are let in, with what each has now: in no step is there a moment in which a handshake fails."""
        read = self.read or self.secret
        for shown, trusted in ((client.cert.read_bytes(), read["ca.crt"]), (read["tls.crt"], client.ca.read_bytes())):
            assert any(issued(x509.load_pem_x509_certificate(shown), each) for each in of(trusted))

    def take_up(self) -> None:
        """The server has the Secret as it is."""
        self.read = dict(self.secret)


def of(data: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(data)


def is_of(data: bytes, authority: Authority) -> bool:
    return issued(of(data)[0], authority.certificate)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
async def old(site: Site, tmp_path: Path) -> Authority:
    """Both sides are of it."""
    made = Authority.create(tmp_path / "old")
    await site.make(made)
    site.take_up()
    return made


@pytest.fixture
def new(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "new")


async def test_a_server_gets_a_certificate_of_its_own_names_alone(site: Site, old: Authority) -> None:
    (cert,) = of(site.secret["tls.crt"])
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [LAB.uri]
    service = "virtrigaud-provider-lab.shop.svc"
    assert names.get_values_for_type(x509.DNSName) == [LAB.host, service, f"{service}.cluster.local"]
    assert of(site.secret["ca.crt"]) == [old.certificate]


async def test_what_is_good_stays_and_nobody_is_asked(site: Site, old: Authority) -> None:
    before, client = dict(site.secret), (await site.make(old)).read()
    assert (await site.make(old)).read() == client
    assert site.secret == before
    assert site.asked == []


async def test_a_new_authority_comes_in_three_steps(site: Site, old: Authority, new: Authority) -> None:
    client = await site.make(new)
    for _ in range(3):  # however long the server takes to read its Secret
        assert is_of(site.secret["tls.crt"], new)
        assert of(site.secret["ca.crt"]) == of(client.ca.read_bytes()) == [new.certificate, old.certificate]
        assert is_of(client.cert.read_bytes(), old)
        client = await site.make(new)

    site.take_up()
    client = await site.make(new)
    assert is_of(client.cert.read_bytes(), new)
    assert of(site.secret["ca.crt"]) == of(client.ca.read_bytes()) == [new.certificate, old.certificate]

    client = await site.make(new)
    assert of(site.secret["ca.crt"]) == of(client.ca.read_bytes()) == [new.certificate]
    site.take_up()
    site.work(client)
    assert set(site.asked) == {"virtrigaud-provider-lab.shop.svc:9443"}


async def test_another_controller_goes_on_from_where_it_stands(site: Site, old: Authority, new: Authority) -> None:
    """Its key of the old authority is gone with the first one; the server knows of the new one by its Secret."""
    await site.make(new)
    site.take_up()
    site.certificates = site.controller("second")
    client = await site.make(new)
    assert is_of(client.cert.read_bytes(), new)
    await site.make(new)
    assert of(site.secret["ca.crt"]) == [new.certificate]


async def test_a_server_that_is_away_keeps_both_until_it_is_back(site: Site, old: Authority, new: Authority) -> None:
    await site.make(new)
    old_files = dict(site.read)
    for _ in range(2):
        await site.make(new)
    assert of(site.secret["ca.crt"]) == [new.certificate, old.certificate]
    site.read = old_files


async def test_an_authority_that_is_replaced_once_more_meanwhile(site: Site, old: Authority, new: Authority) -> None:
    newest = Authority.create(site.home / "newest")
    await site.make(new)
    await site.make(newest)
    assert of(site.secret["ca.crt"]) == [newest.certificate, new.certificate, old.certificate]
    site.take_up()
    for _ in range(3):
        client = await site.make(newest)
    assert of(site.secret["ca.crt"]) == of(client.ca.read_bytes()) == [newest.certificate]


async def test_one_renewed_under_its_key_changes_nobodys_certificate(site: Site, old: Authority) -> None:
    later = pki.self_signed("VirtRigaud CA", old._key, datetime.now(UTC), 9000)
    renewed = Authority(later, old._key, site.clock)
    before, shown = (await site.make(old)).read(), site.secret["tls.crt"]
    client = await site.make(renewed)
    assert (client.cert.read_bytes(), site.secret["tls.crt"]) == (before.cert, shown)
    assert of(site.secret["ca.crt"]) == of(client.ca.read_bytes()) == [later]
    assert site.asked == []


async def test_an_old_authority_that_has_expired_is_not_listed(site: Site, tmp_path: Path, new: Authority) -> None:
    short = Authority.create(tmp_path / "short", days=1)
    await site.make(short)
    site.clock._start += timedelta(days=2)
    made = await site.certificates.make(PROVIDER, new, site.secret)
    assert of(made.secret["ca.crt"]) == [new.certificate]
    assert is_of(made.client.cert.read_bytes(), new)


@pytest.mark.parametrize("rubbish", [b"", b"rubbish"])
async def test_a_secret_with_rubbish_is_made_anew(site: Site, old: Authority, rubbish: bytes) -> None:
    site.secret = dict.fromkeys(site.secret, rubbish)
    site.read = {}
    await site.make(old)
    assert of(site.secret["ca.crt"]) == [old.certificate]


async def test_a_provider_that_goes_leaves_no_key(site: Site, old: Authority) -> None:
    client = await site.make(old)
    site.certificates.forget("5f1c")
    assert not client.key.exists()
    assert not list((site.home / "first" / "servers").iterdir())


async def test_keys_are_told_as_the_authority_tells_its_own(site: Site, tmp_path: Path) -> None:
    """Other tools digest a key in another way, and a handshake compares the digests."""
    key = Authority.create(tmp_path / "a")._key
    subject = x509.Name.from_rfc4514_string("CN=VirtRigaud CA")
    other = x509.SubjectKeyIdentifier(b"of another tool")
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, datetime.now(UTC), datetime(2100, 1, 1))
        .add_extension(other, critical=False)
        .sign(key, pki.hashes.SHA256())
    )
    files = Authority(made, key, site.clock).issue(tmp_path / "b", CONTROLLER, end=End.CLIENT)
    named = of(files.cert.read_bytes())[0].extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == other.digest
    assert files.check() > datetime.now(UTC)
    before = files.cert.read_bytes()
    renamed = Authority(pki.self_signed("VirtRigaud CA", key, datetime.now(UTC), 9), key, site.clock)
    again = renamed.issue(tmp_path / "b", CONTROLLER, end=End.CLIENT).cert.read_bytes()
    assert again != before
    assert is_of(again, renamed)


@pytest.mark.asyncio(loop_scope="session")
async def test_an_authority_that_is_put_back_after_another_was_broken_is_taken_up(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """A mistake with its Secret, and the backup of it: nobody has to start the controller anew."""
    await cluster.namespace(namespace)
    async with connect(str(cluster.kubeconfig)) as api:
        loader = ClusterAuthority(api, namespace, "authority", tmp_path / "copy", SystemClock())
        made = (await loader.load()).certificate
        found = await api.get(SECRETS, namespace, "authority")
        assert found is not None
        good = encoded(found.data or {})
        await api.patch(SECRETS, namespace, "authority", {"data": good | encoded({"tls.key": b"rubbish"})})
        with pytest.raises(ValueError, match="holds no authority"):
            await loader.load()
        await api.patch(SECRETS, namespace, "authority", {"data": good})
        assert (await loader.load()).certificate == made
