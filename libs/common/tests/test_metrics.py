"""The HTTP side: metrics, liveness and readiness."""

import socket

import aiohttp
import pytest
from common import metrics
from prometheus_client import CollectorRegistry, Counter


@pytest.fixture
async def get():
    async with aiohttp.ClientSession() as session:

        async def get(server: metrics.MetricsServer, path: str, **headers: str) -> tuple[int, str, str]:
            async with session.get(f"http://{server.host}:{server.port}{path}", headers=headers) as answer:
                return answer.status, await answer.text(), answer.headers["Content-Type"]

        yield get


async def test_P45_metrics_are_served(get):
    registry = CollectorRegistry()
    metrics.build_info("test", "1.2.3", registry)
    Counter("virtrigaud_things", "Things", registry=registry).inc(3)
    async with metrics.serve("127.0.0.1", 0, registry=registry) as server:
        status, text, kind = await get(server, "/metrics")
        assert status == 200
        assert kind.startswith("text/plain")
        assert "virtrigaud_things_total 3.0" in text
        assert 'version="1.2.3"' in text
        _, text, kind = await get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")


async def test_P45_readiness_tells_its_reasons(get):
    problems = ["libvirt: away", "images: full"]
    async with metrics.serve("127.0.0.1", 0, lambda: problems, registry=CollectorRegistry()) as server:
        assert (await get(server, "/readyz"))[:2] == (503, "libvirt: away\nimages: full\n")
        assert (await get(server, "/healthz"))[:2] == (200, "ok\n")
        problems.clear()
        assert (await get(server, "/readyz"))[:2] == (200, "ok\n")


async def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            async with metrics.serve("127.0.0.1", port, registry=CollectorRegistry()):
                pass


def test_one_set_of_call_metrics_per_registry():
    registry = CollectorRegistry()
    assert metrics.rpc("server", registry) is metrics.rpc("server", registry)
    assert metrics.rpc("server", registry) is not metrics.rpc("client", registry)
