"""The one table between our errors and gRPC: nothing else names a status code.

| what                  | carried by                                                             |
| --------------------- | ---------------------------------------------------------------------- |
| kind of trouble       | status code, for any gRPC client                                       |
| which error           | google.rpc.ErrorInfo: domain "virtrigaud.io", reason = the error's name |
| message               | google.rpc.Status.message                                              |
| when to try again     | google.rpc.RetryInfo, only where waiting helps                         |

A reason that this build does not know (a newer peer) becomes the nearest error of its code. A status without our
ErrorInfo was made by gRPC or something on the way, not by a provider: it never becomes a statement about a machine.
"""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from common import errors, redact, v1
from common.errors import ProviderError

DOMAIN = "virtrigaud.io"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_CHARS = 2000
"""A message longer than this is cut: it travels in HTTP/2 headers, whose size is limited."""
_SHORT_CHARS = 400
MAX_RETRY_AFTER = 3600.0
"""Seconds; a peer cannot put a caller to sleep for longer."""

_Code = grpc.StatusCode


class Action(enum.Enum):
    """What a worker does with its key after an error."""

    STOP = "stop"
    """The spec must change; wait for that."""
    LOOK_AGAIN = "look again"
    """What was assumed no longer holds, or is not known: observe afresh and decide anew, soon."""
    BACK_OFF = "back off"
    """Try again later; it is expected to pass."""
    BACK_OFF_SLOWLY = "back off, slowly"
    """Somebody has to do something about it: try again, rarely."""


@dataclass(frozen=True, slots=True)
class Row:
    """One error: its code on the wire and what a worker does about it."""

    code: grpc.StatusCode
    action: Action


TABLE: dict[type[ProviderError], Row] = {
    errors.InvalidSpecError: Row(_Code.INVALID_ARGUMENT, Action.STOP),
    errors.NotSupportedError: Row(_Code.UNIMPLEMENTED, Action.STOP),
    errors.MachineNotFoundError: Row(_Code.NOT_FOUND, Action.LOOK_AGAIN),
    errors.ImageNotFoundError: Row(_Code.NOT_FOUND, Action.BACK_OFF_SLOWLY),
    errors.ResourceNotFoundError: Row(_Code.NOT_FOUND, Action.BACK_OFF_SLOWLY),
    errors.SnapshotNotFoundError: Row(_Code.NOT_FOUND, Action.LOOK_AGAIN),
    errors.OperationNotFoundError: Row(_Code.NOT_FOUND, Action.LOOK_AGAIN),
    errors.NameConflictError: Row(_Code.ALREADY_EXISTS, Action.BACK_OFF_SLOWLY),
    errors.ForeignMachineError: Row(_Code.FAILED_PRECONDITION, Action.BACK_OFF_SLOWLY),
    errors.WrongPowerStateError: Row(_Code.FAILED_PRECONDITION, Action.LOOK_AGAIN),
    errors.StalePreconditionError: Row(_Code.FAILED_PRECONDITION, Action.LOOK_AGAIN),
    errors.ImageInUseError: Row(_Code.FAILED_PRECONDITION, Action.BACK_OFF_SLOWLY),
    errors.SnapshotInUseError: Row(_Code.FAILED_PRECONDITION, Action.BACK_OFF_SLOWLY),
    errors.BrokenImageError: Row(_Code.FAILED_PRECONDITION, Action.BACK_OFF_SLOWLY),
    errors.ChecksumMismatchError: Row(_Code.DATA_LOSS, Action.BACK_OFF_SLOWLY),
    errors.DownloadFailedError: Row(_Code.FAILED_PRECONDITION, Action.BACK_OFF),
    errors.OperationInProgressError: Row(_Code.ABORTED, Action.BACK_OFF),
    errors.OperationCancelledError: Row(_Code.CANCELLED, Action.LOOK_AGAIN),
    errors.HostFullError: Row(_Code.RESOURCE_EXHAUSTED, Action.BACK_OFF_SLOWLY),
    errors.HypervisorUnavailableError: Row(_Code.UNAVAILABLE, Action.BACK_OFF),
    errors.CredentialsRefusedError: Row(_Code.UNAUTHENTICATED, Action.BACK_OFF_SLOWLY),
    errors.PermissionMissingError: Row(_Code.PERMISSION_DENIED, Action.BACK_OFF_SLOWLY),
    errors.ClientRefusedError: Row(_Code.PERMISSION_DENIED, Action.BACK_OFF_SLOWLY),
    errors.CertificateLapsedError: Row(_Code.UNAUTHENTICATED, Action.BACK_OFF),
    errors.WrongServerError: Row(_Code.UNAVAILABLE, Action.BACK_OFF),
    errors.OutcomeUnknownError: Row(_Code.DEADLINE_EXCEEDED, Action.LOOK_AGAIN),
    errors.InternalError: Row(_Code.INTERNAL, Action.BACK_OFF),
}

_BY_REASON: dict[str, type[ProviderError]] = {cls("").reason: cls for cls in TABLE}

# Our domain, unknown reason: what is nearest and promises least. NOT_FOUND of an unknown thing is about no machine.
_BY_CODE: dict[grpc.StatusCode, type[ProviderError]] = {
    _Code.INVALID_ARGUMENT: errors.InvalidSpecError,
    _Code.OUT_OF_RANGE: errors.InvalidSpecError,
    _Code.UNIMPLEMENTED: errors.NotSupportedError,
    _Code.NOT_FOUND: errors.ResourceNotFoundError,
    _Code.ALREADY_EXISTS: errors.NameConflictError,
    _Code.FAILED_PRECONDITION: errors.StalePreconditionError,
    _Code.DATA_LOSS: errors.ChecksumMismatchError,
    _Code.ABORTED: errors.OperationInProgressError,
    _Code.CANCELLED: errors.OperationCancelledError,
    _Code.RESOURCE_EXHAUSTED: errors.HostFullError,
    _Code.UNAVAILABLE: errors.HypervisorUnavailableError,
    _Code.UNAUTHENTICATED: errors.CredentialsRefusedError,
    _Code.PERMISSION_DENIED: errors.PermissionMissingError,
    _Code.DEADLINE_EXCEEDED: errors.OutcomeUnknownError,
}

# No ErrorInfo of ours: gRPC itself speaks. Every other code is InternalError: whoever said it was no provider.
_BARE: dict[grpc.StatusCode, type[ProviderError]] = {
    _Code.UNIMPLEMENTED: errors.NotSupportedError,
    _Code.UNAVAILABLE: errors.HypervisorUnavailableError,
    _Code.DEADLINE_EXCEEDED: errors.OutcomeUnknownError,
    _Code.CANCELLED: errors.OutcomeUnknownError,
    _Code.UNAUTHENTICATED: errors.CredentialsRefusedError,
    _Code.PERMISSION_DENIED: errors.PermissionMissingError,
}

# gRPC's words for "the request was never sent"; any other UNAVAILABLE may have come after it was.
# Source: grpc core, client_channel.cc and subchannel.cc.
_NEVER_SENT = (
    "failed to connect",
    "dns resolution failed",
    "connections to all backends failing",
    "no address",
    "unknown host",
)

_CURES = (
    (
        "Hostname Verification Check failed",
        "its certificate is not for this name; issue it for the host that is dialled",
    ),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate has expired or is not from an authority in our CA file"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
    ("Socket closed", "it hung up; does it want TLS, or not accept our certificate?"),
)


def row(error: ProviderError) -> Row:
    """The row of an error, or of the nearest class above it that has one."""
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return TABLE[errors.InternalError]


def action(error: ProviderError) -> Action:
    """What a worker does about it."""
    return row(error).action


def to_status(error: ProviderError) -> status_pb2.Status:
    """The error as google.rpc.Status."""
    status = status_pb2.Status(code=_number(row(error).code), message=_message(error))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=_reason(error), domain=DOMAIN))
    if error.retry_after is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(_delay(error.retry_after))
        status.details.add().Pack(info)
    return status


def abortion(error: ProviderError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, short text and trailing metadata that a failed call ends with; the whole message is in the metadata."""
    status = to_status(error)
    short = status.message if len(status.message) <= _SHORT_CHARS else status.message[: _SHORT_CHARS - 1] + "…"
    return row(error).code, short, ((DETAILS_KEY, status.SerializeToString()),)


def code_name(number: int) -> str:
    """ "NOT_FOUND" of 5."""
    name: str = _code_of(number).name
    return name


def from_rpc_error(error: grpc.RpcError, *, streaming: bool = False) -> ProviderError:
    """What a failed call means.

    Args:
        streaming: a stream that broke can always be opened anew, so nothing about its outcome is in doubt.
    """
    code, text, details = _parts(error)
    if details is not None:
        return _from_details(code, details)
    cls = _BARE.get(code, errors.InternalError)
    if cls is errors.HypervisorUnavailableError and not streaming and not _never_sent(text):
        cls = errors.OutcomeUnknownError
    return cls(redact.text(f"{_BARE_TEXT.get(cls, 'the call failed')}: {_cure(text)}{code.name}: {text}"))


def to_wire(error: ProviderError) -> v1.Error:
    """The error as the end of an operation."""
    return v1.Error(
        code=_number(row(error).code),
        reason=_reason(error),
        message=_message(error),
        retry_after=None if error.retry_after is None else _delay(error.retry_after),
    )


def from_wire(error: v1.Error) -> ProviderError:
    """The error that an operation ended with."""
    after = None if error.retry_after is None else _clamped(error.retry_after.total_seconds())
    cls = _BY_REASON.get(error.reason) or _BY_CODE.get(_code_of(error.code), errors.InternalError)
    return cls(error.message, retry_after=after)


def provider_error(error: BaseException) -> ProviderError | None:
    """The ProviderError that an exception is, or that a task group's failure consists of; else None."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, BaseExceptionGroup):
        leaves = [provider_error(each) for each in error.exceptions]
        if all(leaf is not None for leaf in leaves):
            return leaves[0]
    return None


_PAGE = """\
# Errors

Generated from `common.status` by `uv run python -m common.status > docs/errors.md`.

A failed call carries a status code and `google.rpc.ErrorInfo` (domain `{domain}`, reason as below), and
`google.rpc.RetryInfo` where waiting helps. The same three stand in the `Error` of a failed operation. The worker
column says what the controller does: *stop* waits for a changed spec, *look again* observes afresh soon, *back off*
tries again with growing delays, *slowly* with long ones because somebody has to act first.

| Reason | gRPC code | Worker | Meaning |
| --- | --- | --- | --- |
{rows}

A client that meets a reason it does not know treats it by its code. A status without `ErrorInfo` comes from gRPC or a
proxy, not from a provider, and says nothing about any machine: a bare NOT_FOUND never means that a machine is gone. A
connection that breaks in the middle of a call is `OutcomeUnknown`; one that cannot be made is `HypervisorUnavailable`.
"""


def markdown() -> str:
    """The content of docs/errors.md."""
    rows = (
        f"| `{cls('').reason}` | {each.code.name} | {each.action.value} | {' '.join((cls.__doc__ or '').split())} |"
        for cls, each in TABLE.items()
    )
    return _PAGE.format(domain=DOMAIN, rows="\n".join(rows))


_BARE_TEXT: dict[type[ProviderError], str] = {
    errors.NotSupportedError: "the server does not know this call",
    errors.HypervisorUnavailableError: "the server cannot be reached",
    errors.OutcomeUnknownError: "no answer arrived",
    errors.CredentialsRefusedError: "the server refused our certificate",
    errors.PermissionMissingError: "the server does not let us",
}


def _message(error: ProviderError) -> str:
    text = redact.text(str(error)).encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def _reason(error: ProviderError) -> str:
    """The reason of the nearest class with a row: a subclass without one must not invent a reason."""
    return next((cls("").reason for cls in type(error).__mro__ if cls in TABLE), errors.InternalError("").reason)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _code_of(number: int) -> grpc.StatusCode:
    return next((code for code in _Code if code.value[0] == number), _Code.UNKNOWN)


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _delay(seconds: float) -> timedelta:
    return timedelta(seconds=_clamped(seconds))


def _cure(text: str) -> str:
    """What to look at, where gRPC's words tell only an expert."""
    return next((f"{cure}: " for words, cure in _CURES if words in text), "")


def _never_sent(text: str) -> bool:
    lower = text.lower()
    return any(words in lower for words in _NEVER_SENT)


def _parts(error: Any) -> tuple[grpc.StatusCode, str, status_pb2.Status | None]:
    """Code, text and our details of an RpcError; Any: grpc's sync and aio errors share these methods but no class."""
    text = error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                return error.code(), text, status_pb2.Status.FromString(value)
            except DecodeError:  # not ours
                break
    return error.code(), text, None


def _from_details(code: grpc.StatusCode, status: status_pb2.Status) -> ProviderError:
    cls: type[ProviderError] | None = None
    after: float | None = None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        with contextlib.suppress(DecodeError):  # garbled on its way: the code has to do
            if detail.Unpack(info) and info.domain == DOMAIN:
                cls = _BY_REASON.get(info.reason) or _BY_CODE.get(code, errors.InternalError)
            elif detail.Unpack(retry):
                after = _clamped(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    if cls is None:
        cls = _BARE.get(code, errors.InternalError)
    return cls(status.message, retry_after=after)


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201  # the output is the document
