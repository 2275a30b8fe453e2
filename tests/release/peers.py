"""A release before this one, and one after it, as the wire has them.

A peer stands between two programs of today and lets through what both would have had if one of them were of another
release. The one before knows the messages of proto/released.binpb: what was added since is cut out of every message,
and its methods are not implemented. The one after has a field more in every message, and a value more in every list of
values.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from common.errors import InvalidSpecError
from common.gen.google_proto_descriptor_pool import default_google_proto_descriptor_pool as TODAY
from common.status import abortion
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from grpc._cython import cygrpc

RELEASED = Path(__file__).resolve().parents[2] / "proto" / "released.binpb"
PACKAGE = "virtrigaud.provider.v1."
LATER_FIELD = b"\x82\xe5\x08\x0ffrom the future"
"""Field 18000, of bytes: no contract of ours has it."""
LATER_VALUE = 9999

Pool = descriptor_pool.DescriptorPool


class UnknownValueError(ValueError):
    """A message holds a value of an enumeration that this release does not know."""


class Release(Protocol):
    """How a release changes what passes."""

    def method(self, path: str) -> MethodDescriptor | None:
        """None: this release does not implement it."""

    def request(self, kind: Any, data: bytes) -> bytes:
        """A request, as it arrives there, or as it comes from there."""

    def answer(self, kind: Any, data: bytes) -> bytes:
        """An answer, likewise."""


class Before:
    """The release of proto/released.binpb, on either side."""

    def __init__(self) -> None:
        self._pool = Pool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(RELEASED.read_bytes()).file:
            self._pool.Add(file)

    def method(self, path: str) -> MethodDescriptor | None:
        return _method(self._pool, path)

    def request(self, kind: Any, data: bytes) -> bytes:
        message = message_factory.GetMessageClass(kind).FromString(data)
        for part in parts(message):
            for field, value in part.ListFields():
                if field.enum_type is not None and (unknown := _unknown(field, value)):
                    raise UnknownValueError(f"values that this server does not know: {field.name} = {unknown}")
        message.DiscardUnknownFields()
        return bytes(message.SerializeToString())

    answer = request


class After:
    """A release that knows all that today's does, and more."""

    def method(self, path: str) -> MethodDescriptor | None:
        return _method(TODAY, path)

    def request(self, kind: Any, data: bytes) -> bytes:
        return self._grown(kind, data, values=False)  # a value that is not known is refused, and by intention

    def answer(self, kind: Any, data: bytes) -> bytes:
        return self._grown(kind, data, values=True)

    def _grown(self, kind: Any, data: bytes, *, values: bool) -> bytes:
        message = message_factory.GetMessageClass(kind).FromString(data)
        for part in list(parts(message)):
            part.MergeFromString(LATER_FIELD)
            for field, value in part.ListFields():
                if values and field.enum_type is not None and field.is_repeated:
                    value.append(LATER_VALUE)
        return bytes(message.SerializeToString())


class Newer:
    """A release that is as today's, but for one field of its answers: its value is one that nobody here knows."""

    def __init__(self, message: str, field: str) -> None:
        self._message, self._field = message, field

    def method(self, path: str) -> MethodDescriptor | None:
        return _method(TODAY, path)

    def request(self, kind: Any, data: bytes) -> bytes:
        return data

    def answer(self, kind: Any, data: bytes) -> bytes:
        message = message_factory.GetMessageClass(kind).FromString(data)
        for part in parts(message):
            if part.DESCRIPTOR.name == self._message:
                if part.DESCRIPTOR.fields_by_name[self._field].is_repeated:
                    getattr(part, self._field).append(LATER_VALUE)
                else:
                    setattr(part, self._field, LATER_VALUE)
        return bytes(message.SerializeToString())


def told_values(services: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every field of the answers of these services with values of an enumeration: (message, field)."""
    seen: set[str] = set()

    def walk(kind: Any) -> Iterator[tuple[str, str]]:
        if kind.full_name in seen or not kind.full_name.startswith(PACKAGE):
            return
        seen.add(kind.full_name)
        for field in kind.fields:
            if field.enum_type is not None:
                yield kind.name, field.name
            elif field.message_type is not None:
                yield from walk(field.message_type)

    for service in services:
        for method in TODAY.FindServiceByName(PACKAGE + service).methods:
            yield from walk(method.output_type)


def parts(message: Message) -> Iterator[Message]:
    """A message of ours, and all those in it."""
    if not message.DESCRIPTOR.full_name.startswith(PACKAGE):
        return
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            held = field.message_type.fields_by_name["value"].message_type
            inner = list(value.values()) if held is not None else []
        else:
            inner = list(value) if field.is_repeated else [value]
        for each in inner:
            yield from parts(each)


def _unknown(field: FieldDescriptor, value: Any) -> list[int]:
    known = field.enum_type.values_by_number
    return [each for each in (value if field.is_repeated else [value]) if each not in known]


def _method(pool: Any, path: str) -> MethodDescriptor | None:
    service, _, name = path.lstrip("/").partition("/")
    with contextlib.suppress(KeyError):
        found: MethodDescriptor | None = pool.FindServiceByName(service).methods_by_name.get(name)
        return found
    return None


class _Passing(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Every call is a stream of bytes both ways: on the wire a single message is one of length 1."""

    def __init__(self, channel: Any, release: Release) -> None:
        self._channel, self._release = channel, release

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        request = answer = lambda data: data  # health and reflection are not ours
        if path.startswith(f"/{PACKAGE}"):
            method = self._release.method(path)
            if method is None:
                return None  # which gRPC answers as UNIMPLEMENTED
            request = self._changed(self._release.request, method.input_type)
            answer = self._changed(self._release.answer, method.output_type)

        async def call(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            metadata = [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
            passed = self._channel.stream_stream(path)(timeout=context.time_remaining(), metadata=metadata)
            refused: list[str] = []
            status: tuple[Any, ...] = ()
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_send(requests, request, passed, refused))
                try:
                    while (data := await passed.read()) is not grpc.aio.EOF:
                        yield answer(data)
                except grpc.aio.AioRpcError as error:
                    status = (error.code(), error.details(), tuple(error.trailing_metadata() or ()))
                except asyncio.CancelledError:
                    if not refused:
                        raise
                    status = abortion(InvalidSpecError(refused[0]))
                finally:
                    sending.cancel()
                    passed.cancel()
            if status:  # here, as a group of tasks would wrap what `abort` raises
                await context.abort(*status)

        return grpc.stream_stream_rpc_method_handler(call)

    @staticmethod
    def _changed(change: Callable[[Any, bytes], bytes], kind: Any) -> Callable[[bytes], bytes]:
        return lambda data: change(kind, data)


@asynccontextmanager
async def peer(address: str, release: Release) -> AsyncIterator[str]:
    """Where the server at an address is as one of another release, and its callers likewise."""
    async with grpc.aio.insecure_channel(address) as channel:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        server.add_generic_rpc_handlers((_Passing(channel, release),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0.2)


async def _send(
    requests: AsyncIterator[bytes], changed: Callable[[bytes], bytes], passed: Any, refused: list[str]
) -> None:
    """Pass requests on until the call has ended; one that is refused ends it, and the reason is noted."""
    # Whatever the call ended with is read by the other side.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, cygrpc.InternalError):
        async for data in requests:
            try:
                data = changed(data)
            except UnknownValueError as error:
                refused.append(str(error))
                passed.cancel()
                return
            except DecodeError:
                pass  # to be refused by whom it is for
            # Not `write`: where the server has refused the call meanwhile, that puts its own error in the place of
            # the server's, which is still on its way. Source: grpc.aio, _StreamRequestMixin._write.
            await passed._metadata_sent.wait()
            await passed._cython_call.send_serialized_message(data)
        await passed.done_writing()
