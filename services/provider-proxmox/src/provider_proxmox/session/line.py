"""One request to one node, blocking: the only code that knows proxmoxer and requests.

Of proxmoxer its core is used: paths and errors. Its HTTPS backend is not: importing it switches urllib3's warnings off
for the whole process, it renews tickets in whatever thread comes along, and it hands out a page of HTML as data.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

import requests
import urllib3
from common.errors import CredentialsRefusedError, HypervisorUnavailableError, OutcomeUnknownError, ProviderError
from proxmoxer.core import ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from provider_proxmox.session.login import Login, PinnedContext
from provider_proxmox.session.pve_errors import from_reply

CONNECT_SECONDS = 5.0
_SAFE = "/:!@,=+~"
"""What a path may hold as it is; a volume's name may hold anything."""


class UnreachableError(HypervisorUnavailableError):
    """No connection to this node, so the request did not arrive: another node may be asked."""

    @property
    def reason(self) -> str:
        return "HypervisorUnavailable"


class UntrustedError(CredentialsRefusedError):
    """The certificate of a node is not to be believed, so nothing was sent."""

    @property
    def reason(self) -> str:
        return "CredentialsRefused"


class _ForeignReplyError(Exception):
    """Whoever answered is not Proxmox VE: a proxy, a login page, a cut line."""


class _Connection(urllib3.connection.HTTPSConnection):
    """Counts as verified when a fingerprint was compared: PinnedContext has refused it else."""

    def connect(self) -> None:
        super().connect()
        self.is_verified = True


class _PinnedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


class _Repeat(Retry):
    """A broken line is tried once more; a node that does not answer in time is not waited for again."""

    def increment(self, method: str | None = None, url: str | None = None, response: Any = None,
                  error: Exception | None = None, _pool: Any = None, _stacktrace: Any = None) -> Self:  # fmt: skip
        if error is not None and isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


class _Adapter(HTTPAdapter):
    """Our own trust and as many connections as there are calls at a time; only what changes nothing is repeated."""

    def __init__(self, trust: ssl.SSLContext, size: int) -> None:
        self._trust = trust
        repeat = _Repeat(
            total=2, status=0, redirect=0, connect=0, other=0, allowed_methods={"GET"}, respect_retry_after_header=False
        )
        super().__init__(pool_connections=1, pool_maxsize=size, max_retries=repeat)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._trust, **kwargs)
        if isinstance(self._trust, PinnedContext):
            self.poolmanager.pool_classes_by_scheme = {**self.poolmanager.pool_classes_by_scheme, "https": _PinnedPool}

    def get_connection_with_tls_context(self, request: Any, *_args: Any, **_kwargs: Any) -> Any:
        """The context alone decides: requests would add its own bundle of authorities to it."""
        return self.poolmanager.connection_from_url(request.url)

    def cert_verify(self, *_args: Any) -> None:
        """Nothing to add, for the same reason."""


class Line:
    """To one node of the cluster. Safe to use from several threads."""

    def __init__(self, url: str, trust: ssl.SSLContext, *, size: int) -> None:
        self.url = url
        self._base = f"{url.rstrip('/')}/api2/json"
        self._session = requests.Session()
        self._session.trust_env = False  # neither .netrc nor CA bundles of the environment decide whom we believe
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Adapter(trust, size))

    def close(self) -> None:
        """Drop the idle connections."""
        self._session.close()

    def call(
        self,
        doing: str,
        method: str,
        path: str,
        params: Mapping[str, object],
        login: Login | None,
        *,
        timeout: float,
        body: Any = None,
    ) -> Any:
        """Ask, and answer with the data.

        Args:
            timeout: seconds without a byte after which the answer counts as lost.
            body: something that requests sends as it is, instead of the parameters.
        Raises:
            UnreachableError: there was no connection.
            OutcomeUnknownError: the request may have arrived, and changes something.
            ProviderError: what Proxmox VE said.
        """
        exchange = _Exchange(self._session, login, timeout, body)
        resource = ProxmoxResource(base_url=self._base, session=exchange, serializer=_Json())
        changes = method != "GET"
        given = {"params": _form(params)} if method in ("GET", "DELETE") else {"data": _form(params)}
        try:
            return resource(quote(path, safe=_SAFE))._request(method, **given)
        except ResourceException as error:
            raise from_reply(error.status_code, error.content, error.errors, doing, changes=changes) from None
        except _ForeignReplyError as error:
            raise _lost(f"{doing}: {self.url}: {error}", changes) from None
        except requests.RequestException as error:
            raise self._failed(doing, error, changes) from error

    def _failed(self, doing: str, error: requests.RequestException, changes: bool) -> ProviderError:
        cause: object = error.args[0] if error.args else error
        cause = getattr(cause, "reason", None) or cause
        said = str(cause).lower()
        if isinstance(cause, urllib3.exceptions.SSLError) and ("certificate" in said or "fingerprint" in said):
            return UntrustedError(f"{doing}: the certificate of {self.url} is not to be believed: {_why(cause)}")
        unsent = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
        if isinstance(cause, unsent) or isinstance(error, requests.ConnectTimeout):
            return UnreachableError(f"{doing}: {self.url} cannot be reached: {_why(cause)}", retry_after=2.0)
        return _lost(f"{doing}: {self.url}: {_why(cause)}", changes)


class _Exchange:
    """What proxmoxer calls a session: one request, sent the way we want it."""

    def __init__(self, session: requests.Session, login: Login | None, timeout: float, body: Any) -> None:
        self._session = session
        self._login = login
        self._timeout = timeout
        self._body = body

    def request(self, method: str, url: str, data: Any = None, params: Any = None) -> requests.Response:
        headers = self._login.headers_for(method) if self._login is not None else {}
        if self._body is not None:
            headers = {**headers, "Content-Type": self._body.content_type}
            data = self._body
        reply = self._session.request(
            method, url, data=data, params=params, headers=headers,
            timeout=(CONNECT_SECONDS, self._timeout), allow_redirects=False,
        )  # fmt: skip
        if 300 <= reply.status_code < 400:
            raise _ForeignReplyError(f"it answers {reply.status_code} and sends us elsewhere")
        if reply.status_code >= 400 and isinstance(said := _decoded(reply), dict) and said.get("message"):
            reply.reason = str(said["message"])  # the reason phrase is one line of it
        return reply


class _Json:
    """proxmoxer's serializer, which believes nothing."""

    def loads(self, reply: requests.Response) -> Any:
        said = _decoded(reply)
        if not isinstance(said, dict) or "data" not in said:
            kind = reply.headers.get("Content-Type", "nothing")
            raise _ForeignReplyError(f"it answers {reply.status_code} with {kind} that is no reply of Proxmox VE")
        return said["data"]

    def loads_errors(self, reply: requests.Response) -> Any:
        said = _decoded(reply)
        errors = said.get("errors") if isinstance(said, dict) else None
        return errors if isinstance(errors, dict) else None


def _decoded(reply: requests.Response) -> Any:
    return decoded(reply.content)


def decoded(content: bytes) -> Any:
    """JSON of a reply; None for what is none.

    Halves of surrogate pairs, which a person may have put into a text, are replaced: nothing of ours can pass them on.
    """
    text = content.decode("utf-8-sig", errors="replace")  # json itself would let halves pass that stand there as bytes
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _whole(said) if _HALF.search(text) else said


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def _whole(said: Any) -> Any:
    if isinstance(said, dict):
        return {_whole(key): _whole(value) for key, value in said.items()}
    if isinstance(said, list):
        return [_whole(value) for value in said]
    return said.encode(errors="replace").decode() if isinstance(said, str) else said


def _form(params: Mapping[str, object]) -> dict[str, object]:
    """As Proxmox VE reads forms: true is 1; what is None is not said at all."""
    return {
        name: int(value) if isinstance(value, bool) else value for name, value in params.items() if value is not None
    }


def _lost(message: str, changes: bool) -> ProviderError:
    if changes:
        return OutcomeUnknownError(f"{message}; whether it was done has to be looked up")
    return HypervisorUnavailableError(message, retry_after=2.0)


def _why(cause: object) -> str:
    text = " ".join(str(cause).split())
    return text.rpartition(">: ")[2] or type(cause).__name__
