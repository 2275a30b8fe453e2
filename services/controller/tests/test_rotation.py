"""Certificates change under a controller that works: real processes, an open watch, machines on their way.

No call is lost, no machine is made twice, and no status says anything else meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from common import pki
from common.pki import Authority, End
from common.rpc.channel import LOOK_EVERY
from common.tls import CONTROLLER, TlsFiles
from controller_harness import FAKE, Cluster, because, condition, machine, ready, until
from cryptography import x509
from trust_harness import Serving, Site, ours, serving, site_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELD = ("Ready", "ProviderAvailable", "TLSConfigured", "ProviderRuntimeReady")


@pytest_asyncio.fixture(loop_scope="session")
async def site(cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(cluster, namespace, tmp_path) as site:
        yield site


class Fleet:
    """Machines that come into being all the time, and what was told of them and of their Provider."""

    def __init__(self, site: Site, server: Serving) -> None:
        self._site, self._server = site, server
        self._names: list[str] = []
        self.providers: list[Any] = []
        self.machines: list[Any] = []

    async def more(self, count: int = 4) -> None:
        """Some are on their way."""
        for _ in range(count):
            self._names.append(f"box-{len(self._names)}")
            await self._site.cluster.create("VirtualMachine", self._site.namespace, self._names[-1], machine())

    async def settle(self) -> None:
        """All are ready, and those who follow were told."""
        for name in self._names:
            await self._site.cluster.wait("VirtualMachine", self._site.namespace, name, ready)

        def told() -> bool:
            return {item["metadata"]["name"] for item in self.machines if ready(item)} >= set(self._names)

        await until(told, "the watch of machines")

    async def follow(self, kind: str, states: list[Any]) -> None:
        """Every state that the API tells of, from now on."""
        cluster, path = self._site.cluster, self._site.cluster.path(kind, self._site.namespace)
        listed = await cluster.request("GET", path)
        url = f"https://{cluster.endpoint}{path}?watch=true&resourceVersion={listed['metadata']['resourceVersion']}"
        headers, timeout = {"Authorization": f"Bearer {cluster.token}"}, aiohttp.ClientTimeout(total=None)
        async with cluster.session.get(url, headers=headers, timeout=timeout) as response:
            async for line in response.content:
                states.append(msgspec.json.decode(line)["object"])

    def judge(self) -> None:
        """Nothing was lost, nothing is there twice, and nothing was said that was not so."""
        wrong = [condition(item, kind) for item in self.providers for kind in HELD]
        assert [each for each in wrong if each["status"] != "True"] == []
        ids: dict[str, str] = {}
        for item in self.machines:
            name = item["metadata"]["name"]
            if name in ids:
                assert condition(item, "Ready")["status"] == "True", item["status"]
                assert item["status"]["id"] == ids[name]
            elif ready(item):
                ids[name] = item["status"]["id"]
        assert set(ids) == set(self._names)
        assert set(self._server.machines()) == set(ids.values())


@asynccontextmanager
async def working(site: Site, *, lives: float = 0.0, probes: bool = True) -> AsyncIterator[tuple[Serving, Fleet]]:
    """A server, its Provider, and machines on their way; judged at the end.

    Args:
        lives: seconds for which the controller's first certificate is good, at the least; 0: as long as others.
        probes: whether the Provider's health is asked for; without them, a stream that breaks counts as its end.
    """
    world = site.home / "world.json"
    flags = ("--world", str(world), "--create-seconds", "1s")
    async with serving(site.home, site.server_files(site.server), *flags) as server:
        server.world = world
        await site.client(brief(site, server.days(lives)) if lives else ours(site))
        await site.provider(server.address, healthCheck={**FAKE["healthCheck"], "enabled": probes})
        await site.cluster.wait("Provider", site.namespace, "fake", because("Connected"))
        fleet = Fleet(site, server)
        async with asyncio.TaskGroup() as group:
            following = [
                group.create_task(fleet.follow("Provider", fleet.providers)),
                group.create_task(fleet.follow("VirtualMachine", fleet.machines)),
            ]
            await fleet.more()
            yield server, fleet
            await fleet.settle()
            for task in following:
                task.cancel()
        fleet.judge()


async def connected_with(site: Site, files: TlsFiles) -> None:
    """The controller has these, and its calls have gone over a connection of theirs for a while."""
    held = site.home / "controller" / "run" / "external"
    wanted = files.cert.read_bytes() + files.ca.read_bytes()

    def has() -> bool:
        with contextlib.suppress(FileNotFoundError):  # changed between two looks
            (link,) = (each for each in held.iterdir() if each.is_symlink())
            return (link / "tls.crt").read_bytes() + (link / "ca.crt").read_bytes() == wanted
        return False

    await until(has, "the controller's new certificate")
    await passed(2 * LOOK_EVERY)


async def passed(seconds: float) -> None:
    """Both sides have looked at their files meanwhile: nothing tells of that."""
    await asyncio.sleep(seconds)


async def test_W33_an_authority_is_replaced_while_both_sides_list_both(site: Site) -> None:
    """As docs/operators.md says: list the new one, change certificates, list the old one no more."""
    new = Authority.create(site.home / "new", name="New")
    both = [site.authority.certificate, new.certificate]
    async with working(site) as (server, fleet):
        client, place = ours(site), site.server_files(site.server)
        for files in (place, client):
            pki.trust(files, both)
        await site.changed_client(client)
        await connected_with(site, client)
        await fleet.more()

        site.server_files(site.server, new, trust=both[:1])
        await fleet.more()
        client = new.issue(site.home / "client", CONTROLLER, end=End.CLIENT, trust=both[:1])
        await site.changed_client(client)
        await connected_with(site, client)
        await fleet.more()

        for files in (place, client):
            pki.trust(files, both[1:])
        await site.changed_client(client)
        await connected_with(site, client)
        await fleet.more()
    assert server.said("rpc.handshake.refused") == []


@pytest.mark.parametrize("probes", [True, False], ids=["probes", "no probes"])
async def test_a_certificate_that_is_renewed_in_time_runs_out_unseen(site: Site, probes: bool) -> None:
    """The stream that was opened with it is opened anew, from where it was."""
    async with working(site, lives=8.0, probes=probes) as (server, fleet):
        first = x509.load_pem_x509_certificate((site.home / "client" / "tls.crt").read_bytes())
        await site.changed_client(ours(site))
        ends = first.not_valid_after_utc + timedelta(seconds=LOOK_EVERY)
        await until(lambda: datetime.now(UTC) > ends, "the end of the first certificate")
        await fleet.more()
    ended = {each["method"].rpartition("/")[2] for each in server.said("rpc.peer.lapsed")}
    assert ended <= {"WatchMachines", "WatchOperation"}  # no call was refused


async def test_a_certificate_that_runs_out_under_a_connection_is_told_and_renewed(site: Site) -> None:
    """The connection stands, and its calls are refused all the same."""
    async with serving(site.home, site.server_files(site.server)) as server:
        await site.client(brief(site, server.days(5.0)))
        await site.provider(server.address)
        await site.cluster.create("VirtualMachine", site.namespace, "web", machine())
        before = await site.cluster.wait("VirtualMachine", site.namespace, "web", ready)
        item = await site.cluster.wait("Provider", site.namespace, "fake", refused("ProviderAvailable"))
        assert "expired" in condition(item, "ProviderAvailable")["message"], item["status"]
        lapsed = server.said("rpc.peer.lapsed")
        assert {tuple(each["names"]) for each in lapsed} == {(CONTROLLER,)}
        assert all("expired, or its authority did" in each["problem"] for each in lapsed)

        await site.cluster.wait("Provider", site.namespace, "fake", because("TLSInvalid", "TLSConfigured"))
        await site.changed_client(ours(site))
        await site.cluster.wait("Provider", site.namespace, "fake", because("Connected"))
        after = await site.cluster.wait("VirtualMachine", site.namespace, "web", ready)
        assert after["status"]["id"] == before["status"]["id"]


async def test_a_servers_certificate_that_runs_out_under_a_connection_is_told_and_renewed(site: Site) -> None:
    """The other way round: a server is not called beyond the end of what it has shown, though its connection stands."""
    await site.client(ours(site))
    async with serving(site.home, site.server_files(site.server)) as server:
        names = [site.server.uri, "127.0.0.1"]
        (site.home / "server" / "tls.crt").unlink()  # or it would stay
        site.authority.issue(site.home / "server", site.server.host, names, server.days(5.0), end=End.SERVER)
        await site.provider(server.address)
        await site.cluster.create("VirtualMachine", site.namespace, "web", machine())
        before = await site.cluster.wait("VirtualMachine", site.namespace, "web", ready)
        for message in await site.told("WrongServer"):
            assert "its certificate is refused: certificate has expired" in message
        site.server_files(site.server)
        await site.cluster.wait("Provider", site.namespace, "fake", because("Connected"))
        after = await site.cluster.wait("VirtualMachine", site.namespace, "web", ready)
        assert after["status"]["id"] == before["status"]["id"]


def brief(site: Site, days: float) -> TlsFiles:
    return site.authority.issue(site.home / "client", CONTROLLER, days=days, end=End.CLIENT)


def refused(kind: str) -> Callable[[Any], bool]:
    return lambda item: condition(item, kind)["status"] == "False"
