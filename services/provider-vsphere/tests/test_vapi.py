"""vCenter's REST interface: two dialects, sessions that end, errors by their type."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from common import redact
from common.errors import (
    CredentialsRefusedError,
    HypervisorUnavailableError,
    InternalError,
    InvalidSpecError,
    NameConflictError,
    NotSupportedError,
    OperationInProgressError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
)
from provider_vsphere.session import vapi
from provider_vsphere.session.login import Endpoint, session_key
from provider_vsphere.session.vapi import API, REST, SESSION_HEADER, RefusedError, Request, Vapi, exchange
from provider_vsphere.session.vsphere import Vsphere
from simulators.vcsim import Vcsim
from simulators.vcsim.fixtures import start_vcsim

from .conftest import connected, credentials_of

CATEGORY = "cis/tagging/category"


def create(name: str) -> Request:
    body = {"name": name, "description": "", "cardinality": "MULTIPLE", "associable_types": []}
    return Request("POST", CATEGORY, body=body, parameter="create_spec")


# -- dialects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "api", "rest"),
    [
        (Request("GET", "cis/tagging/tag"), "/api/cis/tagging/tag", "/rest/com/vmware/cis/tagging/tag"),
        (
            Request("POST", "cis/tagging/tag-association/{}", id="urn:a b:GLOBAL", action="attach"),
            "/api/cis/tagging/tag-association/urn:a%20b:GLOBAL?action=attach",
            "/rest/com/vmware/cis/tagging/tag-association/id:urn:a%20b:GLOBAL?~action=attach",
        ),
        (Request("GET", "vcenter/vm", query={"n": "a&b"}), "/api/vcenter/vm?n=a%26b", "/rest/vcenter/vm?n=a%26b"),
        (
            Request("GET", "a/{}", id="../x", legacy="com/vmware/b/{}/c"),
            "/api/a/..%2Fx",
            "/rest/com/vmware/b/id:..%2Fx/c",
        ),
    ],
)  # fmt: skip
def test_one_request_is_said_in_both_dialects(request_: Request, api: str, rest: str) -> None:
    assert (API.target(request_), REST.target(request_)) == (api, rest)


def test_only_the_old_dialect_wraps_what_it_takes_and_gives() -> None:
    request = Request("POST", CATEGORY, body={"name": "a"}, parameter="create_spec")
    assert (API.body(request), REST.body(request)) == ({"name": "a"}, {"create_spec": {"name": "a"}})
    assert (API.answer({"value": 1}), REST.answer({"value": 1})) == ({"value": 1}, 1)


@pytest.mark.real
async def test_sessions_and_what_opens_them_are_masked(vcsim: Vcsim, credentials: Path) -> None:
    """Whoever has the session needs no password."""
    (credentials / "password").write_text(vcsim.password)
    async with connected(vcsim, credentials) as vsphere:
        rest = Vapi(vsphere)
        async with rest.session():
            session = await rest.token("test")
        secrets = [session_key(vsphere.login("test").instance), session, vcsim.password]
        (credentials / "token").write_text("<saml:Assertion>c4n4ry</saml:Assertion>")
        secrets.append(vapi._authorization(vsphere.endpoint, "test").partition('"')[2].rstrip('"'))
        assert all(len(secret) > 5 for secret in secrets)
        assert [redact.text(f"a {secret} b") for secret in secrets] == [f"a {redact.MASK} b"] * 4


# -- errors: a server that answers as it is told -----------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """Answers each request with `server.answer`."""

    server: Any

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        status, content = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Not to the terminal."""


@contextmanager
def answering(status: int, content: Any) -> Iterator[Endpoint]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.answer, server.seen = (status, content), []  # type: ignore[attr-defined]  # a test's own
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Endpoint(f"http://127.0.0.1:{server.server_port}/sdk")
        finally:
            server.shutdown()
            thread.join()


def ask(endpoint: Endpoint) -> Any:
    return exchange(endpoint, "GET", "/api/x", {}, timeout=5, doing="tag shop/web")


MESSAGES = [{"id": "a.b", "default_message": "No such\ntag.", "args": []}]


@pytest.mark.parametrize(
    ("status", "content", "error", "says"),
    [
        (404, {"error_type": "NOT_FOUND", "messages": MESSAGES}, ResourceNotFoundError, "No such tag. (not found)"),
        (
            404,
            {"type": "com.vmware.vapi.std.errors.not_found", "value": {"messages": MESSAGES}},
            ResourceNotFoundError,
            "No such tag. (not found)",
        ),
        (400, {"error_type": "ALREADY_EXISTS", "messages": []}, NameConflictError, "refused (already exists)"),
        (
            403,
            {"error_type": "UNAUTHORIZED", "messages": MESSAGES, "data": {"privilege_id": "InventoryService.Tagging"}},
            PermissionMissingError,
            "privilege_id: InventoryService.Tagging",
        ),
        (400, {"error_type": "RESOURCE_BUSY", "messages": MESSAGES}, OperationInProgressError, "resource busy"),
        (503, {"error_type": "SERVICE_UNAVAILABLE", "messages": []}, HypervisorUnavailableError, "service unavailable"),
        (503, b"<html>no</html>", HypervisorUnavailableError, "HTTP 503"),
        (404, b"", NotSupportedError, "HTTP 404"),
        (400, [], InvalidSpecError, "HTTP 400"),
        (500, {"error_type": "SURPRISE", "messages": [None]}, InternalError, "surprise"),
        (302, b"", InternalError, "HTTP 302"),
        (200, b"<html>", HypervisorUnavailableError, "no JSON"),
    ],
)
def test_an_error_is_known_by_its_type_and_else_by_its_status(
    status: int, content: Any, error: type[ProviderError], says: str
) -> None:
    with answering(status, content) as endpoint, pytest.raises(error) as refused:
        ask(endpoint)
    assert type(refused.value) is error
    assert str(refused.value).startswith("tag shop/web: ")
    assert says in str(refused.value)


def test_an_empty_answer_is_none() -> None:
    with answering(204, b"") as endpoint:
        assert ask(endpoint) is None


# -- on a vCenter ------------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_a_session_is_opened_at_the_first_call_and_ended_with_the_context(vsphere: Vsphere) -> None:
    vapi = Vapi(vsphere)
    async with vapi.session():
        made = await vapi.call("make a category", create("colour"))
        assert made in await vapi.call("list categories", Request("GET", CATEGORY))
        token = await vapi.token("look")
        told = await vapi.call("read it", Request("GET", CATEGORY + "/{}", id=made))
        assert told["name"] == "colour"
        assert token == await vapi.token("look"), "one session for all calls"
        with pytest.raises(NameConflictError) as conflict:
            await vapi.call("make it twice", create("colour"))
        cause = conflict.value.__cause__
        assert isinstance(cause, RefusedError)
        assert cause.type == "already_exists"
        assert token not in repr(vars(vapi))
    with pytest.raises(HypervisorUnavailableError):  # 401
        exchange(
            vsphere.endpoint, "GET", "/rest/com/vmware/" + CATEGORY, {SESSION_HEADER: token}, timeout=5, doing="look"
        )


@pytest.mark.real
async def test_a_session_that_has_ended_is_opened_again(vsphere: Vsphere) -> None:
    vapi = Vapi(vsphere)
    async with vapi.session():
        token = await vapi.token("look")
        exchange(vsphere.endpoint, "DELETE", REST.login, {SESSION_HEADER: token}, timeout=5, doing="end it")
        assert isinstance(await vapi.call("list categories", Request("GET", CATEGORY)), list | None)
        assert await vapi.token("look") != token


@pytest.mark.real
async def test_an_unknown_path_is_not_supported(vsphere: Vsphere) -> None:
    vapi = Vapi(vsphere)
    async with vapi.session():
        with pytest.raises(NotSupportedError):
            await vapi.call("look", Request("GET", "cis/nothing/here"))


@pytest.mark.real
async def test_refused_credentials_are_told_as_such(vcsim: Vcsim, tmp_path: Path) -> None:
    """They may be changed after the SOAP login, and the secret never shows."""
    credentials = credentials_of(vcsim, tmp_path)
    async with connected(vcsim, credentials) as vsphere:
        vapi = Vapi(vsphere)
        (credentials / "password").write_text("canary-of-the-password")
        with pytest.raises(CredentialsRefusedError) as refused:
            await vapi.call("list categories", Request("GET", CATEGORY))
        assert "canary" not in str(refused.value)
        (credentials / "password").unlink()
        with pytest.raises(CredentialsRefusedError, match="needs `username` and `password`"):
            await vapi.call("list categories", Request("GET", CATEGORY))


@pytest.mark.real
@pytest.mark.parametrize("thumbprint", ["", "00" * 32])
def test_a_certificate_that_is_not_believed_gets_no_credentials(vcsim: Vcsim, thumbprint: str) -> None:
    """The REST interface trusts exactly what the SOAP one trusts."""
    stranger = Endpoint(vcsim.url, thumbprint=thumbprint)
    with pytest.raises(OSError, match=r"(?i)certificate|thumbprint"):
        exchange(stranger, "POST", REST.login, {"Authorization": "Basic x"}, timeout=5, doing="log in")


@pytest.mark.real
def test_a_thumbprint_is_enough(vcsim: Vcsim) -> None:
    endpoint = Endpoint(vcsim.url, thumbprint=vcsim.thumbprint)
    with pytest.raises(HypervisorUnavailableError, match="unauthenticated"):
        exchange(endpoint, "GET", "/rest/com/vmware/" + CATEGORY, {}, timeout=5, doing="look")


@pytest.mark.real
async def test_a_token_of_the_sso_service_logs_in_as_it_stands(vsphere: Vsphere, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.answer, server.seen = (201, "a-session"), []  # type: ignore[attr-defined]  # a test's own
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (tmp_path / "token").write_text("<saml/>\n")
        vsphere.endpoint, before = (
            Endpoint(f"http://127.0.0.1:{server.server_port}/sdk", credentials=tmp_path),
            vsphere.endpoint,
        )
        try:
            assert await Vapi(vsphere).token("look") == "a-session"
        finally:
            vsphere.endpoint = before
            server.shutdown()
            thread.join()
    method, path, headers = server.seen[0]  # type: ignore[attr-defined]  # a test's own
    assert (method, path) == ("POST", "/api/session")
    scheme, _, value = headers["Authorization"].partition(' token="')
    assert scheme == "SIGN"
    assert gzip.decompress(base64.b64decode(value.rstrip('"'))) == b"<saml/>"


@pytest.mark.real
async def test_an_esxi_host_has_none(tmp_path: Path) -> None:
    for host in start_vcsim(esx=True):
        async with connected(host, credentials_of(host, tmp_path)) as vsphere:
            with pytest.raises(NotSupportedError, match="ESXi"):
                await Vapi(vsphere).call("list tags", Request("GET", "cis/tagging/tag"))


@pytest.mark.parametrize(
    "body", [b'{"messages": ["x"]}', b'{"messages": 7}', b'{"value": {"messages": {}}}', b"[" * 5000]
)
def test_a_refusal_of_any_shape_is_one(body: bytes) -> None:
    assert isinstance(vapi._error(500, body, "tag m-1"), ProviderError)
