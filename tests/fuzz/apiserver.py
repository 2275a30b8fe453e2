"""The embedded API server: paths, queries, bodies, patches, selectors and schemas, and the server as a whole."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import msgspec
from apiserver import jsonpath, negotiation, protobuf, requests, selectors, times
from apiserver.auth import Tokens, User
from apiserver.builtins import definition_schema
from apiserver.errors import ApiError
from apiserver.patch import fields
from apiserver.patch.jsonpatch import PatchError, PatchMismatch, json_patch, merge_patch
from apiserver.patch.strategic import strategic_patch
from apiserver.schema import structure
from apiserver.schema.nodes import compile_schema
from apiserver.schema.shaping import apply_defaults, prune
from apiserver.schema.validation import validate, walk
from apiserver.server import running
from apiserver.store import Store
from kinds.crds import crd
from kinds.registry import KINDS

from fuzz.registry import UnfitError, parts, target, text

# -- bodies ------------------------------------------------------------------------------------------------------------

JSON = "application/json"
MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}}, "data": {"x": "1"}}
YAML = "apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: a}\ndata: {x: '1'}\nother: *m\nn: 1e3\n"


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + _varint(number >> 7) if number > 0x7F else bytes([number])


def _protobuf() -> bytes:
    meta = _field(1, b"a") + _field(3, b"default") + _field(11, _field(1, b"k") + _field(2, b"v"))
    meta += _field(8, b"\x08" + _varint(1_753_000_000))
    raw = _field(1, meta) + _field(2, _field(1, b"x") + _field(2, b"1"))
    return protobuf.MAGIC + _field(1, _field(1, b"v1") + _field(2, b"ConfigMap")) + _field(2, raw)


@target("apiserver.body", [json.dumps(MAP), YAML, _protobuf()], refuses=(ApiError,), inputs=600)
def body(data: bytes, decode: Callable[[bytes, str], Any] = requests.decode_body) -> None:
    """A body is JSON, in whatever form it came: it can be stored and sent."""
    refused = 0
    for kind in ("application/json", "application/yaml", protobuf.MEDIA_TYPE):
        try:
            found = decode(data, kind)
        except ApiError:
            refused += 1
            continue
        assert msgspec.json.decode(msgspec.json.encode(found)) == found
    requests.duplicate_fields(data)
    if refused == 3:
        raise UnfitError


def _sent(data: bytes) -> Any:  # Any: JSON
    """What the server makes of a body before anything else looks at it."""
    try:
        return requests.decode_body(data, JSON)
    except ApiError:
        raise UnfitError from None


# -- patches -----------------------------------------------------------------------------------------------------------

PATCHED = {"a": {"b": [1, {"c": "d"}, [2]], "e": None}, "f": "g", "~/": 1}
OPERATIONS = [
    {"op": "add", "path": "/a/b/-", "value": {"x": 1}}, {"op": "remove", "path": "/f"},
    {"op": "test", "path": "/a/b/0", "value": 1},
    {"op": "move", "from": "/a/e", "path": "/h"}, {"op": "copy", "from": "/a/b", "path": "/i"},
    {"op": "replace", "path": "/a/b/1/c", "value": "z"}, {"op": "add", "path": "/~0~1", "value": []},
]  # fmt: skip


@target("apiserver.json-patch", [json.dumps(OPERATIONS)], refuses=(PatchError, PatchMismatch), inputs=600)
def a_json_patch(data: bytes) -> None:
    """All operations or none: the object that is patched is never touched itself."""
    before = json.dumps(PATCHED)
    operations = _sent(data)
    try:
        json.dumps(json_patch(PATCHED, operations))
    finally:
        assert json.dumps(PATCHED) == before


@target(
    "apiserver.merge-patch", [json.dumps({"t": PATCHED, "p": {"a": {"b": None, "x": {"y": None}}, "f": 1}})], inputs=500
)
def a_merge_patch(data: bytes, merge: Callable[[Any, Any], Any] = merge_patch) -> None:
    """Twice is once, what is not named stays, what is null is gone (RFC 7386)."""
    given = _sent(data)
    given = given if isinstance(given, dict) else {}
    before, patch = given.get("t"), given.get("p")
    kept = json.dumps(before)
    after = merge(before, patch)
    assert merge(after, patch) == after
    assert json.dumps(before) == kept
    if isinstance(patch, dict):
        old = before if isinstance(before, dict) else {}
        assert all(after[key] == each for key, each in old.items() if key not in patch)
        assert not any(key in after for key, each in patch.items() if each is None)


STRATEGIC = {
    "metadata": {"labels": {"a": None}, "finalizers": ["x"], "$deleteFromPrimitiveList/finalizers": ["y"]},
    "spec": {
        "ports": [{"port": 80, "name": "w"}, {"$patch": "delete", "port": 81}],
        "$setElementOrder/ports": [{"port": 80}],
    },
    "$retainKeys": ["metadata", "spec"],
}  # fmt: skip
SERVICE = {"metadata": {"name": "a", "finalizers": ["y"]}, "spec": {"ports": [{"port": 81}, {"port": 80}]}}


@target("apiserver.strategic-patch", [json.dumps(STRATEGIC)], refuses=(PatchError,), inputs=500)
def a_strategic_patch(data: bytes) -> None:
    """A directive that is malformed is refused; the object that is patched is never touched itself."""
    before = json.dumps(SERVICE)
    patch = _sent(data)
    try:
        json.dumps(strategic_patch(PORTS, SERVICE, patch))
    finally:
        assert json.dumps(SERVICE) == before


PORTS = compile_schema(
    {
        "type": "object",
        "properties": {
            "metadata": {
                "type": "object",
                "properties": {
                    "finalizers": {
                        "type": "array",
                        "items": {"type": "string"},
                        "x-kubernetes-patch-strategy": "merge",
                    },
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "spec": {
                "type": "object",
                "properties": {
                    "ports": {
                        "type": "array",
                        "items": {"type": "object", "properties": {"port": {"type": "integer"}}},
                        "x-kubernetes-patch-strategy": "merge",
                        "x-kubernetes-patch-merge-key": "port",
                    }
                },
            },
        },
    },
    builtin=True,
)

MANAGED = {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {'k:{"port":80}': {"f:port": {}}, 'v:"x"': {}}}


@target("apiserver.managed-fields", [json.dumps(MANAGED)], refuses=(ValueError,))
def managed(data: bytes) -> None:
    """Fields that a manager claims come back as they were claimed."""
    found = fields.from_wire(_sent(data))
    assert fields.from_wire(fields.to_wire(found)) == found
    for each in found:
        fields.show(each)


# -- queries -----------------------------------------------------------------------------------------------------------

SELECTORS = ("a=b,c!=d,e in (f,g),!h,i,j>3,k notin (l)", "app.kubernetes.io/name==web", "a,b,c")


@target("apiserver.selector", SELECTORS, bad=["x<-1", "a in"], refuses=(ApiError,), inputs=600)
def selector(data: bytes, parse: Callable[[str], list[selectors.Requirement]] = selectors.parse_labels) -> None:
    """A selector chooses, whatever the labels are."""
    found = parse(text(data))
    for labels in ({}, {"a": "b", "j": "5", "x": "-3", "k": "9" * 60}):
        assert all(term.matches(labels) in (True, False) for term in found)


@target("apiserver.field-selector", ["metadata.name=a,type!=Normal", r"a==b\,c", "x="], refuses=(ApiError,))
def field_selector(data: bytes) -> None:
    """A field selector looks at any object."""
    for term in selectors.parse_fields(text(data), lambda _: True):
        assert isinstance(selectors.field_text(selectors.lookup({"metadata": {"name": "a"}, "a": 1}, term.path)), str)


PATHS = (
    ".status.conditions[?(@.type=='Ready')].status", "{.spec.a}", ".a['b.c'][0]", ".a[-1:2]", "..b", "$.a[*].b",
    ".a[?(@.b>1.5)]", r".metadata.labels.a\.b",
)  # fmt: skip
FOUND = {
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    "spec": {"a": 1},
    "a": [{"b": 1}, {"b": [2]}, "c"],
}


@target("apiserver.jsonpath", PATHS, refuses=(ValueError,), inputs=600)
def path(data: bytes) -> None:
    """A path finds values in any object, or is refused."""
    find = jsonpath.compile_path.__wrapped__(text(data)[:2000])
    for obj in (FOUND, [], "x", None):
        assert isinstance(find(obj), list)


ACCEPTED = ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "*/*", "application/yaml")


@target("apiserver.accept", ACCEPTED, bad=["text/html;q=0.9"], refuses=(ApiError,))
def accept(data: bytes) -> None:
    """What a client accepts is a form of ours, or none."""
    assert negotiation.choose(data.decode("latin-1"), "plain", "table", "partial").content_type


@target(
    "apiserver.path",
    ["/apis/infra.virtrigaud.io/v1beta1/namespaces/d/virtualmachines/web/status", "/api/v1/watch/pods"],
)
def url(data: bytes) -> None:
    """A path names a resource, or nothing."""
    found = requests.parse_path(text(data))
    assert found is None or (found.version and "/" not in found.name)


@target("apiserver.time", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456+01:00", "0001-01-01T00:00:00Z"])
def time(data: bytes) -> None:
    """An age of anything."""
    assert times.age(text(data), 1_753_000_000.0)


# -- schemas -----------------------------------------------------------------------------------------------------------

MACHINE = compile_schema(crd(KINDS["VirtualMachine"])["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
VM = {
    "apiVersion": "infra.virtrigaud.io/v1beta1", "kind": "VirtualMachine", "metadata": {"name": "web"},
    "spec": {
        "providerRef": {"name": "p"}, "classRef": {"name": "c"}, "imageRef": {"name": "i"}, "powerState": "On",
        "networks": [{"name": "lan", "ipAddress": "192.0.2.7", "prefix": 24}], "disks": [{"name": "d", "sizeGiB": 1}],
        "tags": ["a"], "resources": {"cpu": 2, "memoryMiB": 512},
    },
}  # fmt: skip


@target("apiserver.validation", [json.dumps(VM)], inputs=500)
def validation(data: bytes) -> None:
    """Any object is pruned, defaulted and judged; each fault names its field."""
    obj = _sent(data)
    if not isinstance(obj, dict):
        raise UnfitError
    prune(MACHINE, obj)
    apply_defaults(MACHINE, obj)
    for cause in validate(MACHINE, obj):
        assert cause.message


PROPS = definition_schema("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5, "default": "x"},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 1}, "x-kubernetes-list-type": "set"},
        "c": {"type": "object", "additionalProperties": {"type": "number"}, "nullable": True},
        "d": {"x-kubernetes-int-or-string": True}, "e": {"type": "string", "enum": ["q", "r"], "format": "date-time"},
    },
    "required": ["a"], "x-kubernetes-validations": [{"rule": "self.a != 'y'", "message": "no"}],
}  # fmt: skip


@target("apiserver.schema", [json.dumps(SCHEMA)], refuses=(RecursionError,), inputs=400)
def schema(data: bytes) -> None:
    """A schema is structural, or each reason against it is told."""
    given = _sent(data)
    if not isinstance(given, dict) or validate(PROPS, given):
        raise UnfitError  # the definition of definitions refuses it first
    if structure.faults(given, "schema") == []:
        list(walk(compile_schema(given), {"a": "abc", "b": [1, 1], "c": {"k": 1}}, "", root=True))


# -- the server as a whole ---------------------------------------------------------------------------------------------

NAMESPACE = "/api/v1/namespaces/default/configmaps"
KEPT = f"{NAMESPACE}/kept"
VMS = "/apis/infra.virtrigaud.io/v1beta1/namespaces/default/virtualmachines"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")


def _request(method: str, url: str, kind: str, content: bytes | str) -> bytes:
    content = content if isinstance(content, bytes) else content.encode()
    return b"\0".join((method.encode(), url.encode(), kind.encode(), content))


REQUESTS = [
    _request("POST", NAMESPACE, JSON, json.dumps(MAP)),
    _request("POST", VMS, JSON, json.dumps(VM)),
    _request("GET", f"{VMS}?labelSelector=a%3Db,c&fieldSelector=metadata.name%3Dweb&limit=1&continue=x", JSON, ""),
    _request("PATCH", f"{NAMESPACE}/kept", "application/merge-patch+json", '{"data": {"x": "2", "y": null}}'),
    _request(
        "PATCH", f"{NAMESPACE}/kept", "application/json-patch+json", '[{"op": "add", "path": "/data/z", "value": "1"}]'
    ),
    _request(
        "PATCH",
        f"{NAMESPACE}/kept?fieldManager=me&force=true",
        "application/apply-patch+yaml",
        YAML.replace("other", "x"),
    ),
    _request(
        "PATCH",
        f"{NAMESPACE}/kept",
        "application/strategic-merge-patch+json",
        json.dumps({"data": {"$patch": "replace"}}),
    ),
    _request("PUT", f"{VMS}/web/status", JSON, json.dumps(VM)),
    _request("POST", CRDS, JSON, json.dumps(crd(KINDS["VMClass"]))),
    _request(
        "DELETE", f"{NAMESPACE}/a", JSON, '{"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "x"}}'
    ),
    _request("GET", "/openapi/v3/apis/infra.virtrigaud.io/v1beta1", JSON, ""),
    _request("POST", NAMESPACE, protobuf.MEDIA_TYPE, _protobuf()),
]


class Whole:
    """A server in this process, made for the first request and kept for all."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._directory = tempfile.TemporaryDirectory()
        self._app: Any = None
        self._live: asyncio.Task[None] | None = None

    def ask(self, method: str, url: str, kind: str, content: bytes) -> tuple[int, bytes]:
        """Status and body of an answer; b"" for a watch, which goes on."""
        return self._loop.run_until_complete(self._ask(method, url, kind, content))

    def close(self) -> None:
        """End it."""
        if self._live is not None:
            self._over.set()
            self._loop.run_until_complete(self._live)
        self._loop.close()
        self._directory.cleanup()

    async def _start(self) -> None:
        ready: asyncio.Future[Any] = self._loop.create_future()

        async def live() -> None:
            tokens = Tokens([("token", User("admin", "1", ("system:masters", "system:authenticated")))])
            store = Store(Path(self._directory.name, "data"))
            async with running(store, tokens, crds=Path(__file__).parents[2] / "deploy" / "crds") as made:
                ready.set_result(made.application)
                await self._over.wait()

        self._live = self._loop.create_task(live())
        self._app = await ready

    async def _ask(self, method: str, url: str, kind: str, content: bytes) -> tuple[int, bytes]:
        if self._app is None:
            await self._start()
            for name in ("kept", "a"):
                await self._ask("POST", NAMESPACE, JSON, json.dumps(MAP | {"metadata": {"name": name}}).encode())
        path, _, query = url.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
            "path": path, "raw_path": path.encode("latin-1", "replace"), "root_path": "",
            "query_string": query.encode("latin-1", "replace"),
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 443),
            "headers": [(b"authorization", b"Bearer token"), (b"content-type", kind.encode("latin-1", "replace"))],
        }  # fmt: skip
        inbox, status, body = [{"type": "http.request", "body": content, "more_body": False}], 0, b""
        answered = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
                if "watch" in url:
                    answered.set()
            body += message.get("body", b"")

        async with asyncio.timeout(60):
            await self._app(scope, receive, send)
        return status, body


_whole: Whole | None = None


@target("apiserver.request", REQUESTS, inputs=600)
def request(data: bytes) -> None:
    """Never a 500, never a hang; what is refused says why in a Status, and what was there stays readable."""
    global _whole
    _whole = _whole or Whole()
    method, url, kind, content = parts(data, 4)
    known = method.decode("latin-1") if method in METHODS else "GET"
    address = quote_from_bytes(url, "/%?&=;,:@!$'()*+~[]") if url.startswith(b"/") else NAMESPACE
    if "watch" in address and known == "GET":
        address += "&timeoutSeconds=1"
    status, body = _whole.ask(known, address, kind.decode("latin-1"), content)
    assert status not in (0, 500), body
    if status >= 400:
        told = json.loads(body)
        assert (told["kind"], told["status"], told["code"]) == ("Status", "Failure", status)
        assert told["message"]
    status, body = _whole.ask("GET", NAMESPACE, JSON, b"")
    assert status == 200
    assert json.loads(body)["kind"] == "ConfigMapList"


def close() -> None:
    """End the server, if one was made."""
    global _whole
    if _whole is not None:
        _whole.close()
        _whole = None
