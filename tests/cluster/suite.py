"""The embedded API server's own suite, for another server: its tests, and a client that they take for theirs."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import aiohttp
from yarl import URL

from .cluster import Cluster

PACKAGE = "services.apiserver.tests"
MODULES = ("apply", "definitions", "deletion", "hostile", "kubectl", "protobuf", "resources", "watch")
INSIDE = {"clock", "instance", "memory", "monkeypatch", "process"}
"""Fixtures that reach into the embedded server: a test that needs one says nothing of another server."""

own: Any = import_module(f"{PACKAGE}.conftest")  # Any: no package, so without types
Reply, Stream = own.Reply, own.Stream

Test = Callable[..., Any]


def shared() -> Iterator[tuple[str, Test]]:
    """Every test that speaks to the server, and to nothing but the server."""
    for name in MODULES:
        for key, found in vars(import_module(f"{PACKAGE}.test_{name}")).items():
            if key.startswith("test_") and not hasattr(found, "hypothesis"):  # those look for our own defects
                wanted = set(inspect.signature(found).parameters)
                if wanted & {"api", "kubectl"} and not wanted & INSIDE:
                    yield key, found


def fixtures(name: str, *keys: str) -> list[Any]:
    """Fixtures of one module of the suite."""
    module = import_module(f"{PACKAGE}.{name}")
    return [getattr(module, key) for key in keys]


@dataclass(frozen=True)
class Server:
    """Where a client speaks to."""

    session: aiohttp.ClientSession
    url: str


class Client(own.Client):  # type: ignore[misc]  # the suite's, which has no types here
    """The suite's client, over HTTPS; its `app` is a Server."""

    def _ask(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Any:
        sent = {"authorization": f"Bearer {self.token}" if self.token else "", **self.headers}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        latin = {name: value.encode("latin-1").decode("utf-8", "surrogateescape") for name, value in sent.items()}
        where = URL(self.app.url + url, encoded=True)
        return self.app.session.request(
            method, where, data=io.BytesIO(body) if body else body, headers={k: v for k, v in latin.items() if v}
        )

    async def call(
        self, method: str, url: str, body: Any = None, *, kind: str = "application/json", **headers: str
    ) -> Any:
        """Send a request; a body that is not bytes goes as JSON.

        A definition that is made is taken in a moment later on a cluster: that is waited for.
        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            headers = {"content_type": kind, **headers}
        async with self._ask(method, url, data, headers) as answer:
            told = [(name.lower(), value) for name, value in answer.headers.items()]
            reply = Reply(answer.status, told, await answer.read())
        return await settled(self, reply) if (method, reply.status, url[: len(CRDS)]) == ("POST", 201, CRDS) else reply

    @asynccontextmanager
    async def watch(self, url: str, **headers: str) -> AsyncIterator[Any]:
        """Open a watch; the client goes away at the end of the block."""
        stream = Stream()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._follow(url, headers, stream))
            try:
                async with asyncio.timeout(10):
                    await stream.started.wait()
                yield stream
            finally:
                task.cancel()

    async def _follow(self, url: str, headers: dict[str, str], stream: Any) -> None:
        async with self._ask("GET", url, None, headers) as answer:
            await stream.send({"type": "http.response.start", "status": answer.status})
            async for line in answer.content:
                await stream.send({"type": "http.response.body", "body": line, "more_body": True})
            await stream.send({"type": "http.response.body"})


@asynccontextmanager
async def server(cluster: Cluster) -> AsyncIterator[Server]:
    """A cluster, for clients."""
    trust = ssl.create_default_context(cafile=str(cluster.authority))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, force_close=True),
        read_bufsize=1 << 22,
        headers={"User-Agent": "suite"},
    ) as session:
        yield Server(session, cluster.url)


# -- cleaning ----------------------------------------------------------------------------------------------------------

CRDS = own.CRD
OURS = f"{CRDS}/widgets.test.virtrigaud.io"
NAMESPACES = "/api/v1/namespaces"
KEPT = {"default", "kube-system", "kube-public", "kube-node-lease"}
CONTENT = (
    "/api/v1/{}/configmaps",
    "/api/v1/{}/secrets",
    "/api/v1/{}/serviceaccounts",
    "/api/v1/{}/events",
    "/apis/test.virtrigaud.io/v1/{}/widgets",
)


async def clean(api: Client) -> None:
    """Bring the server to where the suite's tests expect it: with widgets defined, and nothing made by a test."""
    others = {item["metadata"]["name"] for item in await items(api, NAMESPACES)} - KEPT
    for place in ("default", *others):
        for path in CONTENT:
            await empty(api, path.format(f"namespaces/{place}"))
    for name in others:  # not left to its controller, which looks again later and later
        await api.delete(f"{NAMESPACES}/{name}")
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        await api.put(f"{NAMESPACES}/{name}/finalize", body)
    for crd in await items(api, CRDS):
        if f"{CRDS}/{crd['metadata']['name']}" != OURS:
            await api.delete(f"{CRDS}/{crd['metadata']['name']}")
    await define(api)  # not before: a definition that goes waits for its objects
    await until(lambda: only(api, NAMESPACES, len(KEPT)))
    await until(lambda: only(api, CRDS, 1))


async def settled(api: Client, reply: Any) -> Any:
    """The answer to the making of a definition, with its conditions."""
    url, last = f"{CRDS}/{reply.json['metadata']['name']}", reply

    async def told() -> bool:
        nonlocal last
        last = await api.get(url)
        found = {c["type"]: c["status"] for c in last.json["status"].get("conditions") or ()}
        return found.get("Established") == "True" or found.get("NamesAccepted") == "False"

    await until(told)
    return Reply(reply.status, reply.headers, last.body)


async def define(api: Client) -> None:
    """Have widgets served as the suite defines them."""

    async def served() -> bool:
        reply = await api.patch(f"{OURS}?fieldManager=suite&force=true", own.widget_crd(), "apply")
        gone = bool(reply.json.get("metadata", {}).get("deletionTimestamp"))
        return reply.status in (200, 201) and not gone and (await api.get(own.WIDGETS)).status == 200

    await until(served)


async def items(api: Client, collection: str) -> list[Any]:
    """Of a collection; none where its kind is not served."""
    reply = await api.get(collection)
    return reply.json["items"] if reply.status == 200 else []


async def empty(api: Client, collection: str) -> None:
    """Remove all of a collection but the account that every namespace has, whatever holds it."""
    for item in await items(api, collection):
        meta = item["metadata"]
        if meta["name"] == "default" and collection.endswith("serviceaccounts"):
            continue
        if meta.get("finalizers"):
            await api.patch(f"{collection}/{meta['name']}", {"metadata": {"finalizers": None}})
        await api.delete(f"{collection}/{meta['name']}", {"propagationPolicy": "Background"})


async def only(api: Client, collection: str, count: int) -> bool:
    """Whether so many are left."""
    return len(await items(api, collection)) == count


async def until(holds: Callable[[], Any]) -> None:
    """Look until something holds."""
    async with asyncio.timeout(100):  # a cluster looks later and later
        while True:
            if await holds():
                return
            await asyncio.sleep(0.1)
