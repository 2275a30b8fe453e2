"""The services of the contract, as their descriptors tell them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from common import v1, wire
from common.gen.google_proto_descriptor_pool import default_google_proto_descriptor_pool as POOL

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Error details travel as headers; gRPC's own limit of 8 KiB is below what two long messages take.
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.absolute_max_metadata_size", 64 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""What both ends set."""

_FILES = v1  # its import is what fills the pool


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its path on the wire, its name in Python, and its messages."""

    path: str
    name: str
    request: wire.Codec[Any]
    response: wire.Codec[Any]
    request_class: type[Any]
    client_streaming: bool
    server_streaming: bool


def service(name: str) -> ServiceDescriptor:
    """The descriptor of a service by full name.

    Raises:
        KeyError: the contract has no such service.
    """
    try:
        return POOL.FindServiceByName(name)
    except KeyError:
        raise KeyError(f"the contract has no service {name}") from None


def methods(descriptor: ServiceDescriptor) -> tuple[Method, ...]:
    """Every method of a service; worked out once, for each call over a channel asks."""
    return _methods(descriptor.full_name)


@lru_cache
def _methods(name: str) -> tuple[Method, ...]:
    return tuple(_method(each) for each in service(name).methods)


def _method(each: MethodDescriptor) -> Method:
    request, response = wire.message_class(each.input_type), wire.message_class(each.output_type)
    return Method(
        path=f"/{each.containing_service.full_name}/{each.name}",
        name=re.sub(r"(?<!^)(?=[A-Z])", "_", each.name).lower(),
        request=wire.codec(request),
        response=wire.codec(response),
        request_class=request,
        client_streaming=each.client_streaming,
        server_streaming=each.server_streaming,
    )
