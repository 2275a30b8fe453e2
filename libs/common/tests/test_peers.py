"""A connection that stands is asked again: what held in its handshake has to hold for each call and open stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from common import errors, identity, pki, rpc, tls, v1
from common.clock import ManualClock
from common.pki import End
from common.rpc import peers
from common.tls import CONTROLLER, TlsFiles
from grpc_health.v1 import health_pb2

MACHINES = "virtrigaud.provider.v1.MachineService"
DISKS = "virtrigaud.provider.v1.DiskService"
LAB = identity.Server("shop", "lab")
DAY = 86400.0


class Calendar(ManualClock):
    """Days pass at once, without every moment between."""

    def jump(self, days: float) -> None:
        self._start += timedelta(days=days)


class Disks:
    """Takes whatever comes."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def write_disk(self, requests, context) -> v1.WriteDiskResponse:
        self.entered.set()
        return v1.WriteDiskResponse(offset=len([each async for each in requests]))


class Site:
    """A server with a clock of its own, one client on one connection, and the authority of both."""

    def __init__(
        self, server: rpc.Server, files: TlsFiles, channel: rpc.Channel, clock: Calendar, disks: Disks
    ) -> None:
        self.server, self.files, self.channel, self.clock = server, files, channel, clock
        self.machines, self.disks = rpc.stub(channel, MACHINES), rpc.stub(channel, DISKS)
        self.disks_entered = disks.entered

    async def get(self) -> str:
        answer = await self.machines.get_machine(v1.GetMachineRequest(uid="m"), timeout=10)
        return str(answer.machine.id)

    async def watch(self) -> rpc.ResponseStream:
        """A stream that has told all it has to tell, and waits."""
        stream = self.machines.watch_machines(v1.WatchMachinesRequest())
        for _ in range(3):
            await anext(stream)
        return stream

    async def look(self, after: float = 0) -> None:
        """Let the server look at its files and its clients, so many days later."""
        self.clock.jump(after)
        await self.clock.advance(peers.LOOK_EVERY)


@pytest.fixture
async def site(issue: Callable[..., TlsFiles], machines, tmp_path) -> AsyncIterator[Site]:
    clock = Calendar(datetime.now(UTC))
    files = issue(LAB.host, LAB.uri, days=3000)
    server = rpc.Server("127.0.0.1:0", tls.server_credentials(files, clock), grace=0.5, registry=None)
    server.bind(MACHINES, machines)
    server.bind(DISKS, disks := Disks())
    async with server, rpc.connect(server.address, issue(CONTROLLER, days=30), server=LAB, registry=None) as channel:
        yield Site(server, files, channel, clock, disks)


async def writing(go_on: asyncio.Event) -> AsyncIterator[v1.WriteDiskRequest]:
    yield v1.WriteDiskRequest()
    await go_on.wait()


def replaced(site: Site, tmp_path) -> pki.Authority:
    """The server has another authority, and nothing of the old one."""
    new = pki.Authority.create(tmp_path / "new")
    new.issue(site.files.cert.parent, LAB.host, [LAB.uri], days=3000)
    return new


async def test_a_call_after_the_certificates_end_is_refused_and_told_why(site):
    assert await site.get() == "m"
    await site.look(after=31)
    with pytest.raises(
        errors.CertificateLapsedError, match=rf"{CONTROLLER}\) expired, or its authority did, at 20"
    ) as no:
        await site.get()
    assert "use a new one" in str(no.value)


async def test_a_stream_ends_when_the_certificate_does(site, machines):
    stream = await site.watch()
    await site.look(after=29)
    assert not machines.left.is_set()
    await site.look(after=2)
    with pytest.raises(errors.CertificateLapsedError, match="expired"):
        await anext(stream)
    assert machines.left.is_set()


async def test_a_call_says_unauthenticated_to_any_client(site):
    await site.get()
    raw = site.channel._current().channel
    await site.look(after=31)
    call = raw.unary_unary(f"/{MACHINES}/GetMachine")(b"", timeout=10)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "expired" in await call.details()


async def test_a_stream_of_requests_ends_too(site):
    go_on = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(refusal(site.disks.write_disk(writing(go_on), timeout=60)))
        await site.disks_entered.wait()
        await site.look(after=31)
        assert "expired" in await task
    go_on.set()


async def refusal(call) -> str:
    with pytest.raises(errors.CertificateLapsedError) as caught:
        await call
    return str(caught.value)


async def test_streams_of_grpcs_own_services_end_too(site):
    raw = site.channel._current().channel
    asked = health_pb2.HealthCheckRequest(service=MACHINES).SerializeToString()
    watch = raw.unary_stream("/grpc.health.v1.Health/Watch")(asked, timeout=60)
    reflection = raw.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(timeout=60)
    assert await watch.read()
    await reflection.write(b"")
    await reflection.read()
    await site.look(after=31)
    assert await watch.code() is await reflection.code() is grpc.StatusCode.UNAUTHENTICATED
    again = raw.unary_unary("/grpc.health.v1.Health/Check")(asked, timeout=10)
    assert await again.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_authority_that_is_replaced_lets_nobody_call_who_is_of_it(site, tmp_path):
    stream = await site.watch()
    replaced(site, tmp_path)
    assert await site.get() == "m"  # it has not looked yet
    await site.look()
    with pytest.raises(errors.CertificateLapsedError, match="of an authority that this server does not trust any more"):
        await anext(stream)
    with pytest.raises(errors.CertificateLapsedError):
        await site.get()


async def test_what_was_read_between_two_handshakes_holds_for_the_next(site, issue, tmp_path):
    """Whoever reads the files first: new clients get in, those of before do not."""
    new = replaced(site, tmp_path)
    await site.look()
    client = new.issue(tmp_path / "client", CONTROLLER)
    async with rpc.connect(site.server.address, client, server=LAB, registry=None) as channel:
        await rpc.stub(channel, MACHINES).get_machine(v1.GetMachineRequest(uid="m"), timeout=10)
    async with rpc.connect(site.server.address, issue("late"), server=LAB, registry=None) as channel:
        with pytest.raises(errors.HypervisorUnavailableError):
            await rpc.stub(channel, MACHINES).get_machine(v1.GetMachineRequest(uid="m"), timeout=10)


async def test_beside_its_successor_an_authority_holds(site, authority, tmp_path):
    stream = await site.watch()
    new = pki.Authority.create(tmp_path / "new")
    new.issue(site.files.cert.parent, LAB.host, [LAB.uri], days=3000, trust=[authority.certificate])
    await site.look()
    assert await site.get() == "m"
    assert not stream._ended
    stream.cancel()


async def test_an_authority_that_is_renewed_under_its_key_ends_nothing(site, authority, machines):
    """What cert-manager does: who is of the old certificate is of the new one."""
    stream = await site.watch()
    renewed = pki.pem(pki.self_signed("VirtRigaud CA", authority._key, datetime.now(UTC), 9000))
    site.files.ca.write_bytes(renewed)
    await site.look()
    assert site.server._credentials.callers._watched.material.ca == renewed
    assert await site.get() == "m"
    assert not machines.left.is_set()
    stream.cancel()


async def test_files_that_break_end_nothing(site, machines):
    stream = await site.watch()
    site.files.ca.write_text("rubbish")
    await site.look()
    assert await site.get() == "m"
    assert not machines.left.is_set()
    stream.cancel()


async def test_an_intermediate_that_ends_earlier_counts(issue, authority, tmp_path):
    """A chain holds for as long as its shortest link."""
    leaf = issue(CONTROLLER, days=30).cert.read_bytes()
    short = pki.Authority.create(tmp_path / "short", days=2)
    of_short = short.issue(tmp_path / "leaf", CONTROLLER, days=30).cert.read_bytes()
    assert tls._holds_until([leaf], [authority.certificate]) > datetime.now(UTC) + timedelta(days=29)
    assert tls._holds_until([of_short], [authority.certificate, short.certificate]) == short.expires
    assert tls._holds_until([of_short], [authority.certificate]) is None
    assert tls._holds_until([], [authority.certificate]) is None


async def test_a_certificate_is_judged_once_for_each_state_of_the_ca_file(site):
    """Not at each call: that would cost a signature."""
    callers = site.server._credentials.callers
    await site.get()
    judged = callers._judged
    before = dict(judged)
    await site.get()
    assert callers._judged is judged
    assert judged == before
    assert len(before) == 1


# -- the other way round -----------------------------------------------------------------------------------------------


async def test_a_servers_certificate_is_not_relied_on_beyond_its_end(issue, machines):
    """gRPC does not tell what the server has shown; our own handshake does, and for when."""
    clock = ManualClock(datetime.now(UTC))
    files = issue(LAB.host, LAB.uri, days=1)
    server = rpc.Server("127.0.0.1:0", tls.server_credentials(files), grace=0.5, registry=None)
    server.bind(MACHINES, machines)
    client = issue(CONTROLLER, days=30)
    async with server, rpc.connect(server.address, client, server=LAB, clock=clock, registry=None) as channel:
        assert await channel.examine() is None
        stub = rpc.stub(channel, MACHINES)
        await stub.get_machine(v1.GetMachineRequest(uid="m"), timeout=10)
        first, connection = channel.generation, channel._current()
        await clock.advance(0.9 * DAY)
        assert not channel.renewed(first)
        await clock.advance(0.2 * DAY)
        assert channel.renewed(first)
        await stub.get_machine(v1.GetMachineRequest(uid="m"), timeout=10)  # by real time it is good, so it is met anew
        assert channel._current() is not connection
        assert not channel.renewed(channel.generation)


async def test_of_what_a_server_has_shown_the_earlier_end_counts(issue, authority, machines):
    """The connection may be of before the renewal that our handshake saw."""
    clock = ManualClock(datetime.now(UTC))
    files = issue(LAB.host, LAB.uri, days=3)
    server = rpc.Server("127.0.0.1:0", tls.server_credentials(files), grace=0.5, registry=None)
    server.bind(MACHINES, machines)
    async with (
        server,
        rpc.connect(server.address, issue(CONTROLLER), server=LAB, clock=clock, registry=None) as channel,
    ):
        assert await channel.examine() is None
        authority.issue(files.cert.parent, LAB.host, [LAB.uri, "again"], 300, end=End.BOTH)
        assert await channel.examine() is None
        assert channel._until is not None
        assert channel._until < clock.now() + timedelta(days=4)
