"""How the API is reached."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from controller.api import ApiUnavailableError, connect, verb_and_resource

KUBECONFIG = """apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://api.example:6443"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {token: secret}}]
"""


@pytest.mark.parametrize(
    ("proxy", "exempt", "looked_for"),
    [("", "", False), ("http://proxy.example:3128", "", True), ("http://proxy.example:3128", "api.example", False)],
)
async def test_proxies_are_looked_for_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, exempt: str, looked_for: bool
) -> None:
    """Looking costs a fifth of what a request costs: the environment and ~/.netrc are read anew for each."""
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", exempt)
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    async with connect(str(file)) as api:
        assert api._session.trust_env is looked_for


ROOT = "/apis/infra.virtrigaud.io/v1beta1"


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", f"{ROOT}/virtualmachines", ("list", "virtualmachines")),
        ("GET", f"{ROOT}/namespaces/shop/virtualmachines", ("list", "virtualmachines")),
        ("GET", f"{ROOT}/namespaces/shop/virtualmachines/web", ("get", "virtualmachines")),
        ("PATCH", f"{ROOT}/namespaces/shop/virtualmachines/web/status", ("patch", "virtualmachines/status")),
        ("POST", "/api/v1/namespaces/shop/events", ("create", "events")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/x/leases/virtrigaud", ("update", "leases")),
        ("DELETE", "/apis/apps/v1/namespaces/x/deployments/p", ("delete", "deployments")),
        ("GET", "/api/v1/namespaces", ("list", "namespaces")),
        ("GET", "/api/v1/namespaces/shop", ("get", "namespaces")),
    ],
)
def test_a_request_is_counted_without_names_of_objects(method: str, path: str, words: tuple[str, str]) -> None:
    """As many series as machines would end the Prometheus that keeps them."""
    assert verb_and_resource(method, path) == words


async def test_a_request_without_an_answer_is_counted_as_one(tmp_path: Path) -> None:
    """It is what an operator looks for first."""
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG.replace("api.example:6443", "127.0.0.1:1"))
    asked: list[tuple[str, str, int, bool]] = []
    async with connect(str(file), asked=lambda v, r, s, took: asked.append((v, r, s, took is None))) as api:
        with pytest.raises(ApiUnavailableError):
            await api.request("GET", f"{ROOT}/virtualmachines")
        with pytest.raises(ApiUnavailableError):
            await anext(api.lines(f"{ROOT}/virtualmachines", {}, 5.0))
    assert asked == [("list", "virtualmachines", 0, False), ("watch", "virtualmachines", 0, True)]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "lines"), [(b"", []), (HEAD, []), (HEAD + b"4\r\n{}\n\n\r\n", [b"{}"])], ids=["", "head", "a line"]
)
async def test_a_watch_that_falls_silent_is_broken_and_not_ended(
    tmp_path: Path, said: bytes, lines: list[bytes]
) -> None:
    """Taken for a word of the server's, it would keep VirtrigaudInformerStale from ever firing."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await done.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        file = tmp_path / "kubeconfig"
        file.write_text(KUBECONFIG.replace("https://api.example:6443", f"http://127.0.0.1:{port}"))
        async with connect(str(file)) as api:
            watch = api.lines("/x", {"watch": "true"}, 0.5)
            assert [await anext(watch) for _ in lines] == lines
            with pytest.raises(ApiUnavailableError, match="watch /x"):
                await anext(watch)
        done.set()
