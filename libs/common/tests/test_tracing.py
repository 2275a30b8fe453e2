"""One trace from a caller through gRPC and threads to a real collector, and into the logs. In a process of its own: a
tracer provider can be set but once."""

import asyncio
import base64
import json
import sys

import grpc
import grpc.aio
import pytest
from common import tracing
from common.errors import HypervisorUnavailableError
from observability.spans import written
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

__all__ = ["written"]  # a fixture
PROGRAM = """
import asyncio, base64, sys
from common import errors, logging, redact, rpc, tracing, v1

SERVICE = "virtrigaud.provider.v1.MachineService"
CODED = base64.b64encode(b"root@pam:s3cr3t-value").decode()
redact.register("s3cr3t-value")

class Machines:
    async def get_machine(self, request, context):
        await asyncio.to_thread(self.work)
        if request.uid == "missing":
            raise errors.MachineNotFoundError("there is no machine missing")
        if request.uid == "broken":  # as a library does that tells what it sent
            raise RuntimeError("POST /login password=s3cr3t-value Authorization: Basic " + CODED)
        return v1.GetMachineResponse()

    def work(self):
        with tracing.span("hypervisor.call", uid="m-1", password="hunter2", libvirt__domain="a s3cr3t-value b"):
            logging.get("driver").info("working")

    async def watch_machines(self, request, context):
        with tracing.span("watch.begin"):
            pass
        yield v1.WatchMachinesResponse()

async def main():
    server = rpc.Server("127.0.0.1:0", insecure=True)
    server.bind(SERVICE, Machines())
    async with server, rpc.connect(server.address, insecure=True) as channel:
        stub = rpc.stub(channel, SERVICE)
        with tracing.span("reconcile", machine="shop/web"):
            await stub.get_machine(v1.GetMachineRequest(uid="m-1"), timeout=10)
            async for _ in stub.watch_machines(v1.WatchMachinesRequest(), timeout=10):
                pass
        try:
            with tracing.span("failing"):
                await stub.get_machine(v1.GetMachineRequest(uid="missing"), timeout=10)
        except errors.MachineNotFoundError:
            pass
        try:
            with tracing.span("dumping"):
                await stub.get_machine(v1.GetMachineRequest(uid="broken"), timeout=10)
        except errors.InternalError as error:
            logging.get("client").error("refused", message=str(error), trailers=str(error.__cause__))

        with tracing.unseen(), tracing.span("probing"):
            await stub.get_machine(v1.GetMachineRequest(uid="unseen"), timeout=10)

logging.setup("traced", "info", "json")
with tracing.setup("traced", sys.argv[1], version="1.0"):
    assert tracing.enabled()
    asyncio.run(main())
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list = []
        self.resources: list = []

    async def Export(self, request, context):
        for resource in request.resource_spans:
            self.resources.append(resource.resource)
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


async def run_traced() -> tuple[Collector, list[dict]]:
    collector = Collector()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{port}"), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    await server.stop(None)
    assert process.returncode == 0, stderr.decode()
    return collector, [json.loads(line) for line in stderr.decode().splitlines()]


async def test_W37_P44_one_trace_from_the_caller_to_the_hypervisor_call_and_into_the_log():
    collector, records = await run_traced()
    spans = {}
    for span in collector.spans:
        spans.setdefault(span.name, []).append(span)
    root = spans["reconcile"][0]
    in_trace = {span.name for span in collector.spans if span.trace_id == root.trace_id}
    method = "virtrigaud.provider.v1.MachineService/GetMachine"
    assert {"reconcile", method, "hypervisor.call", "watch.begin"} <= in_trace
    parents = {span.span_id: span for span in collector.spans}
    call = next(span for span in spans["hypervisor.call"] if span.trace_id == root.trace_id)
    chain = []
    while call.parent_span_id:
        call = parents[call.parent_span_id]
        chain.append(call.name)
    assert chain == [method, method, "reconcile"]
    working = next(record for record in records if record["event"] == "working")
    assert working["trace_id"] == root.trace_id.hex()

    # a failed call is a failed span on both sides
    failing = spans["failing"][0]
    failed = {span.name for span in collector.spans if span.trace_id == failing.trace_id and span.status.code == 2}
    assert {"failing", method} <= failed

    # a question that is asked again for ever is in no trace, on neither side
    assert "probing" not in spans
    assert len(spans[method]) == 2 * len(("m-1", "missing", "broken"))

    # and neither a span nor a log shows a secret, whatever a library did with it
    assert any(record["event"] == "rpc.unexpected" and "RuntimeError" in record["exception"] for record in records)
    for shown in ("".join(str(span) for span in collector.spans), json.dumps(records)):
        assert "hunter2" not in shown
        assert "s3cr3t-value" not in shown
        assert base64.b64encode(b"s3cr3t-value").decode()[:12] not in shown
        assert base64.b64encode(b"root@pam:s3cr3t-value").decode() not in shown
    attributes = {item.key: item.value.string_value for span in spans["hypervisor.call"] for item in span.attributes}
    assert attributes == {"uid": "m-1", "password": "[redacted]", "libvirt.domain": "a [redacted] b"}


def test_tracing_is_off_unless_it_is_asked_for():
    with tracing.setup("quiet", None):
        assert not tracing.enabled()
        assert tracing.headers() == ()


def test_a_wrong_endpoint_is_named():
    with pytest.raises(ValueError, match="write http://host:4317"):
        tracing.setup("x", "host:4317")


def test_a_failed_span_tells_the_type_of_its_error_and_not_its_text(monkeypatch: pytest.MonkeyPatch):
    """A hypervisor's error may quote the boot data that it was given, which no list of secrets knows."""
    ended: list[ReadableSpan] = []

    class Ended(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    provider = TracerProvider()
    provider.add_span_processor(Ended())
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    with pytest.raises(HypervisorUnavailableError), tracing.span("driver.create"):
        raise HypervisorUnavailableError("cannot write #cloud-config password: hunter2")
    assert [span.status.description for span in ended] == ["HypervisorUnavailableError"]
    assert not ended[0].events


def test_a_root_is_told_by_what_it_is_about():
    """Two processes that never met name the same trace."""
    one = tracing.root("uid", "1")
    assert one == tracing.root("uid", "1")
    assert len({one.trace_id, tracing.root("uid", "2").trace_id, tracing.root("ui", "d1").trace_id}) == 3
    with tracing.under(one):
        assert tracing.trace_id() == f"{one.trace_id:032x}"
        with tracing.apart():
            assert tracing.trace_id() == ""
    assert tracing.trace_id() == ""


def test_a_root_continues_somebody_elses_trace():
    mine = tracing.root("uid", "1", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    assert (f"{mine.trace_id:032x}", mine.span_id) == (
        "0af7651916cd43dd8448eb211c80319c",
        tracing.root("uid", "1").span_id,
    )
    with tracing.under(mine):
        assert not trace.get_current_span().get_span_context().trace_flags.sampled  # as they asked for


@pytest.mark.parametrize("text", ["x", "00-0-0-01", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" * 5000])
def test_a_traceparent_that_is_none_is_refused(text: str):
    with pytest.raises(ValueError, match="is no W3C traceparent: write 00-TRACE-SPAN-01"):
        tracing.root("uid", "1", traceparent=text)


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (HypervisorUnavailableError("password=s3cr3t"), trace.StatusCode.ERROR, "HypervisorUnavailable"),
        (RuntimeError("password=s3cr3t"), trace.StatusCode.ERROR, "RuntimeError"),
        (TimeoutError("password=s3cr3t"), trace.StatusCode.UNSET, "TimeoutError"),
    ],
)
def test_a_span_tells_why_it_ended_and_fails_by_what_was_not_expected(written, raised, status, told):
    """Whoever looks for red spans looks for what went wrong, not for what waited."""
    with pytest.raises(type(raised)), tracing.span("work", expected=(TimeoutError,)):
        raise raised
    (span,) = written.spans
    assert (span.status.status_code, span.attributes["error.type"]) == (status, told)
    assert not span.events
    assert "s3cr3t" not in span.to_json()
