"""The Kubernetes API as vrtg needs it: a thin, synchronous client over http.client.

The official client takes over a second to import; a command line should answer before that.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from vrtg.failures import CommandError, NotFoundError, RefusedError, UnreachableError
from vrtg.kinds_table import GROUP, Resource
from vrtg.kubeconfig import Target

Object = dict[str, Any]  # Any: an object of any kind, as JSON
FIELD_MANAGER = "vrtg"
UNKNOWN_KIND = "the server could not find the requested resource"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Api:
    """One API server, one connection. Raises only CommandError subclasses."""

    def __init__(self, target: Target, *, timeout: float = 30.0) -> None:
        """Args: timeout: seconds for connecting and for each answer."""
        self.target = target
        self._timeout = timeout
        try:
            self._url = urlsplit(target.server)
            sound = self._url.scheme in ("https", "http") and self._url.hostname and self._url.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise CommandError(f"{_shown(target.server)} in the kubeconfig is no address of an API server")
        self._connection: http.client.HTTPConnection | None = None

    # -- verbs -----------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, name: str, namespace: str | None, *, table: bool = False) -> Object:
        """One object. Raises NotFoundError."""
        return self._call("GET", self.path(resource, namespace, name), accept=TABLE if table else None)

    def list(
        self, resource: Resource, namespace: str | None, *, selector: str | None = None, table: bool = False
    ) -> Object:
        """A list of one namespace, or of all (None)."""
        query = {"labelSelector": selector} if selector else {}
        return self._call("GET", self.path(resource, namespace), query=query, accept=TABLE if table else None)

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        version: str,
        name: str | None = None,
        seconds: float | None = None,
        table: bool = False,
    ) -> Iterator[Object]:
        """Events after `version`, until the server ends the watch or `seconds` have passed."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        if seconds:
            query["timeoutSeconds"] = str(max(1, round(seconds)))
        connection = self._connect(None if seconds is None else seconds + self._timeout)
        try:
            response = self._send(
                connection, "GET", self.path(resource, namespace), query, None, None, TABLE if table else None
            )
            self._raise(response, "watch")
            while line := response.readline():
                yield self._event(line)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def create(self, resource: Resource, body: Object, namespace: str | None, *, dry_run: bool = False) -> Object:
        return self._call("POST", self.path(resource, namespace), body=body, query=_write(dry_run))

    def patch(
        self, resource: Resource, name: str, namespace: str | None, body: Object, *, dry_run: bool = False
    ) -> Object:
        """Merge patch."""
        return self._call(
            "PATCH",
            self.path(resource, namespace, name),
            body=body,
            kind="application/merge-patch+json",
            query=_write(dry_run),
        )

    def replace(self, resource: Resource, body: Object, namespace: str | None) -> Object:
        """PUT the whole object; its resourceVersion must be current."""
        path = self.path(resource, namespace, body["metadata"]["name"])
        return self._call("PUT", path, body=body, query={"fieldManager": FIELD_MANAGER})

    def delete(self, resource: Resource, name: str, namespace: str | None) -> Object:
        return self._call("DELETE", self.path(resource, namespace, name), query={"propagationPolicy": "Background"})

    def raw(self, path: str) -> Object:
        """GET any path: discovery, version."""
        return self._call("GET", path)

    def text(self, path: str) -> str:
        """GET a path that answers with plain text: /readyz, /livez."""
        try:
            response = self._send(self._open(), "GET", path, None, None, None, "text/plain, */*")
            self._raise(response, path)
            return response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def path(self, resource: Resource, namespace: str | None, name: str | None = None) -> str:
        """Address of a collection or an object."""
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        if resource.namespaced and namespace:
            root += f"/namespaces/{quote(namespace, safe='')}"
        root += f"/{resource.plural}"
        return f"{root}/{quote(name, safe='')}" if name else root

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- transport -------------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        kind: str | None = None,
        accept: str | None = None,
    ) -> Object:
        try:
            response = self._send_again_if_idle(method, path, query, body, kind, accept)
            self._raise(response, f"{method} {path}")
            answer: Object = json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error
        except (ValueError, RecursionError) as error:
            self.close()
            raise self._foreign() from error
        if not isinstance(answer, dict):
            raise self._foreign()
        return answer

    def _event(self, line: bytes) -> Object:
        try:
            event: Object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._foreign() from error
        if not (
            isinstance(event, dict) and isinstance(event.get("type"), str) and isinstance(event.get("object"), dict)
        ):
            raise self._foreign()
        return event

    def _foreign(self) -> CommandError:
        return CommandError(f"{self.target.server} did not answer as a Kubernetes API server does: is it one?")

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = self._connect(self._timeout)
        return self._connection

    def _send_again_if_idle(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Object | None,
        kind: str | None,
        accept: str | None,
    ) -> http.client.HTTPResponse:
        """Send; where a kept connection turns out to be closed before any answer, once more on a fresh one."""
        fresh = self._connection is None
        try:
            return self._send(self._open(), method, path, query, body, kind, accept)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if fresh:
                raise
            self.close()
            return self._send(self._open(), method, path, query, body, kind, accept)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Object | None,
        kind: str | None,
        accept: str | None,
    ) -> http.client.HTTPResponse:
        headers = {"Accept": accept or "application/json", "User-Agent": "vrtg"}
        if self.target.authorization:
            headers["Authorization"] = self.target.authorization
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        url = self._url.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        connection.request(method, url, json.dumps(body) if body is not None else None, headers)
        return connection.getresponse()

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        host, port = str(self._url.hostname), self._url.port or (443 if self._url.scheme == "https" else 80)
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        context = self._tls()
        proxy = self.target.proxy or ("" if proxy_bypass(host) else getproxies().get("https", ""))
        if proxy:
            via = urlsplit(proxy)
            tunnel = http.client.HTTPSConnection(str(via.hostname), via.port or 8080, timeout=timeout, context=context)
            tunnel.set_tunnel(host, port)
            return tunnel
        if self.target.server_name:
            return _NamedConnection(host, port, timeout, context, self.target.server_name)
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cadata=self.target.ca.decode() if self.target.ca else None)
            if self.target.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.target.certificate and self.target.key:
                with _temporary(self.target.certificate + b"\n" + self.target.key) as path:
                    context.load_cert_chain(path)
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise CommandError(
                f'the certificates of context "{self.target.context}" cannot be used: {error}: correct the kubeconfig'
            ) from error
        return context

    def _raise(self, response: http.client.HTTPResponse, action: str) -> None:
        if response.status < 300:
            return
        raw = response.read()
        try:
            status = json.loads(raw)
            message = str(status.get("message") or raw.decode(errors="replace"))
        except (ValueError, AttributeError, RecursionError):
            message = f"{action}: HTTP {response.status} {response.reason}"
        if response.status == 404:
            if message == UNKNOWN_KIND and GROUP in action:
                message = f"the API server does not know the kinds of {GROUP}: apply deploy/crds first"
            raise NotFoundError(message)
        if response.status == 401:
            raise RefusedError(
                f'{self.target.server} does not accept the credentials of context "{self.target.context}": '
                "log in again, or correct the kubeconfig"
            )
        if response.status in (400, 403, 405, 409, 413, 415, 422):
            raise RefusedError(message)
        if response.status in (429, 502, 503, 504):
            raise UnreachableError(f"the API server cannot answer now: {message}: try again")
        raise CommandError(f"the API server failed: {message}")

    def _unreachable(self, error: Exception) -> CommandError:
        cure = (
            "the embedded stack does not run: start it with `vrtg up`"
            if self.target.embedded
            else f'check the server of context "{self.target.context}" and the network'
        )
        if isinstance(error, ssl.SSLCertVerificationError):
            return CommandError(
                f"the certificate of {self.target.server} is not trusted ({error.verify_message}): "
                "correct certificate-authority in the kubeconfig"
            )
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = "no answer in time" if isinstance(error, TimeoutError) else told
        return UnreachableError(f"cannot reach the API server {self.target.server} ({reason}): {cure}")


def _write(dry_run: bool) -> dict[str, str]:
    """Query of a write: unknown fields are refused, for they are typing errors."""
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**query, "dryRun": "All"} if dry_run else query


class _NamedConnection(http.client.HTTPSConnection):
    """TLS against another name than the address has (tls-server-name)."""

    def __init__(self, host: str, port: int, timeout: float | None, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._named, self._tls_name = context, name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._named.wrap_socket(self.sock, server_hostname=self._tls_name)


@contextlib.contextmanager
def _temporary(content: bytes) -> Iterator[str]:
    """A private file for the one call that takes no bytes."""
    descriptor, path = tempfile.mkstemp(prefix="vrtg-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)


def _shown(server: str) -> str:
    """A server of a kubeconfig, for people: without what a slip of the quotes, or a user, may have put into it."""
    plain = len(server) <= 200 and server.isprintable() and not set(server) & set(" @\"'{}")
    return f'"{server}"' if plain else "what stands as `server`"
