"""The table of errors, in both directions."""

import importlib
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from common import errors, redact, status, v1
from common.errors import ProviderError
from google.rpc import error_details_pb2, status_pb2


def subclasses(cls: type) -> list[type]:
    return [each for sub in cls.__subclasses__() for each in (sub, *subclasses(sub))]


ERRORS = [each for each in subclasses(ProviderError) if each.__module__ == "common.errors"]


def received(error: ProviderError) -> grpc.aio.AioRpcError:
    """What a client's gRPC makes of it."""
    code, details, trailers = status.abortion(error)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


def bare(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def test_P42_P43_every_error_has_a_row():
    """An error without a row would reach its first caller as a riddle."""
    assert len(ERRORS) > 20
    assert set(ERRORS) <= set(status.TABLE)
    importlib.import_module("common.faults")
    for cls in subclasses(ProviderError):
        assert status.row(cls("x")).code is not grpc.StatusCode.OK


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_P43_every_error_crosses_the_wire_as_itself(cls):
    """Class, message and retry time; with the code that any gRPC client understands."""
    sent = cls("grow disk root of shop/web: pool default is full", retry_after=2.5)
    got = status.from_rpc_error(received(sent))
    assert type(got) is cls
    assert str(got) == str(sent)
    assert got.retry_after == 2.5
    assert status.from_rpc_error(received(cls("x"))).retry_after is None


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_operation_ends_with_the_same_error_as_a_call(cls):
    """Clients need one way to read both."""
    wire = status.to_wire(cls("m", retry_after=0.25))
    assert wire.code == status.row(cls("m")).code.value[0]
    assert wire.retry_after == timedelta(milliseconds=250)
    got = status.from_wire(wire)
    assert (type(got), str(got), got.retry_after) == (cls, "m", 0.25)


def test_reasons_are_distinct_and_fit_a_condition():
    reasons = [cls("").reason for cls in ERRORS]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.isalpha() and reason[0].isupper() and not reason.endswith("Error") for reason in reasons)


def test_a_subclass_travels_as_what_it_is_a_kind_of():
    """A driver may refine an error; the wire knows only the table."""

    class DatastoreFullError(errors.HostFullError):
        pass

    got = status.from_rpc_error(received(DatastoreFullError("full")))
    assert type(got) is errors.HostFullError
    assert status.action(DatastoreFullError("full")) is status.Action.BACK_OFF_SLOWLY
    assert status.to_wire(DatastoreFullError("full")).reason == "HostFull"


def newer(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    """From a server of a later version."""
    message = status_pb2.Status(code=code.value[0], message="from the future")
    message.details.add().Pack(error_details_pb2.ErrorInfo(reason="MoonInTheWay", domain="virtrigaud.io"))
    metadata = grpc.aio.Metadata((status.DETAILS_KEY, message.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, "short")


@pytest.mark.parametrize(
    "code", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK], ids=lambda c: c.name
)
def test_an_unknown_reason_falls_back_to_its_code(code):
    """An old controller and a new provider understand each other well enough."""
    got = status.from_rpc_error(newer(code))
    assert str(got) == "from the future"
    known = status.row(got).code
    assert known is code or code in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)


def test_W9_P7_only_a_provider_can_say_that_a_machine_is_gone():
    """NOT_FOUND from a proxy, or of something that we do not know, must not look like a missing machine."""
    assert type(status.from_rpc_error(bare(grpc.StatusCode.NOT_FOUND, "no route"))) is errors.InternalError
    assert type(status.from_rpc_error(newer(grpc.StatusCode.NOT_FOUND))) is errors.ResourceNotFoundError
    assert type(status.from_wire(v1.Error(code=5, reason="Unheard", message="m"))) is errors.ResourceNotFoundError


def test_a_full_message_buffer_is_no_full_host():
    """gRPC's own RESOURCE_EXHAUSTED speaks of message sizes."""
    got = status.from_rpc_error(bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max"))
    assert type(got) is errors.InternalError
    assert "larger than max" in str(got)


@pytest.mark.parametrize(
    ("code", "text", "streaming", "cls"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: refused",
            False,
            errors.HypervisorUnavailableError,
        ),
        ("UNAVAILABLE", "DNS resolution failed for provider:9443", False, errors.HypervisorUnavailableError),
        ("UNAVAILABLE", "Socket closed", False, errors.OutcomeUnknownError),
        ("UNAVAILABLE", "Socket closed", True, errors.HypervisorUnavailableError),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False, errors.OutcomeUnknownError),
        ("CANCELLED", "", False, errors.OutcomeUnknownError),
        ("UNIMPLEMENTED", "Method not found!", False, errors.NotSupportedError),
        ("UNKNOWN", "Stream removed", False, errors.InternalError),
    ],
)
def test_P43_what_grpc_itself_says(code, text, streaming, cls):
    """Never sent is not the same as no answer: only the second leaves the outcome in doubt."""
    assert type(status.from_rpc_error(bare(grpc.StatusCode[code], text), streaming=streaming)) is cls


def test_rubbish_in_the_details_is_ignored():
    metadata = grpc.aio.Metadata((status.DETAILS_KEY, b"\xff\xff\xff"))
    got = status.from_rpc_error(
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, "failed to connect")
    )
    assert type(got) is errors.HypervisorUnavailableError


def test_another_domain_does_not_choose_the_class():
    """Some proxies speak google.rpc as well."""
    message = status_pb2.Status(code=5, message="m")
    message.details.add().Pack(error_details_pb2.ErrorInfo(reason="MachineNotFound", domain="example.com"))
    metadata = grpc.aio.Metadata((status.DETAILS_KEY, message.SerializeToString()))
    got = status.from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, metadata, metadata, "m"))
    assert type(got) is errors.InternalError


def test_a_long_message_is_cut_and_fits_into_headers():
    _, short, trailers = status.abortion(errors.HostFullError("ü" * 100_000))
    assert len(short) <= 400
    assert len(trailers[0][1]) < 8_000
    assert str(status.from_rpc_error(received(errors.HostFullError("ü" * 100_000)))).endswith("…")


@pytest.mark.parametrize(("given", "got"), [(-5.0, 0.0), (1e9, 3600.0), (0.0, 0.0), (float("inf"), 3600.0)])
def test_a_peer_cannot_put_us_to_sleep_for_ever(given, got):
    assert status.from_rpc_error(received(errors.HostFullError("m", retry_after=given))).retry_after == got


def test_a_registered_secret_does_not_cross_the_wire():
    """The last net, should a driver quote its password in an error."""
    redact.register("s3cr3t-of-the-wire")
    error = errors.CredentialsRefusedError("login as root with s3cr3t-of-the-wire failed")
    assert "s3cr3t" not in str(status.abortion(error))
    assert "s3cr3t" not in status.to_wire(error).message


def test_a_task_groups_failure_is_the_error_it_consists_of():
    gone, full = errors.MachineNotFoundError("a"), errors.HostFullError("b")
    assert status.provider_error(gone) is gone
    assert status.provider_error(ExceptionGroup("g", [gone, ExceptionGroup("h", [full])])) is gone
    assert status.provider_error(ExceptionGroup("g", [gone, KeyError("bug")])) is None
    assert status.provider_error(KeyError("bug")) is None


@pytest.mark.parametrize(
    ("cls", "action"),
    [
        (errors.InvalidSpecError, status.Action.STOP),
        (errors.NotSupportedError, status.Action.STOP),
        (errors.MachineNotFoundError, status.Action.LOOK_AGAIN),
        (errors.WrongPowerStateError, status.Action.LOOK_AGAIN),
        (errors.OutcomeUnknownError, status.Action.LOOK_AGAIN),
        (errors.OperationInProgressError, status.Action.BACK_OFF),
        (errors.HypervisorUnavailableError, status.Action.BACK_OFF),
        (errors.HostFullError, status.Action.BACK_OFF_SLOWLY),
        (errors.CredentialsRefusedError, status.Action.BACK_OFF_SLOWLY),
    ],
)
def test_W18_what_a_worker_does(cls, action):
    assert status.action(cls("x")) is action


def test_the_page_of_errors_is_the_table():
    """The contract refers to docs/errors.md; `uv run python -m common.status > docs/errors.md` writes it anew."""
    page = Path(__file__).resolve().parents[3] / "docs" / "errors.md"
    assert page.read_text() == status.markdown()


def test_details_that_were_garbled_on_their_way_leave_the_code():
    garbled = status_pb2.Status(code=8, message="full")
    garbled.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    trailers = grpc.aio.Metadata((status.DETAILS_KEY, garbled.SerializeToString()))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, "x")
    assert not isinstance(status.from_rpc_error(error), errors.MachineNotFoundError)
