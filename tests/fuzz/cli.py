"""vrtg: kubeconfigs, state of the stack, answers of API servers, what was applied last, words on a terminal."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vrtg import applying, kubeconfig, terminal
from vrtg.api import Api
from vrtg.failures import CommandError
from vrtg.home import Home
from vrtg.kinds_table import VIRTUAL_MACHINE
from vrtg.kubeconfig import Target
from vrtg.state import StackState

from fuzz.registry import CANARY, target, text, utf8
from fuzz.shapes import value

CA = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
CONFIG = f"""apiVersion: v1
kind: Config
current-context: home
clusters:
- name: c
  cluster: {{server: "https://127.0.0.1:6443/x", certificate-authority-data: {CA}, tls-server-name: h}}
contexts:
- name: home
  context: {{cluster: c, user: u, namespace: shop}}
users:
- name: u
  user: {{token: {CANARY}}}
"""
BASIC = CONFIG.replace(f"token: {CANARY}", f"username: me, password: {CANARY}")
CERTIFICATES = CONFIG.replace(f"token: {CANARY}", f"client-certificate-data: {CA}, client-key-data: {CA}")


@target("cli.kubeconfig", [CONFIG, BASIC, CERTIFICATES], refuses=(CommandError,), secret=True, inputs=500)
def config(data: bytes) -> None:
    """A kubeconfig names a server, or the command says in one sentence what is wrong with it."""
    if b"exec" in data:
        return  # it would run what the file says, as kubectl does
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config")
        path.write_bytes(data)
        found = kubeconfig.choose(Home(Path(directory)), str(path), None)
        assert isinstance(found.server, str)
        assert isinstance(found.namespace, str)
        Api(found)


def _state() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory))
        home.state_file.parent.mkdir(parents=True)
        state = StackState(
            version="1", since="2026-01-01", pid=1, start_ticks=2, server="https://x", machines=["shop/web"]
        )
        state.save(home)
        return home.state_file.read_bytes()


@target("cli.state", [_state()])
def state(data: bytes) -> None:
    """A state file that is unreadable is none."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory))
        home.state_file.parent.mkdir(parents=True, exist_ok=True)
        home.state_file.write_bytes(data)
        found = StackState.load(home)
        assert found is None or isinstance(found.pid, int)


STATUS = {"kind": "Status", "message": "vm not found", "code": 404}
EVENT = {"type": "ADDED", "object": {"metadata": {"name": "web"}}}


class _Connection:
    """Answers each request with these bytes."""

    def __init__(self, status: int, data: bytes) -> None:
        self._answer = b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\n\r\n" % status + data
        self.sock = SimpleNamespace(settimeout=lambda _: None)

    def request(self, *_: object, **__: object) -> None:
        pass

    def getresponse(self) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(SimpleNamespace(makefile=lambda *_, **__: io.BytesIO(self._answer)))  # type: ignore[arg-type]
        response.begin()
        return response

    def close(self) -> None:
        pass


@target(
    "cli.answer", [json.dumps(EVENT) + "\n" + json.dumps(EVENT) + "\n"], bad=[json.dumps(STATUS), "<html>"], inputs=500
)
def answer(data: bytes) -> None:
    """Whatever an API server answers, a command fails with a sentence or has an object."""
    for status in (200, 404, 401, 422, 500, 503):
        api = Api(Target(server="https://x", context="home"))
        api._connect = lambda _timeout, status=status: _Connection(status, data)  # type: ignore[method-assign, assignment]  # no network
        with contextlib.suppress(CommandError):
            assert isinstance(api.get(VIRTUAL_MACHINE, "web", "shop"), dict)
        with contextlib.suppress(CommandError):
            for event in api.watch(VIRTUAL_MACHINE, "shop", version="1"):
                assert isinstance(event["type"], str)
                assert isinstance(event["object"], dict)


NOTE = json.dumps({"metadata": {"name": "web"}, "spec": {"powerState": "On", "tags": ["a"], "old": {"x": 1}}})


@target("cli.last-applied", [NOTE])
def last_applied(data: bytes) -> None:
    """A note that somebody edited never makes `apply` forget a field of the manifest."""
    wanted = {"metadata": {"name": "web"}, "spec": {"powerState": "Off", "tags": ["b"]}}
    live = {
        "metadata": {"name": "web", "annotations": {applying.LAST_APPLIED: utf8(data)}},
        "spec": {"old": {"x": 1}, "kept": 1},
    }
    patch = applying.merge_patch(applying.last_applied(live), wanted, live)
    merged = _merge(live, patch)
    assert merged["spec"]["powerState"] == "Off"
    assert merged["spec"]["tags"] == ["b"]
    assert merged["metadata"]["name"] == "web"


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, each in patch.items():
        if each is None:
            out.pop(key, None)
        else:
            out[key] = _merge(out.get(key), each)
    return out


@target(
    "cli.merge",
    [json.dumps({"last": {"a": 1, "b": {"c": 2}}, "wanted": {"b": {"d": 3}}, "live": {"a": 1, "e": 5}})],
    inputs=500,
)
def merge(data: bytes) -> None:
    """Applied twice is applied once: what a patch leads to needs no patch; what nobody named stays."""
    given = value(data)
    given = given if isinstance(given, dict) else {}
    last, wanted, live = (
        each if isinstance(each := given.get(key), dict) else {} for key in ("last", "wanted", "live")
    )
    if "null" in json.dumps(wanted):
        return  # in a patch it takes away
    after = _merge(live, applying.merge_patch(last, wanted, live))
    assert applying.merge_patch(wanted, wanted, after) == {}
    assert all(after.get(key) == each for key, each in live.items() if key not in wanted and key not in last)


@target("cli.terminal", ["Running\x1b[2J\x07", "a\nb", "\x9b31m\u202e"])
def words(data: bytes) -> None:
    """No text from elsewhere can take over a terminal."""
    given = text(data)
    for shown in (terminal.clean(given), terminal.table(["A", "B"], [[given, 1]])):
        assert not any((ch < " " and ch not in "\n\t") or "\x7f" <= ch <= "\x9f" for ch in shown)
