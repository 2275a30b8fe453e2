"""The way from an object to the provider server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from vrtg.api import Api, Object
from vrtg.failures import CommandError, NotFoundError, RefusedError, UnreachableError
from vrtg.home import Home
from vrtg.kinds_table import PROVIDER, VIRTUAL_MACHINE

CALL_LIMIT = 60.0
"""Seconds for one call to a provider; planning asks the hypervisor once or twice."""


def machine(api: Api, name: str, namespace: str) -> Object:
    """A VirtualMachine. Raises NotFoundError with the names there are."""
    try:
        return api.get(VIRTUAL_MACHINE, name, namespace)
    except NotFoundError as error:
        known = [str(item["metadata"]["name"]) for item in api.list(VIRTUAL_MACHINE, namespace)["items"]]
        there = f"there are: {', '.join(sorted(known))}" if known else "there is none"
        raise NotFoundError(f'there is no machine "{name}" in namespace "{namespace}" ({there})') from error


def provider_of(api: Api, body: Object) -> Object:
    """The Provider of a VirtualMachine."""
    reference = body["spec"]["providerRef"]
    namespace = reference.get("namespace") or body["metadata"].get("namespace") or api.target.namespace
    try:
        return api.get(PROVIDER, reference["name"], namespace)
    except NotFoundError as error:
        raise NotFoundError(f'there is no provider "{reference["name"]}" in namespace "{namespace}"') from error


@asynccontextmanager
async def link(home: Home, provider: Object) -> AsyncIterator[Callable[[str], Any]]:  # Any: common.rpc.Stub
    """A connection to the provider's server, wherever it is; answers with the stub of a service by its name.

    Raises:
        UnreachableError: it does not run, or cannot be reached from here.
        RefusedError, NotFoundError, CommandError: what a call answered.
    """
    from common import identity, rpc, tls

    target, directory = _target(provider), home.client_tls
    metadata = provider["metadata"]
    label = f"{metadata['namespace']}/{metadata['name']}"
    files = tls.TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    if not files.cert.exists():
        raise UnreachableError(
            f"there is no client certificate for the provider {label} in {directory}: "
            "put tls.crt, tls.key and ca.crt of an operator there"
        )
    try:
        async with rpc.connect(
            target, files, server=identity.Server(metadata["namespace"], metadata["name"])
        ) as channel:
            yield lambda name: rpc.stub(channel, f"virtrigaud.provider.v1.{name}")
    except Exception as error:
        raise as_failure(error, label) from error


@asynccontextmanager
async def service(home: Home, provider: Object, name: str) -> AsyncIterator[Any]:  # Any: common.rpc.Stub
    """A stub of one service of the provider's server; fails as `link` does."""
    async with link(home, provider) as stub:
        yield stub(name)


def _target(provider: Object) -> str:
    metadata, status = provider["metadata"], provider.get("status") or {}
    endpoint = (status.get("runtime") or {}).get("endpoint")
    if not endpoint:
        conditions = [c for c in status.get("conditions") or [] if c.get("status") == "False"]
        reason = conditions[0].get("message", "") if conditions else "the controller has not started it"
        raise UnreachableError(f"the provider {metadata['namespace']}/{metadata['name']} does not serve: {reason}")
    return str(endpoint)


def as_failure(error: Exception, label: str) -> Exception:
    """A provider's refusal as a failure of this command; anything else unchanged."""
    from common import errors

    if isinstance(error, CommandError) or not isinstance(error, errors.ProviderError):
        return error
    text = f"provider {label}: {error}"
    if isinstance(error, errors.HypervisorUnavailableError | errors.OutcomeUnknownError):
        return UnreachableError(text)
    if type(error).__name__.endswith("NotFoundError"):
        return NotFoundError(text)
    if isinstance(error, errors.InternalError):
        return CommandError(f"{text}: see the log of the provider")
    return RefusedError(text)
