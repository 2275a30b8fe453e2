"""Whom the controller takes for a Provider's server, and what the Provider says of everybody else. Real processes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from common import identity
from common.identity import Role, Server
from common.pki import Authority, End
from common.tls import CONTROLLER, TlsFiles
from controller_harness import Cluster, because, condition, machine, ready
from trust_harness import Site, ours, serving, site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def site(cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(cluster, namespace, tmp_path) as site:
        yield site


async def test_the_server_of_that_very_provider_is_called(site: Site) -> None:
    await site.client(ours(site))
    async with serving(site.home, site.server_files(site.server)) as server:
        await site.provider(server.address)
        await site.cluster.create("VirtualMachine", site.namespace, "web", machine())
        await site.cluster.wait("VirtualMachine", site.namespace, "web", ready)
        item = await site.cluster.get("Provider", site.namespace, "fake")
        assert condition(item, "TLSConfigured")["status"] == "True"


async def test_P11_another_providers_server_gets_no_call_and_both_names_are_told(site: Site) -> None:
    """Same authority, right address: desired state must not reach another hypervisor."""
    other = Server(site.namespace, "other")
    await site.client(ours(site))
    async with serving(site.home, site.server_files(other)) as server:
        await site.provider(server.address)
        await site.cluster.create("VirtualMachine", site.namespace, "web", machine())
        for message in await site.told("WrongServer"):
            assert f"expected URI:{site.server.uri} and DNS:{site.server.host}" in message
            assert f"URI:{other.uri}" in message
        assert await server.calls() == 0


async def test_a_certificate_with_the_host_alone_is_not_enough(site: Site) -> None:
    """Whoever could have DNS names signed would be any provider otherwise."""
    await site.client(ours(site))
    files = site.authority.issue(site.home / "server", site.server.host, end=End.SERVER)
    async with serving(site.home, files) as server:
        await site.provider(server.address)
        assert f"expected URI:{site.server.uri}" in (await site.told("WrongServer"))[0]
        assert await server.calls() == 0


async def test_a_server_of_another_authority_gets_no_call(site: Site) -> None:
    await site.client(ours(site))
    other = Authority.create(site.home / "other", name="Other")
    async with serving(site.home, site.server_files(site.server, other)) as server:
        await site.provider(server.address)
        for message in await site.told("WrongServer"):
            assert "its certificate is refused: " in message
            assert "local issuer" in message
        assert await server.calls() == 0


async def test_a_server_whose_certificate_changes_hands_is_let_go(site: Site) -> None:
    """The files are replaced under a running server: the next connection sees another identity, and is not used."""
    await site.client(ours(site))
    files = site.server_files(site.server)
    async with serving(site.home, files) as server:
        await site.provider(server.address)
        await site.cluster.wait("Provider", site.namespace, "fake", because("Connected", "ProviderAvailable"))
        address = server.address
    (site.home / "ready").unlink(missing_ok=True)
    async with serving(
        site.home, site.server_files(Server(site.namespace, "other")), "--listen-address", address
    ) as server:
        assert f"URI:{Server(site.namespace, 'other').uri}" in (await site.told("WrongServer"))[1]
        assert await server.calls() == 0
    (site.home / "ready").unlink(missing_ok=True)
    async with serving(site.home, site.server_files(site.server), "--listen-address", address):
        await site.cluster.wait("Provider", site.namespace, "fake", because("Connected", "ProviderAvailable"))


@asynccontextmanager
async def bare(context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """Something that answers there and is no provider."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def expired(site: Site) -> ssl.SSLContext:
    return _context(site.authority.issue(site.home / "server", site.server.host, [site.server.uri], days=-0.001))


def old_protocol(site: Site) -> ssl.SSLContext:
    context = _context(site.server_files(site.server))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    return context


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (expired, "certificate has expired"),
        (old_protocol, "no TLS 1.3 with it"),
        (lambda site: None, "no TLS 1.3 with it"),
    ],
    ids=["expired", "TLS 1.2", "plaintext"],
)
async def test_what_cannot_prove_itself_is_named(
    site: Site, make: Callable[[Site], ssl.SSLContext | None], why: str
) -> None:
    await site.client(ours(site))
    async with bare(make(site)) as address:
        await site.provider(address)
        for message in await site.told("WrongServer"):
            assert why in message
            assert site.server.uri in message


async def test_our_certificate_with_the_wrong_name_is_refused_by_the_server(site: Site) -> None:
    """Another installation's controller, of the same authority."""
    name = identity.client(Role.CONTROLLER, "elsewhere")
    await site.client(site.authority.issue(site.home / "client", name, end=End.CLIENT))
    async with serving(site.home, site.server_files(site.server)) as server:
        await site.provider(server.address)
        for message in await site.told("ClientRefused"):
            assert name in message
            assert "allowed_clients" in message
        assert server.said("rpc.peer.refused")[0]["names"] == [name]


async def test_a_viewers_certificate_does_not_make_a_controller(site: Site) -> None:
    """It may look, so the Provider is available; what it may not do, the machine says."""
    await site.client(site.authority.issue(site.home / "client", identity.client(Role.VIEWER), end=End.CLIENT))
    async with serving(site.home, site.server_files(site.server)) as server:
        await site.provider(server.address)
        await site.cluster.create("VirtualMachine", site.namespace, "web", machine())
        words = "PrepareImage is not for a client like this"
        await site.cluster.wait(
            "VirtualMachine", site.namespace, "web", lambda item: words in condition(item, "Ready")["message"]
        )
        assert server.said("rpc.call.forbidden")[0]["names"] == [identity.client(Role.VIEWER)]


async def test_our_certificate_of_an_unknown_authority_is_refused_by_the_server(site: Site) -> None:
    """We trust its authority and ours, it trusts its own alone."""
    files = Authority.create(site.home / "other", name="Other").issue(site.home / "client", CONTROLLER, end=End.CLIENT)
    files.ca.write_bytes(files.ca.read_bytes() + site.authority.certificate_pem())
    await site.client(files)
    async with serving(site.home, site.server_files(site.server)) as server:
        await site.provider(server.address)
        for message in await site.told("ClientRefused"):
            assert "hung up on our certificate" in message
        why = {record["why"] for record in server.said("rpc.handshake.refused")}
        assert "the client's certificate is of an authority that is not in our CA file" in why
        assert await server.calls() == 0
