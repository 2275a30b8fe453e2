"""Who may call, asked at each call, and of open streams again and again: innermost of what surrounds a call.

A handshake looks at a certificate once, and a connection may stand for months. So each call is held against what is
true now: the certificate's end, and the authorities in today's CA file. A stream is ended when that changes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from common import logging
from common.errors import CertificateLapsedError, ClientRefusedError
from common.rpc.interceptors import Around, Behaviour, abort
from common.tls import Callers, peer_names

log = logging.get(__name__)
T = TypeVar("T")

LOOK_EVERY = 5.0
"""Seconds between two looks at the certificate files and at the clients of open streams."""

MayCall = Callable[[frozenset[str], str], bool]
"""Whether a client with these names may call the method, which is written "/package.Service/Method"."""


@dataclass(frozen=True, slots=True)
class _Peer:
    """The other end of a connection."""

    address: str
    auth: dict[str, Any]
    """What gRPC knows of its certificate; Any: bytes by name."""

    @property
    def names(self) -> frozenset[str]:
        return peer_names(self.auth)

    @property
    def shown(self) -> str:
        return ", ".join(sorted(self.names)) or "without a name"


@dataclass(slots=True)
class _Wait:
    """Work on a call that goes on for as long as its client holds."""

    peer: _Peer
    problem: str = ""
    """Why it was ended."""


class Peers(Around):
    """Lets only clients in whose certificate holds and carries one of these names, and only to what they may call."""

    def __init__(self, allowed: Collection[str], callers: Callers, may_call: MayCall | None = None) -> None:
        self._allowed, self._callers, self._may_call = frozenset(allowed), callers, may_call
        self._waiting: dict[asyncio.Timeout, _Wait] = {}
        """By what ends the waiting."""

    async def run(self) -> None:
        """Take up changed files, and end the streams of clients that do not hold any more, until cancelled."""
        while True:
            await self._callers.clock.sleep(LOOK_EVERY)
            self._callers.refresh()
            for scope, wait in self._waiting.items():
                wait.problem = wait.problem or self._callers.problem(wait.peer.auth)
                if wait.problem:
                    scope.reschedule(asyncio.get_running_loop().time())

    def unary(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> Any:
            peer = self._admit(context, method)
            if hasattr(request, "__aiter__"):  # it lasts for as long as the client goes on
                return await self._kept(peer, method, inner(request, context))
            return await inner(request, context)

        return call

    def stream(self, inner: Behaviour, method: str) -> Behaviour:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            peer = self._admit(context, method)
            answers = inner(request, context)
            try:
                while True:
                    try:
                        answer = await self._kept(peer, method, anext(answers))
                    except StopAsyncIteration:
                        return
                    self._hold(peer, method)
                    yield answer
            finally:
                await answers.aclose()

        return call

    def foreign(self, inner: Behaviour, method: str) -> Behaviour:
        """Health and reflection: a stream of theirs may be a coroutine that writes."""
        if inspect.isasyncgenfunction(inner):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    async for answer in self.stream(inner, method)(request, context):
                        yield answer
                except (ClientRefusedError, CertificateLapsedError) as error:
                    await abort(error, method, context)

            return stream

        async def call(request: Any, context: Any) -> Any:
            try:
                peer = self._admit(context, method)
                return await self._kept(peer, method, inner(request, context))
            except (ClientRefusedError, CertificateLapsedError) as error:
                await abort(error, method, context)

        return call

    async def _kept(self, peer: _Peer, method: str, work: Awaitable[T]) -> T:
        """Wait for something, for as long as the client holds.

        Raises:
            CertificateLapsedError: it does not any more; the work was cancelled.
        """
        wait = _Wait(peer)
        try:
            # Only around what waits in here: a cancellation that struck gRPC's own write would leave the call open.
            async with asyncio.timeout(None) as scope:
                self._waiting[scope] = wait
                try:
                    return await work
                finally:
                    del self._waiting[scope]
        except TimeoutError:
            if scope.expired():
                raise _lapsed(peer, method, wait.problem) from None
            raise

    def _hold(self, peer: _Peer, method: str) -> None:
        """Raises: CertificateLapsedError: the peer's certificate does not hold any more."""
        if problem := self._callers.problem(peer.auth):
            raise _lapsed(peer, method, problem)

    def _admit(self, context: Any, method: str) -> _Peer:
        """Raises: ClientRefusedError, CertificateLapsedError."""
        peer = _Peer(context.peer(), context.auth_context())
        known = peer.names & self._allowed
        if not known:
            log.warning("rpc.peer.refused", peer=peer.address, names=sorted(peer.names), method=method)
            raise ClientRefusedError(
                f"the client's certificate ({peer.shown}) is not among those that this server lets in "
                f"({', '.join(sorted(self._allowed))}): add it to the server's allowed_clients, or use another one"
            )
        self._hold(peer, method)
        if self._may_call is not None and not self._may_call(known, method):
            log.warning("rpc.call.forbidden", peer=peer.address, names=sorted(peer.names), method=method)
            raise ClientRefusedError(
                f"{method} is not for a client like this ({peer.shown}): use the certificate of one that may call it"
            )
        return peer


def _lapsed(peer: _Peer, method: str, problem: str) -> CertificateLapsedError:
    log.warning("rpc.peer.lapsed", peer=peer.address, names=sorted(peer.names), method=method, problem=problem)
    return CertificateLapsedError(f"the client's certificate ({peer.shown}) {problem}")
