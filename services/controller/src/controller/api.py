"""The Kubernetes API as bytes and typed objects; `kubernetes.aio` supplies configuration, TLS and authentication only.

Every call has a deadline. What the server refuses arrives as one of the errors below, never as an aiohttp exception.
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

T = TypeVar("T")

JSON = "application/json"
MERGE = "application/merge-patch+json"
TIMEOUT = 30.0
"""Seconds for an ordinary call."""


class ApiError(Exception):
    """The API server refused or failed; `status` is the HTTP code, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class ConflictError(ApiError):
    """409: somebody changed the object since it was read, or it exists already."""


class NotFoundError(ApiError):
    """404: there is no such object (or no such kind)."""


class ExpiredError(ApiError):
    """410: the resource version or the page token is too old; list anew."""


class RefusedError(ApiError):
    """400, 403, 422: repeating the call as it stands does not help."""


class ApiUnavailableError(ApiError):
    """No answer, no answer in time, 429 or 5xx: try again later."""


@dataclass(frozen=True)
class Resource(Generic[T]):
    """Where objects of one kind live, and the type that they decode into."""

    api_version: str
    kind: str
    plural: str
    type: type[T]
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path; without a namespace the collection over all of them."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


class _Status(msgspec.Struct, gc=False):
    """metav1.Status, as far as an error needs it."""

    class Details(msgspec.Struct, gc=False):
        retry_after_seconds: int | None = msgspec.field(name="retryAfterSeconds", default=None)

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


def error_from(status: int, body: bytes, what: str, retry_after: str = "") -> ApiError:
    """The error for an HTTP answer; tolerates bodies that are no metav1.Status (a proxy's HTML)."""
    try:
        told = msgspec.json.decode(body, type=_Status)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        told = _Status(message=body[:200].decode(errors="replace"))
    wait = told.details.retry_after_seconds if told.details is not None else None
    if wait is None and retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10:
        wait = int(retry_after)
    kinds: dict[int, type[ApiError]] = {404: NotFoundError, 409: ConflictError, 410: ExpiredError}
    kind = kinds.get(status, ApiUnavailableError if status in (0, 401, 408, 429) or status >= 500 else RefusedError)
    return kind(f"{what}: {told.message or status}", status, told.reason, None if wait is None else float(wait))


Asked = Callable[[str, str, int, float | None], None]


def _nobody(verb: str, resource: str, status: int, seconds: float | None) -> None:
    """Nobody counts."""


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """A request in Kubernetes' words, without names of objects: ("patch", "virtualmachines/status")."""
    parts = path.strip("/").split("/")
    parts = parts[2 if parts[0] == "api" else 3 :]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    plural, name, subresource = (*parts, "", "", "")[:3]
    verb = {"POST": "create", "PUT": "update"}.get(method, method.lower())
    if verb == "get" and not name:
        verb = "list"
    return verb, f"{plural}/{subresource}" if subresource else plural


class Api:
    """One API server."""

    def __init__(self, session: aiohttp.ClientSession, configuration: Any, asked: Asked = _nobody) -> None:
        """Speak through a session.

        Args:
            configuration: a kubernetes.aio Configuration; untyped there.
            asked: told of each request: verb, resource, HTTP status (0 for no answer), seconds (None for a watch).
        """
        self._session, self._asked = session, asked
        self._configuration = configuration
        self._may_write: Callable[[], bool] = lambda: True
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {}

    def guarded(self, may_write: Callable[[], bool]) -> Api:
        """The same server for one that writes only while it may: asked each time, as a task that is to end runs on."""
        guarded = copy.copy(self)
        guarded._may_write = may_write
        return guarded

    def check(self, method: str, what: str) -> None:
        """Raises: ApiUnavailableError: it is a write, and we may not."""
        if method != "GET" and not self._may_write():
            raise ApiUnavailableError(f"{what}: not sent, we lead no more")

    # -- typed calls -----------------------------------------------------------------------------------------------

    async def get(self, resource: Resource[T], namespace: str, name: str) -> T | None:
        """The object, or None when there is none."""
        try:
            body = await self.request("GET", resource.path(namespace, name))
        except NotFoundError:
            return None
        return self._decode(resource, body)

    async def create(self, resource: Resource[T], namespace: str, manifest: Mapping[str, Any]) -> T:
        """Create an object from its manifest."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
        answer = await self.request("POST", resource.path(namespace), body=body)
        return self._decode(resource, answer)

    async def patch(
        self, resource: Resource[T], namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> T:
        """JSON merge patch (RFC 7396)."""
        path = resource.path(namespace, name, subresource)
        return self._decode(resource, await self.request("PATCH", path, body=patch, content_type=MERGE))

    def _decode(self, resource: Resource[T], body: bytes) -> T:
        decoder = self._decoders.get(resource.type)
        if decoder is None:
            decoder = self._decoders[resource.type] = msgspec.json.Decoder(resource.type)
        try:
            decoded: T = decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RefusedError(f"{resource.kind}: the API server's answer does not decode: {error}") from error
        return decoded

    # -- bytes -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float = TIMEOUT,
    ) -> bytes:
        """One call, answered with the whole body. Raises: ApiError."""
        what, begun, status = f"{method} {path}", time.monotonic(), 0
        self.check(method, what)
        try:
            async with self._open(method, path, params, body, content_type, accept, timeout) as response:
                answer = await response.read()
                status = response.status
                if response.status >= 400:
                    raise error_from(response.status, answer, what, response.headers.get("Retry-After", ""))
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailableError(f"{what}: {error or 'no answer in time'}") from error
        finally:
            self._asked(*verb_and_resource(method, path), status, time.monotonic() - begun)

    async def lines(self, path: str, params: Mapping[str, str], timeout: float) -> AsyncIterator[bytes]:
        """The lines of a streamed answer until the server ends it.

        Args:
            timeout: seconds after which the server should have ended it: it is away if it has not.
        Raises:
            ApiError: it was refused, or broke.
        """
        rest, (_, resource) = b"", verb_and_resource("GET", path)
        try:
            async with self._open("GET", path, params, None, JSON, JSON, timeout) as response:
                self._asked("watch", resource, response.status, None)
                if response.status >= 400:
                    raise error_from(response.status, await response.read(), f"GET {path}")
                async for chunk in response.content.iter_any():
                    *complete, rest = (rest + chunk).split(b"\n")
                    for line in complete:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._asked("watch", resource, 0, None)
            raise ApiUnavailableError(f"watch {path}: {error or 'it has not ended in time'}") from error

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        accept: str,
        timeout: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": accept, "User-Agent": "virtrigaud-controller"}
        for setting in (await self._configuration.auth_settings()).values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        data = None
        if body is not None:
            data, headers["Content-Type"] = msgspec.json.encode(body), content_type
        url = self._configuration.host.rstrip("/") + path + (f"?{urlencode(params)}" if params else "")
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=10.0)
        async with self._session.request(method, url, headers=headers, data=data, timeout=limit) as response:
            yield response


@asynccontextmanager
async def connect(kubeconfig: str = "", context: str = "", asked: Asked = _nobody) -> AsyncIterator[Api]:
    """An Api from a kubeconfig file, or, when none is named, from the pod's service account, else ~/.kube/config.

    Raises:
        ValueError: no usable configuration; the message says what was tried.
    """
    # Imported here: kubernetes.aio takes about a second, which --help need not wait for.
    from kubernetes.aio import client, config

    configuration = client.Configuration()
    path = kubeconfig or os.environ.get("KUBECONFIG") or _home_kubeconfig()
    try:
        if not kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # it has no types
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]  # it has no types
                path, context or None, client_configuration=configuration
            )
    except config.ConfigException as error:
        raise ValueError(f"no usable kubeconfig: {error}; give one with --kubeconfig") from error
    if not _proxied(configuration.host):
        # Otherwise aiohttp looks for proxies anew, and parses ~/.netrc twice, for every single request.
        configuration.client_session_kwargs = {"trust_env": False}
    transport = client.ApiClient(configuration)
    async with transport:
        # The library's own pool: it carries client certificates, CA and proxy as the kubeconfig says.
        session = transport.rest_client._create_pool_manager()
        async with session:
            yield Api(session, configuration, asked)
            # aiohttp closes TLS connections on the loop's next turns; leaving at once would warn about them.
            await asyncio.sleep(0)


def _proxied(url: str) -> bool:
    """Whether the environment names a proxy for this server."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


def _home_kubeconfig() -> str:
    return str(Path("~/.kube/config").expanduser())
