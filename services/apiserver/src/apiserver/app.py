"""The ASGI application: routing, authentication, errors, metrics."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import msgspec
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from . import discovery, errors
from .auth import Tokens, User
from .errors import ApiError
from .handlers import Handlers, accept_of
from .negotiation import choose, forms
from .openapi import Documents
from .operations import Operations
from .requests import Target, parse_path
from .settings import NAME

log = structlog.get_logger(__name__)
GO_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
"""Go's names for machines where they differ from the kernel's."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bucket bounds: few, as there are as many series as verbs and resources of each."""
OPEN = ("/healthz", "/livez", "/readyz")


def version_info() -> dict[str, str]:
    """Return what `/version` tells; clients demand every field, and what has no build of its own stays empty."""
    machine = platform.machine().lower()
    return {
        "major": "1",
        "minor": "32",
        "gitVersion": "v1.32.4+virtrigaud",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": platform.python_implementation().lower(),
        "platform": f"{platform.system().lower()}/{GO_MACHINES.get(machine, machine)}",
    }


class Metrics:
    """What /metrics shows."""

    def __init__(self, revision: Callable[[], int]) -> None:
        """Make a registry of our own: two servers in one process do not share it."""
        self.registry = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=self.registry)
        build = Gauge(
            "virtrigaud_build_info",
            "Constantly 1; the labels say what runs",
            ("service", "version", "python"),
            registry=self.registry,
        )
        build.labels(NAME, version(NAME), platform.python_version()).set(1)
        self.requests = Counter(
            "apiserver_requests", "Requests answered", ("verb", "resource", "code"), registry=self.registry
        )
        self.seconds = Histogram(
            "apiserver_request_duration_seconds",
            "Time to answer, watches aside",
            ("verb", "resource"),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.watches = Gauge("apiserver_watches", "Open watches", registry=self.registry)
        Gauge("apiserver_store_revision", "Newest revision", registry=self.registry).set_function(revision)


OPENAPI_V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


class Application:
    """Answers HTTP requests."""

    def __init__(self, operations: Operations, tokens: Tokens, stopping: asyncio.Event) -> None:
        """Bind to the operations."""
        self._ops = operations
        self._tokens = tokens
        self._stopping = stopping
        self._handlers = Handlers(operations, stopping)
        self._documents = Documents(operations.registry)
        self.metrics = Metrics(lambda: operations.store.revision)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever goes wrong becomes a `Status`."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        started = time.monotonic()
        target = parse_path(request.url.path)
        response = await self._answer(request, target)
        verb, watching = _verb(request, target)
        resource = self._known_plural(target)
        self.metrics.requests.labels(verb, resource, str(response.status_code)).inc()
        if watching and response.status_code == 200:
            with self.metrics.watches.track_inprogress():
                await response(scope, receive, send)
        else:
            await response(scope, receive, send)
            self.metrics.seconds.labels(verb, resource).observe(time.monotonic() - started)

    def _known_plural(self, target: Target | None) -> str:
        """Return the plural of a kind that exists; strangers may not make up labels, which are kept for ever."""
        known = target and self._ops.registry.find(target.group, target.version, target.plural)
        return known.plural if known else ""

    async def _answer(self, request: Request, target: Target | None) -> Response:
        try:
            return await self._route(request, target)
        except ApiError as error:
            return _failure(error)
        except ClientDisconnect:
            return _failure(errors.bad_request("the client went away"))
        except RecursionError:
            return _failure(errors.bad_request("the object is nested too deeply"))
        except Exception:
            log.exception("request.defect", method=request.method, path=request.url.path)
            return _failure(errors.internal())

    async def _route(self, request: Request, target: Target | None) -> Response:
        path = request.url.path.rstrip("/") or "/"
        if path.startswith(OPEN) and path.split("/")[1] in ("healthz", "livez", "readyz"):
            if path.startswith("/readyz") and (self._stopping.is_set() or not self._ops.store.writable):
                raise errors.unavailable()
            return Response("ok", media_type="text/plain")
        user = self._tokens.caller(request.headers.get("authorization", ""))
        if user is None:
            raise errors.unauthorized()
        if not user.may_read(path):
            raise errors.forbidden_path(user.name, request.method.lower(), path)
        if target is not None and target.plural:
            return await self._handlers.handle(request, target, user)
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed("", "")
        return self._document(request, path, target, user)

    def _document(self, request: Request, path: str, target: Target | None, user: User) -> Response:
        registry = self._ops.registry
        match path.split("/")[1:]:
            case ["version"]:
                return _json(version_info())
            case ["metrics"]:
                return Response(generate_latest(self.metrics.registry), media_type="text/plain; version=0.0.4")
            case ["api"] | ["apis"]:
                return self._groups(request, core=path == "/api")
            case ["apis", group] if versions := registry.versions().get(group):
                return _json({"kind": "APIGroup", "apiVersion": "v1", **discovery.api_group(group, versions)})
            case ["openapi", "v2"]:
                return self._openapi2(request)
            case ["openapi", "v3"]:
                return Response(self._documents.index(), media_type="application/json")
            case ["openapi", "v3", "api", version]:
                return _found(self._documents.version3("", version))
            case ["openapi", "v3", "apis", group, version]:
                return _found(self._documents.version3(group, version))
            case [""]:
                paths = ["/api", "/api/v1", "/apis", *OPEN, "/metrics", "/openapi/v2", "/openapi/v3", "/version"]
                paths += [f"/apis/{g}/{v}" for g, vs in registry.versions().items() if g for v in vs]
                return _json({"paths": sorted(paths)})
        if target is not None:
            found = discovery.api_resources(registry, target.group, target.version)
            if found is not None:
                return _json(found)
        raise errors.no_such_path()

    def _groups(self, request: Request, *, core: bool) -> Response:
        registry = self._ops.registry
        form = choose(accept_of(request), "plain", "discovery")
        if form.shape == "discovery":
            body = discovery.aggregated(registry, core=core, version=form.version)
            return Response(msgspec.json.encode(body), headers={"content-type": form.content_type})
        return _json(discovery.api_versions() if core else discovery.api_groups(registry))

    def _openapi2(self, request: Request) -> Response:
        if OPENAPI_V2_PROTOBUF in accept_of(request):
            # An empty document is a valid one, and kubectl takes a kind that it does not find there to the server,
            # which validates anyway. Without it, `kubectl apply` fails for a List and for a misspelt kind. Answers
            # have a dot for the @, which Go's MIME parser refuses. Source: kube-openapi, pkg/handler.
            return Response(b"", media_type=OPENAPI_V2_PROTOBUF.replace("@", "."))
        if not forms(accept_of(request)):
            raise errors.not_acceptable("application/json (OpenAPI v2 is not served as protobuf; use /openapi/v3)")
        return Response(self._documents.version2(), media_type="application/json")


def _found(document: bytes | None) -> Response:
    if document is None:
        raise errors.no_such_path()
    return Response(document, media_type="application/json")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _failure(error: ApiError) -> Response:
    body = msgspec.json.encode(error.status())
    return Response(body, error.code, headers=error.headers, media_type="application/json")


def _verb(request: Request, target: Target | None) -> tuple[str, bool]:
    """Return the verb as Kubernetes names it, and whether it is a watch."""
    if target is None or not target.plural:
        return request.method.lower(), False
    if request.method == "GET":
        if target.watch or request.query_params.get("watch") in ("true", "1"):
            return "watch", True
        return ("get" if target.name else "list"), False
    names = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    verb = names.get(request.method, "other")
    return ("deletecollection" if verb == "delete" and not target.name else verb), False
