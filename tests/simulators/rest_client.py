"""vCenter's REST interface as tests of the simulated vCenter speak it: either dialect, plain JSON."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from simulators.vcsim import Vcsim


class Refused(Exception):
    """An error's HTTP status and type, in lower case without the package."""

    def __init__(self, status: int, type: str) -> None:
        super().__init__(f"{status} {type}")
        self.status, self.type = status, type


class Rest:
    """One session."""

    def __init__(self, server: Vcsim, *, api: bool = True) -> None:
        self.server, self.api, self.token = server, api, ""
        basic = base64.b64encode(f"{server.user}:{server.password}".encode()).decode()
        path = "/api/session" if api else "/rest/com/vmware/cis/session"
        self.token = self.send("POST", path, headers={"Authorization": f"Basic {basic}"})

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """`path` as `/api` has it, or whole for `/rest`."""
        return self.send(method, path if path.startswith("/") else f"/api/{path}", body)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        context = ssl.create_default_context(cadata=self.server.ca)
        connection = http.client.HTTPSConnection(self.server.host, self.server.port, timeout=30, context=context)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, {"vmware-api-session-id": self.token, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            told = json.loads(content) if content.startswith(b"{") else {}
            type = told.get("error_type") or told.get("type") or ""
            raise Refused(answer.status, type.rpartition(".")[2].lower())
        value = json.loads(content) if content.strip() else None
        wrapped = path.startswith("/rest/") and isinstance(value, dict)
        return value["value"] if wrapped else value

    def upload(self, url: str, body: bytes) -> None:
        self.send("PUT", urlsplit(url).path, body)
