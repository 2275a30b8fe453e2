"""Who a provider process turns away, and that its log says why. Real handshakes, real calls."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from common import identity, rpc, v1
from common.errors import ClientRefusedError, MachineNotFoundError
from common.identity import Role
from common.pki import Authority, End
from common.tls import CONTROLLER, OPERATOR, VIEWER, TlsFiles
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from provider_process import Process, machines, spec, started
from providerkit.serving import PACKAGE

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LAB = identity.Server("shop", "lab")


class Site:
    """A provider process, and the authority that its clients come from."""

    def __init__(self, process: Process, authority: Authority, place: Path) -> None:
        self.process, self.authority, self._place = process, authority, place

    def issue(
        self, name: str, *, days: float = 1, end: End = End.CLIENT, authority: Authority | None = None
    ) -> TlsFiles:
        return (authority or self.authority).issue(self._place / uuid.uuid4().hex, name, days=days, end=end)

    @asynccontextmanager
    async def channel(self, name: str) -> AsyncIterator[rpc.Channel]:
        async with rpc.connect(self.process.address, self.issue(name), server=LAB, registry=None) as channel:
            yield channel


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    authority = Authority.create(tmp_path / "ca")
    files = authority.issue(tmp_path / "server", LAB.host, [LAB.uri], end=End.SERVER)
    flags = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-ca", str(files.ca)]
    async with started(*flags, environment={"GRPC_VERBOSITY": "INFO"}) as process:
        yield Site(process, authority, tmp_path / "clients")


async def shake_hands(address: str, files: TlsFiles | None, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What the server says to a client that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, most
    context.set_alpn_protocols(["h2"])
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(HELLO)
        said = await reader.read(1)
        writer.close()
    except (ssl.SSLError, ConnectionError):
        return b""
    return said


async def test_a_client_of_ours_gets_its_answer(site: Site) -> None:
    assert await shake_hands(site.process.address, site.issue(CONTROLLER))


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (lambda site, _: None, "the client showed no certificate"),
        (
            lambda site, tmp: site.issue(CONTROLLER, authority=Authority.create(tmp / "other")),
            "the client's certificate is of an authority that is not in our CA file",
        ),
        (lambda site, _: site.issue(CONTROLLER, days=-0.001), "the client's certificate has expired"),
        (lambda site, _: site.issue(CONTROLLER, end=End.SERVER), "the client's certificate is not one for clients"),
    ],
    ids=["no certificate", "wrong authority", "expired", "a server's certificate"],
)
async def test_a_handshake_is_refused_and_the_log_says_why(
    site: Site, tmp_path: Path, files: Callable[[Site, Path], TlsFiles | None], why: str
) -> None:
    assert await shake_hands(site.process.address, files(site, tmp_path)) == b""
    told = await site.process.wait_event("rpc.handshake.refused")
    assert (told["why"], told["level"]) == (why, "warning")


async def test_tls_1_2_is_refused_and_the_log_says_why(site: Site) -> None:
    assert await shake_hands(site.process.address, site.issue(CONTROLLER), ssl.TLSVersion.TLSv1_2) == b""
    assert (await site.process.wait_event("rpc.handshake.refused"))["why"] == "the client does not speak TLS 1.3"


async def test_plaintext_is_refused_and_the_log_says_why(site: Site) -> None:
    host, _, port = site.process.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HELLO)
    assert await reader.read() == b""
    writer.close()
    assert (await site.process.wait_event("rpc.handshake.refused"))["why"] == "the client does not speak TLS"


@pytest.mark.parametrize(
    "name",
    [
        identity.client(Role.CONTROLLER, "elsewhere"),
        identity.Server("shop", "other").uri,
        "virtrigaud-controller",
        "spiffe://other.example/ns/virtrigaud-system/controller",
    ],
)
async def test_another_name_of_the_same_authority_is_refused_and_the_log_says_whose(site: Site, name: str) -> None:
    async with site.channel(name) as channel:
        with pytest.raises(ClientRefusedError, match=r"not among those that this server lets in") as caught:
            await machines(channel).get_machine(v1.GetMachineRequest(uid=str(uuid.uuid4())), timeout=10)
    assert name in str(caught.value)
    assert (await site.process.wait_event("rpc.peer.refused"))["names"] == [name]


async def test_P11_a_viewer_may_look_and_nothing_else(site: Site) -> None:
    wanted = spec(str(uuid.uuid4()))
    async with site.channel(CONTROLLER) as channel:
        await machines(channel).apply_machine(v1.ApplyMachineRequest(spec=wanted), timeout=10)
    uid = wanted.identity.uid  # type: ignore[union-attr]  # given above
    async with site.channel(VIEWER) as channel:
        answer = await machines(channel).get_machine(v1.GetMachineRequest(uid=uid), timeout=10)
        assert answer.machine.identity.uid == uid
        assert (await anext(machines(channel).watch_machines(v1.WatchMachinesRequest()))).revision
        with pytest.raises(ClientRefusedError, match="DeleteMachine is not for a client like this"):
            await machines(channel).delete_machine(v1.DeleteMachineRequest(identity=wanted.identity), timeout=10)
        assert (await site.process.wait_event("rpc.call.forbidden"))["names"] == [VIEWER]
        with pytest.raises(ClientRefusedError):
            await anext(machines(channel).open_console(aiter([])))
        assert (await machines(channel).get_machine(v1.GetMachineRequest(uid=uid), timeout=10)).machine.id


async def aiter(items: list[v1.OpenConsoleRequest]) -> AsyncIterator[v1.OpenConsoleRequest]:
    for item in items:
        yield item


async def test_an_operator_may_converse_and_not_change(site: Site) -> None:
    async with site.channel(OPERATOR) as channel:
        with pytest.raises(MachineNotFoundError):
            await machines(channel).capture_screenshot(v1.CaptureScreenshotRequest(uid=str(uuid.uuid4())), timeout=10)
        with pytest.raises(ClientRefusedError):
            await machines(channel).apply_machine(v1.ApplyMachineRequest(spec=spec(str(uuid.uuid4()))), timeout=10)


async def test_health_and_reflection_are_for_whoever_may_look(site: Site) -> None:
    asked = health_pb2.HealthCheckRequest(service=f"{PACKAGE}.ProviderService").SerializeToString()
    listed = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    for name, let_in in ((VIEWER, True), (identity.client(Role.VIEWER, "elsewhere"), False)):
        async with site.channel(name) as channel:
            raw = channel._current().channel  # gRPC's own services have no stub of ours
            health = raw.unary_unary("/grpc.health.v1.Health/Check")(asked, timeout=10)
            watch = raw.unary_stream("/grpc.health.v1.Health/Watch")(asked, timeout=10)
            services = raw.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(timeout=10)
            if let_in:
                assert health_pb2.HealthCheckResponse.FromString(await health).status == 1
                assert health_pb2.HealthCheckResponse.FromString(await watch.read()).status == 1
                await services.write(listed)
                assert PACKAGE.encode() in await services.read()
                watch.cancel()
                services.cancel()
                continue
            assert (await health.code()).name == (await watch.code()).name == "PERMISSION_DENIED"
            assert (await services.code()).name == "PERMISSION_DENIED"
