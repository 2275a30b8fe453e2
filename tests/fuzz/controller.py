"""The controller: lists and watch lines of the API server, its refusals, and what is cut out of messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from common.clock import Clock
from controller.api import ApiError, Resource, error_from
from controller.badobjects import _conditions, providers_of
from controller.informer import BadObject, Informer
from controller.runtime.arguments import PASSWORD
from controller.runtime.external import _ADDRESS
from controller.secrets import SHORTEST, scrub
from kinds.compose import BootSources
from kinds.virtualmachine import VirtualMachine

from fuzz.registry import CANARY, parts, target, text, utf8

VMS = Resource("infra.virtrigaud.io/v1beta1", "VirtualMachine", "virtualmachines", VirtualMachine)


def _vm(name: str, version: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": version, "generation": 1}
    refs = {"providerRef": {"name": "p"}, "classRef": {"name": "c"}, "imageRef": {"name": "i"}}
    head = {"apiVersion": VMS.api_version, "kind": VMS.kind, "metadata": meta}
    return {**head, "spec": {**refs, "networks": [{"name": "lan"}], **spec}, "status": {"phase": "Ready"}}


LIST = {"metadata": {"resourceVersion": "5", "continue": ""}, "items": [_vm("a", "3"), _vm("bad", "4", networks=7)]}
EVENTS = [
    {"type": "ADDED", "object": _vm("b", "6")},
    {"type": "MODIFIED", "object": _vm("a", "7", powerState="Off")},
    {"type": "BOOKMARK", "object": {"kind": "VirtualMachine", "metadata": {"resourceVersion": "8"}}},
    {"type": "DELETED", "object": _vm("b", "9")},
    {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}},
]
WATCH = json.dumps(LIST) + "\0" + "\n".join(map(json.dumps, EVENTS)) + "\n"


class _OverError(Exception):
    """All was said."""


class _Server:
    """Says a list, then the lines of a watch, then nothing more."""

    def __init__(self, body: bytes, lines: bytes) -> None:
        self._body, self._lines, self._lists = body, [line for line in lines.split(b"\n") if line], 0

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        self._lists += 1
        if self._lists > 20:
            raise _OverError
        return self._body

    async def lines(self, path: str, params: Mapping[str, str], timeout: float) -> AsyncIterator[bytes]:
        if not self._lines:
            raise _OverError
        while self._lines:
            yield self._lines.pop(0)


class _Hurry(Clock):
    """Nobody waits."""

    def monotonic(self) -> float:
        return 0.0

    def now(self) -> Any:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0


@target("controller.informer", [WATCH], inputs=1500)
def informer(data: bytes, informer: type[Informer[VirtualMachine]] = Informer) -> None:
    """Whatever the API server sends, the cache goes on: one bad object or line never ends the controller."""
    body, lines = parts(data, 2)
    server = _Server(body, lines)
    one = informer(server, VMS, _Hurry(), random.Random(1))  # type: ignore[arg-type]  # as much of an Api as it uses
    seen: dict[tuple[str, str], VirtualMachine] = {}

    def note(before: VirtualMachine | None, after: VirtualMachine | None) -> None:
        name = (after or before).metadata  # type: ignore[union-attr]  # one of them is there
        assert seen.get((name.namespace, name.name)) is before
        if after is None:
            del seen[name.namespace, name.name]
        else:
            seen[name.namespace, name.name] = after

    one.subscribe(note)

    async def run() -> None:
        with contextlib.suppress(_OverError):
            await one.run()

    asyncio.run(run())
    assert {(item.metadata.namespace, item.metadata.name): item for item in one.values()} == seen


@target("controller.watch-only", [WATCH.partition("\0")[2]], inputs=600)
def watch(data: bytes) -> None:
    """The same, of a watch behind a list that is sound."""
    informer(json.dumps(LIST).encode() + b"\0" + data.replace(b"\0", b""))


@target("controller.bad-object", [json.dumps(_vm("a", "1", networks=7))], inputs=400)
def bad_object(data: bytes) -> None:
    """What does not decode still says which providers it names."""
    server = Informer(None, VMS, _Hurry(), random.Random(1))  # type: ignore[arg-type]  # nothing is asked
    try:
        name = server._take(msgspec.Raw(data))
    except ApiError:
        return
    bad = server.bad.get(name)
    assert (bad is None) is (server.get(*name) is not None)
    if isinstance(bad, BadObject):
        assert bad.error
        assert all(isinstance(each, str) for pair in providers_of(bad) for each in pair)
        _conditions(bad.raw)


STATUS = {"kind": "Status", "message": "no", "reason": "NotFound", "code": 404, "details": {"retryAfterSeconds": 1}}


@target("controller.refusal", [json.dumps(STATUS) + "\x003", "<html>bad gateway</html>\0"], inputs=400)
def refusal(data: bytes) -> None:
    """Any answer becomes an error of ours; a wait is a number of seconds."""
    body, wait = parts(data, 2)
    for status in (400, 404, 409, 410, 429, 500, 503):
        error = error_from(status, body, "GET /x", wait.decode("latin-1"))
        assert isinstance(error, ApiError)
        assert error.retry_after is None or isinstance(error.retry_after, float)


@target("controller.scrub", [f"refused: {CANARY} is no key\0#cloud-config\npassword: {CANARY}\nruncmd: [x]\n"])
def scrubbed(data: bytes) -> None:
    """No line of the boot data, and no value in one, is left in a message."""
    message, boot = (text(part) for part in parts(data, 2))
    found = scrub(message, BootSources(user_data=boot))
    for line in boot.splitlines():
        secret = line.strip()
        assert len(secret) < SHORTEST or secret not in found or secret in "[redacted]"


ADDRESSES = (
    "host.example:9443",
    "[2001:db8::1]:9443",
    "unix:/run/p.sock",
    "qemu+ssh://me:secret@host/system",
    "//a:b/c@d",
)


@target("controller.address", ADDRESSES)
def address(data: bytes) -> None:
    """Long addresses are judged as fast as short ones; a password before a host is seen."""
    given = utf8(data)
    _ADDRESS.fullmatch(given)
    PASSWORD.search(given)
    host = re.sub(r"[/?#@:\[\]\s]", "", given)[:50]
    assert PASSWORD.search(f"qemu+ssh://{host}:secret@host/system")
