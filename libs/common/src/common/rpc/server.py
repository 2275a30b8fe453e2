"""A gRPC server with everything around it: TLS, health, reflection, limits, a graceful end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import TracebackType
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import REGISTRY, CollectorRegistry

from common import logging, metrics, tracing
from common.gen.google_proto_descriptor_pool import default_google_proto_descriptor_pool
from common.health import Health
from common.rpc.binding import MAX_UNARY_SECONDS, Streams, bind
from common.rpc.interceptors import Continued, ErrorStatus, Metrics, Traced
from common.rpc.peers import MayCall, Peers
from common.rpc.services import OPTIONS
from common.tls import CONTROLLER, ServerCredentials

log = logging.get(__name__)

MAX_CONCURRENT_CALLS = 1000
GRACE_SECONDS = 10.0

_OPTIONS = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # or a left-over server on the port would silently take a share of the connections
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_CALLS),
)


class ListenError(Exception):
    """The address cannot be served; the message names it and the cure."""


class Server:
    """Serves what is bound to it while its context is open.

    Args:
        listen: "host:port", port 0 for a free one, or "unix:/path".
        credentials: `tls.server_credentials(files)`; None serves in plaintext and needs `insecure=True`, or a
            unix socket.
        allowed_clients: names (SAN) of the certificates that may call; others are refused. Only with credentials.
        may_call: which of them may call which method; None: each may call all.
        grace: seconds that open calls may go on once the context is left; streams that answer are ended at once.
        registry: where call metrics go; None for nowhere.
    """

    def __init__(
        self,
        listen: str,
        credentials: ServerCredentials | None = None,
        *,
        insecure: bool = False,
        allowed_clients: Collection[str] = (CONTROLLER,),
        may_call: MayCall | None = None,
        grace: float = GRACE_SECONDS,
        max_unary_seconds: float = MAX_UNARY_SECONDS,
        registry: CollectorRegistry | None = REGISTRY,
    ) -> None:
        if credentials is None and not insecure and not listen.startswith("unix:"):
            raise ValueError(f"serving {listen} without TLS must be asked for: pass credentials, or insecure=True")
        if credentials is not None and not allowed_clients:
            raise ValueError("name the clients that may call: with an empty allowed_clients nobody could")
        self.health = Health()
        self.port = 0
        self._listen = listen
        self._credentials = credentials
        self._grace = grace
        self._max_unary_seconds = max_unary_seconds
        self._registry = registry
        self._peers = Peers(allowed_clients, credentials.callers, may_call) if credentials is not None else None
        self._looking: asyncio.Task[None] | None = None
        self._streams = Streams()
        self._services: list[tuple[str, object]] = []
        self._server: Any = None

    def bind(self, service: str, impl: object) -> None:
        """Serve a service of the contract with `impl`; its health is NOT_SERVING until `health` says otherwise."""
        if self._server is not None:
            raise RuntimeError("bind services before the server is started")
        self._services.append((service, impl))

    @property
    def address(self) -> str:
        """Where a client dials: "host:port" with the real port, or "unix:/path"."""
        return self._listen if self._listen.startswith("unix:") else f"{self._listen.rpartition(':')[0]}:{self.port}"

    async def __aenter__(self) -> Server:
        self._server = server = grpc.aio.server(
            interceptors=self._interceptors(), options=_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )
        for service, impl in self._services:
            bind(server, service, impl, max_unary_seconds=self._max_unary_seconds, streams=self._streams)
            await self.health.servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        names = [service for service, _ in self._services]
        reflection.enable_server_reflection([*names, *_OWN_SERVICES], server, pool=_reflected())
        self._listen_now(server)
        await server.start()
        if self._peers is not None:
            self._looking = asyncio.get_running_loop().create_task(self._peers.run(), name="peers")  # ended by stop()
        log.info("rpc.serving", address=self.address, tls=self._credentials is not None, services=names)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Answer NOT_SERVING, end the streams, let open calls finish within the grace, then cut them. Repeatable."""
        await self.health.stop()
        self._streams.stop()
        await self._server.stop(self._grace)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        log.info("rpc.stopped", address=self.address)

    def _interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        found: list[grpc.aio.ServerInterceptor] = [Traced() if tracing.enabled() else Continued()]
        if self._registry is not None:
            found.append(Metrics(metrics.rpc("server", self._registry)))
        found.append(ErrorStatus())
        if self._peers is not None:
            found.append(self._peers)
        return found

    def _listen_now(self, server: Any) -> None:
        try:
            if self._credentials is not None:
                self.port = server.add_secure_port(self._listen, self._credentials.grpc)
            else:
                self.port = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise ListenError(
                f"cannot serve on {self._listen}: {error}; is the port taken or the host not ours?"
            ) from error
        if self.port == 0:
            raise ListenError(f"cannot serve on {self._listen}: give host:port or unix:/path")


_OWN_SERVICES = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)


def _reflected() -> DescriptorPool:
    """The contract's pool with gRPC's own services, which every server has too, and the details of errors."""
    pool = default_google_proto_descriptor_pool
    for file in (
        health_pb2.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
        duration_pb2.DESCRIPTOR,
        error_details_pb2.DESCRIPTOR,
    ):
        pool.AddSerializedFile(file.serialized_pb)  # adding the same file again is harmless
    return pool
