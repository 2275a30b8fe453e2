"""A controller and provider processes that authenticate each other, and certificates for both to be changed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from common.identity import Server
from common.pki import Authority, End
from common.tls import CONTROLLER, TlsFiles
from controller.files import digest_of
from controller_harness import (
    CLASS,
    FAKE,
    IMAGE,
    OWNER,
    Cluster,
    because,
    condition,
    controller,
    script,
    started,
    until,
)
from cryptography import x509


@dataclass
class Site:
    """A namespace whose Provider "fake" is External, and the authority that both sides are of."""

    cluster: Cluster
    namespace: str
    authority: Authority
    home: Path

    @property
    def server(self) -> Server:
        return Server(self.namespace, "fake")

    def server_files(
        self, server: Server, authority: Authority | None = None, trust: Sequence[x509.Certificate] = ()
    ) -> TlsFiles:
        place, names = self.home / "server", [server.uri, "127.0.0.1"]
        return (authority or self.authority).issue(place, server.host, names, end=End.SERVER, trust=trust)

    async def client(self, files: TlsFiles) -> None:
        """What the controller dials with."""
        path = self.cluster.path("Secret", self.namespace)
        body = {"metadata": {"name": "client"}, "type": "kubernetes.io/tls", "data": _data(files)}
        await self.cluster.request("POST", path, body)

    async def changed_client(self, files: TlsFiles) -> None:
        """The same, later; the controller is made to look now, rather than within a minute."""
        await self.cluster.patch("Secret", self.namespace, "client", {"data": _data(files)})
        note = {"metadata": {"annotations": {"look": digest_of({"": files.cert.read_bytes() + files.ca.read_bytes()})}}}
        await self.cluster.patch("Provider", self.namespace, "fake", note)

    async def provider(self, address: str, **spec: Any) -> None:
        runtime = {
            "mode": "External",
            "address": address,
            "service": {"tls": {"secretRef": {"name": "client"}}},
        }
        await self.cluster.create("Provider", self.namespace, "fake", {**FAKE, "runtime": runtime, **spec})
        await self.cluster.create("VMClass", self.namespace, "small", CLASS)
        await self.cluster.create("VMImage", self.namespace, "guest", IMAGE)

    async def told(self, reason: str) -> tuple[str, str]:
        """Messages of ProviderAvailable and TLSConfigured, once the former is false for this reason."""
        item = await self.cluster.wait("Provider", self.namespace, "fake", because(reason, "ProviderAvailable"))
        available, tls = condition(item, "ProviderAvailable"), condition(item, "TLSConfigured")
        assert (available["status"], tls["status"], tls["reason"]) == ("False", "False", reason)
        return str(available["message"]), str(tls["message"])


def _data(files: TlsFiles) -> dict[str, str]:
    named = {"tls.crt": files.cert, "tls.key": files.key, "ca.crt": files.ca}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in named.items()}


@dataclass
class Serving:
    """A provider process."""

    address: str
    log: Path
    _metrics: str
    took: float
    """Seconds to start, which tells how busy the machine is."""
    world: Path | None = None

    def days(self, seconds: float) -> float:
        """Life of a certificate that ends so soon on an idle machine, and on a busy one when as much is done."""
        return (seconds + 4 * self.took) / 86400

    def machines(self) -> list[str]:
        """Ids of all that there are."""
        assert self.world is not None
        return list(json.loads(self.world.read_text())["machines"])

    async def calls(self) -> float:
        """How many calls of ours it has begun to answer."""
        async with aiohttp.ClientSession() as http, http.get(f"http://{self._metrics}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("virtrigaud_rpc_server_started_total{")
        )

    def said(self, event: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [record for record in records if record["event"] == event]


@asynccontextmanager
async def serving(home: Path, files: TlsFiles, *flags: str) -> AsyncIterator[Serving]:
    """A provider process with these certificates."""
    place, log = home / "ready", home / "provider.log"
    command = [
        script("virtrigaud-provider-fake"), "--owner", OWNER, "--ready-file", str(place),
        "--listen-address", "127.0.0.1:0",
        "--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-ca", str(files.ca),
        "--metrics-address", "127.0.0.1:0", *flags,
    ]  # fmt: skip
    began = time.monotonic()
    async with started(command, log, GRPC_VERBOSITY="INFO"):
        await until(place.exists, "the provider")
        found = Serving(place.read_text().strip(), log, "", time.monotonic() - began)
        page = found.said("provider.metrics")[-1]  # of the latest
        found._metrics = f"{page['host']}:{page['port']}"
        yield found


@asynccontextmanager
async def site_of(cluster: Cluster, namespace: str, home: Path) -> AsyncIterator[Site]:
    """A namespace with a controller of its own, which is yet to be given a Provider."""
    flags = ("--no-leader-elect", "--namespace", namespace, "--owner", OWNER)
    await cluster.namespace(namespace)
    async with controller(cluster, home / "controller", *flags):
        yield Site(cluster, namespace, Authority.create(home / "ca"), home)


def ours(site: Site) -> TlsFiles:
    return site.authority.issue(site.home / "client", CONTROLLER, end=End.CLIENT)
