"""Calls over real sockets: what arrives, what failures become, how calls end."""

import asyncio
import logging as stdlib_logging
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from common import errors, rpc, v1
from common.rpc import services
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

MACHINES = "virtrigaud.provider.v1.MachineService"
DISKS = "virtrigaud.provider.v1.DiskService"


async def get(stub, uid: str, timeout: float = 10.0, **more):
    return await stub.get_machine(v1.GetMachineRequest(uid=uid), timeout=timeout, **more)


async def test_P29_a_unary_call_carries_messages(stub):
    assert (await get(stub, "m-1")).machine == v1.Machine(id="m-1")


async def test_answers_stream(stub):
    seen = [
        each.revision async for each in stub.watch_machines(v1.WatchMachinesRequest(resume_revision="end"), timeout=10)
    ]
    assert seen == ["0", "1", "2"]


async def test_both_directions_stream(stub):
    """Each answer comes before the next request is made."""
    asked: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def requests():
        while (data := await asked.get()) is not None:
            yield v1.OpenConsoleRequest(input=data)

    stream = stub.open_console(requests(), timeout=10)
    for line in (b"one", b"two"):
        asked.put_nowait(line)
        assert (await anext(stream)).output == line
    asked.put_nowait(None)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_requests_stream(channel):
    async def requests():
        yield v1.WriteDiskRequest(target=v1.WriteDiskTarget(size_bytes=30))
        for offset in (0, 10, 20):
            yield v1.WriteDiskRequest(extent=v1.Extent(offset=offset, length=10))

    answer = await rpc.stub(channel, DISKS).write_disk(requests(), timeout=10)
    assert answer == v1.WriteDiskResponse(offset=30, complete=True)


async def test_a_failing_source_of_requests_is_the_callers_own_error(channel):
    """gRPC alone would say "cancelled" and keep the cause to itself."""

    async def requests():
        yield v1.WriteDiskRequest(target=v1.WriteDiskTarget(size_bytes=30))
        raise FileNotFoundError("the disk to send is gone")

    with pytest.raises(FileNotFoundError, match="the disk to send is gone"):
        await rpc.stub(channel, DISKS).write_disk(requests(), timeout=10)


async def test_a_provider_error_arrives_whole(stub):
    with pytest.raises(errors.MachineNotFoundError, match="there is no machine missing") as caught:
        await get(stub, "missing")
    assert caught.value.retry_after == 1.5


async def test_a_stream_may_end_in_an_error(stub):
    stream = stub.watch_machines(v1.WatchMachinesRequest(resume_revision="refuse"), timeout=10)
    assert [(await anext(stream)).revision for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(errors.HypervisorUnavailableError, match="the session ended") as caught:
        await anext(stream)
    assert caught.value.retry_after == 3
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_task_groups_error_arrives_as_what_it_is(stub):
    with pytest.raises(errors.HostFullError, match="no room"):
        await get(stub, "group")


@pytest.mark.parametrize("uid", ["bug", "own-timeout", "wrong-answer"])
async def test_a_bug_shows_its_cause_in_the_servers_log_alone(stub, uid, caplog):
    with pytest.raises(errors.InternalError, match="internal error") as caught:
        await get(stub, uid)
    assert "hunter2" not in str(caught.value)
    assert any("rpc.unexpected" in record.getMessage() for record in caplog.records)


async def test_a_bug_in_a_stream_too(stub, caplog):
    with pytest.raises(errors.InternalError, match="internal error"):
        async for _ in stub.watch_machines(v1.WatchMachinesRequest(resume_revision="bug"), timeout=10):
            pass
    assert any("rpc.unexpected" in record.getMessage() for record in caplog.records)


async def test_a_method_that_the_server_lacks_is_not_supported(stub):
    with pytest.raises(errors.NotSupportedError, match="PlanMachine"):
        await stub.plan_machine(v1.PlanMachineRequest(), timeout=10)
    with pytest.raises(errors.NotSupportedError, match="ListMachines"):
        await anext(stub.list_machines(v1.ListMachinesRequest(), timeout=10))


async def test_a_service_that_the_server_lacks_is_not_supported(channel):
    with pytest.raises(errors.NotSupportedError):
        await rpc.stub(channel, "virtrigaud.provider.v1.ImageService").list_images(v1.ListImagesRequest(), timeout=10)


async def test_P42_an_unknown_enum_value_is_refused_with_its_place(stub):
    """Guessing what a newer caller wants could cost a disk."""
    spec = v1.MachineSpec(disks=[v1.DiskSpec(bus=v1.DiskBus(99))])
    with pytest.raises(errors.InvalidSpecError, match=r"spec\.disks\[0\]\.bus = 99"):
        await stub.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=10)


async def test_a_request_that_is_no_message_is_refused(server):
    """Any peer can send any bytes."""
    async with grpc.aio.insecure_channel(server.address) as raw:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw.unary_unary(f"/{MACHINES}/GetMachine")(b"\x0a\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot be read" in caught.value.details()


async def test_what_cannot_be_sent_is_the_callers_invalid_spec(stub):
    with pytest.raises(errors.InvalidSpecError, match="cannot be sent"):
        await get(stub, "\ud800")
    with pytest.raises(TypeError, match="takes a GetMachineRequest, got MachineSpec"):
        await stub.get_machine(v1.MachineSpec(), timeout=10)


async def test_the_deadline_leaves_the_outcome_unknown_and_frees_the_handler(stub, machines, caplog):
    with pytest.raises(errors.OutcomeUnknownError):
        await get(stub, "slow", timeout=0.2)
    async with asyncio.timeout(10):
        await machines.left.wait()
    assert machines.cancelled
    assert not [record for record in caplog.records if record.levelno >= stdlib_logging.ERROR]


async def test_a_call_must_have_a_deadline(stub):
    with pytest.raises(TypeError, match="timeout"):
        await stub.get_machine(v1.GetMachineRequest(uid="m"))


async def test_the_server_has_a_deadline_of_its_own(machines, registry):
    """A client without one must not hold a handler for ever."""
    server = rpc.Server("127.0.0.1:0", insecure=True, registry=registry, max_unary_seconds=0.2)
    server.bind(MACHINES, machines)
    async with server, rpc.connect(server.address, insecure=True, registry=registry) as channel:
        with pytest.raises(errors.OutcomeUnknownError, match="repeat the call"):
            await get(rpc.stub(channel, MACHINES), "slow", timeout=60)
    assert machines.cancelled


async def test_a_cancelled_caller_cancels_the_handler(stub, machines, caplog):
    task = asyncio.create_task(get(stub, "slow", timeout=60))
    async with asyncio.timeout(10):
        await machines.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await machines.left.wait()
    assert machines.cancelled
    assert not [record for record in caplog.records if record.levelno >= stdlib_logging.ERROR]


async def test_leaving_a_stream_ends_it_on_the_server(stub, machines):
    async with stub.watch_machines(v1.WatchMachinesRequest()) as stream:
        async for each in stream:
            if each.revision == "2":
                break
    async with asyncio.timeout(10):
        await machines.left.wait()


async def test_a_cancelled_reader_ends_its_stream(stub, machines):
    async def read() -> None:
        async for _ in stub.watch_machines(v1.WatchMachinesRequest()):
            pass

    task = asyncio.create_task(read())
    async with asyncio.timeout(10):
        await machines.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await machines.left.wait()


async def test_closing_the_channel_fails_the_open_call_and_cancels_nobody(server, machines):
    """gRPC raises CancelledError into a task that nobody cancelled: it would die without a word."""
    channel = rpc.connect(server.address, insecure=True)
    call = asyncio.create_task(get(rpc.stub(channel, MACHINES), "slow", timeout=60))
    async with asyncio.timeout(10):
        await machines.entered.wait()
        await channel.close()
        with pytest.raises(errors.OutcomeUnknownError):
            await call
    with pytest.raises(RuntimeError, match="is closed"):
        await get(rpc.stub(channel, MACHINES), "m")


async def test_a_server_that_is_not_there_is_unavailable_at_once():
    async with rpc.connect("127.0.0.1:1", insecure=True) as channel:
        with pytest.raises(errors.HypervisorUnavailableError, match="cannot be reached"):
            await get(rpc.stub(channel, MACHINES), "m", timeout=10)
        assert not await channel.wait_ready(0.05)


async def test_a_connection_that_breaks_in_mid_call_leaves_the_outcome_unknown():
    """The request may have been carried out: only asking again tells."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)  # HTTP/2's preface
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # empty SETTINGS: the connection stands
        await writer.drain()
        data = b""
        while b"GetMachine" not in data and b"uid-of-the-call" not in data:
            data += await reader.read(4096)
        writer.close()
        accepted.put_nowait(writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, rpc.connect(f"127.0.0.1:{port}", insecure=True) as channel:
        with pytest.raises(errors.OutcomeUnknownError):
            await get(rpc.stub(channel, MACHINES), "uid-of-the-call", timeout=10)


async def test_wait_for_ready_waits_for_a_server_that_comes_later(machines):
    server = rpc.Server("127.0.0.1:0", insecure=True)
    async with server:
        address = server.address
    later = rpc.Server(address, insecure=True)
    later.bind(MACHINES, machines)
    async with rpc.connect(address, insecure=True) as channel:
        call = asyncio.create_task(get(rpc.stub(channel, MACHINES), "m", timeout=30, wait_for_ready=True))
        assert not await channel.wait_ready(0.1)
        async with later:
            assert (await call).machine.id == "m"


async def test_a_stopping_server_ends_streams_and_lets_calls_finish(machines, registry):
    server = rpc.Server("127.0.0.1:0", insecure=True, grace=10, registry=registry)
    server.bind(MACHINES, machines)
    async with server, rpc.connect(server.address, insecure=True, registry=registry) as channel:
        stub = rpc.stub(channel, MACHINES)
        stream = stub.watch_machines(v1.WatchMachinesRequest())
        async with asyncio.timeout(10):
            for _ in range(3):
                await anext(stream)
            await machines.entered.wait()
            machines.entered.clear()
            call = asyncio.create_task(get(stub, "slow", timeout=30))
            await machines.entered.wait()
            machines.left.clear()
            stop = asyncio.create_task(server.stop())
            with pytest.raises(errors.HypervisorUnavailableError, match="shutting down"):
                await anext(stream)
            assert not call.done()
            machines.release.set()
            assert (await call).machine.id == "slow"
            await stop


async def test_messages_up_to_16_MiB_pass(stub):
    """gRPC's own limit is 4 MiB, which a list of machines can exceed."""
    assert len((await get(stub, "huge")).machine.description) == 12_000_000


async def test_a_message_beyond_the_limit_is_no_full_host(stub):
    request = v1.ApplyMachineRequest(spec=v1.MachineSpec(description="x" * (services.MAX_MESSAGE_BYTES + 1)))
    with pytest.raises(errors.InternalError, match="larger than max"):
        await stub.apply_machine(request, timeout=10)


async def test_long_error_messages_pass(machines, registry):
    class Verbose:
        async def get_machine(self, request, context):
            raise errors.InvalidSpecError("ü" * 5000)

    server = rpc.Server("127.0.0.1:0", insecure=True, registry=registry)
    server.bind(MACHINES, Verbose())
    async with server, rpc.connect(server.address, insecure=True) as channel:
        with pytest.raises(errors.InvalidSpecError) as caught:
            await get(rpc.stub(channel, MACHINES), "m")
    assert len(str(caught.value)) == 2000


async def test_plaintext_must_be_asked_for():
    with pytest.raises(ValueError, match="insecure=True"):
        rpc.Server("127.0.0.1:0")
    with pytest.raises(ValueError, match="insecure=True"):
        rpc.connect("127.0.0.1:1")


async def test_a_unix_socket_needs_no_tls(machines, tmp_path):
    server = rpc.Server(f"unix:{tmp_path}/p.sock")
    server.bind(MACHINES, machines)
    async with server, rpc.connect(server.address) as channel:
        assert (await get(rpc.stub(channel, MACHINES), "m")).machine.id == "m"


async def test_two_servers_never_share_a_port(server):
    """With SO_REUSEPORT a left-over server would silently take a share of the connections."""
    second = rpc.Server(server.address, insecure=True)
    with pytest.raises(rpc.ListenError, match=server.address):
        await second.__aenter__()


def test_binding_what_is_no_service_is_refused():
    server = rpc.Server("127.0.0.1:0", insecure=True)
    with pytest.raises(KeyError, match=r"no service virtrigaud\.provider\.v1\.Nothing"):
        rpc.bind(server, "virtrigaud.provider.v1.Nothing", object())
    with pytest.raises(TypeError, match="object has no method of"):
        rpc.bind(server, MACHINES, object())


async def test_a_mistyped_method_is_named(stub):
    with pytest.raises(AttributeError, match="has no method get_machines: it has plan_machine, apply_machine"):
        stub.get_machines  # noqa: B018  # looking it up is what fails


async def test_P45_health_is_told_per_service_and_in_sum(server):
    async with grpc.aio.insecure_channel(server.address) as raw:
        health = health_pb2_grpc.HealthStub(raw)

        async def serving(service: str) -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            return answer.status == health_pb2.HealthCheckResponse.SERVING

        assert not await serving(MACHINES)  # nothing serves before it is said to
        await server.health.set(MACHINES, None)
        await server.health.set(DISKS, "the pool is away")
        assert await serving(MACHINES)
        assert not await serving(DISKS)
        assert not await serving("")
        await server.health.set(DISKS, None)
        assert await serving("")


async def test_P45_reflection_lists_the_contract(server):
    async with grpc.aio.insecure_channel(server.address) as raw:
        reflection = reflection_pb2_grpc.ServerReflectionStub(raw)

        async def requests():
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=MACHINES)
            # The details of an error, so that a client that only knows reflection can read them.
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.rpc.ErrorInfo")

        answers = [answer async for answer in reflection.ServerReflectionInfo(requests(), timeout=10)]
    names = {each.name for each in answers[0].list_services_response.service}
    assert {MACHINES, DISKS, "grpc.health.v1.Health"} <= names
    assert len(answers[1].file_descriptor_response.file_descriptor_proto) >= 4
    assert answers[2].file_descriptor_response.file_descriptor_proto


async def test_P45_calls_are_counted_on_both_sides(stub, registry):
    await get(stub, "m")
    with pytest.raises(errors.MachineNotFoundError):
        await get(stub, "missing")
    async for _ in stub.watch_machines(v1.WatchMachinesRequest(resume_revision="end"), timeout=10):
        pass
    labels = {"service": MACHINES, "method": "GetMachine"}
    for side in ("server", "client"):
        for code in ("OK", "NOT_FOUND"):
            assert registry.get_sample_value(f"virtrigaud_rpc_{side}_handled_total", {**labels, "code": code}) == 1
        assert registry.get_sample_value(f"virtrigaud_rpc_{side}_seconds_count", labels) == 2
        assert registry.get_sample_value(f"virtrigaud_rpc_{side}_in_flight", labels) == 0
    watch = {"service": MACHINES, "method": "WatchMachines"}
    assert registry.get_sample_value("virtrigaud_rpc_server_stream_messages_total", watch) == 3
    assert registry.get_sample_value("virtrigaud_rpc_client_handled_total", {**watch, "code": "OK"}) == 1


async def test_the_messages_durations_survive_a_call(stub):
    """From keyword to keyword through the whole stack."""
    spec = v1.MachineSpec(power=v1.PowerSpec(graceful_timeout=timedelta(seconds=1.5)))
    assert await stub.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=10) == v1.ApplyMachineResponse()
