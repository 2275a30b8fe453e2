"""`vrtg delete`: objects out of the API server, and waiting until they are gone."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from vrtg.api import Api
from vrtg.commands.options import HERE, Where
from vrtg.discovery import by_kind, by_name
from vrtg.failures import CommandError, NotFoundError, UsageError
from vrtg.kinds_table import Resource
from vrtg.terminal import say, warn

Named = tuple[Resource, str, str | None]


def delete(
    resource: str | None = None,
    /,
    *names: str,
    filename: Annotated[list[str] | None, Parameter(name=["--filename", "-f"], allow_leading_hyphen=True)] = None,
    everything: Annotated[bool, Parameter(name="--all", negative=())] = False,
    ignore_not_found: Annotated[bool, Parameter(negative=())] = False,
    wait: bool = True,
    timeout: float = 300.0,
    where: Where = HERE,
) -> None:
    """Delete objects by name or by file, and wait until they are gone.

    Parameters
    ----------
    resource
        What to delete: vm, provider, ...
    names
        Their names.
    filename
        Delete what these files and folders hold.
    everything
        All objects of this resource in the namespace.
    ignore_not_found
        An object that does not exist is no error.
    wait
        Wait until the objects are gone.
    timeout
        Longest wait in seconds.
    """
    api = where.connect()
    targets = _targets(api, resource, names, filename, everything, where)
    gone = delete_objects(api, targets, ignore_not_found=ignore_not_found)
    if wait:
        wait_gone(api, gone, timeout)


def _targets(
    api: Api, resource: str | None, names: tuple[str, ...], filename: list[str] | None, everything: bool, where: Where
) -> list[Named]:
    if filename:
        if resource:
            raise UsageError("pass RESOURCE NAME or -f FILE, not both")
        from vrtg.manifests import load

        found: list[Named] = []
        for manifest in reversed(load(filename, warn)):  # machines before what they refer to
            kind = by_kind(manifest.api_version, manifest.kind, api)
            namespace = manifest.body["metadata"].get("namespace") or where.within(api)
            found.append((kind, manifest.name, namespace if kind.namespaced else None))
        return found
    if resource is None:
        raise UsageError("say what to delete: RESOURCE NAME, or -f FILE")
    kind = by_name(resource, api)
    namespace = where.within(api) if kind.namespaced else None
    if everything:
        return [(kind, str(item["metadata"]["name"]), namespace) for item in api.list(kind, namespace)["items"]]
    if not names:
        raise UsageError(f"say which {kind.names[0]} to delete, or --all")
    return [(kind, name, namespace) for name in names]


def delete_objects(api: Api, targets: list[Named], *, ignore_not_found: bool) -> list[Named]:
    """Ask for each deletion; answers with those that were there."""
    asked, missing = [], None
    for kind, name, namespace in targets:
        try:
            api.delete(kind, name, namespace)
            print(f"{kind.label}/{name} deleted", flush=True)
            asked.append((kind, name, namespace))
        except NotFoundError as error:
            missing = missing or error
    if missing is not None and not ignore_not_found:
        raise missing
    return asked


def wait_gone(api: Api, targets: list[Named], timeout: float) -> None:
    """Wait until each is gone, saying what holds those that stay.

    Raises:
        CommandError: not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    said: set[str] = set()
    for kind, name, namespace in targets:
        while True:
            try:
                body = api.get(kind, name, namespace)
            except NotFoundError:
                break
            blocked = _why_held(body)
            if blocked and blocked not in said:
                said.add(blocked)
                say(f"{kind.label}/{name}: {blocked}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandError(
                    f"{kind.label}/{name} is still there after {timeout:.0f} s"
                    f"{f': {blocked}' if blocked else ''}: see `vrtg describe {kind.names[-1]} {name}`"
                )
            version = body["metadata"]["resourceVersion"]
            for event in api.watch(kind, namespace, version=version, name=name, seconds=min(left, 5.0)):
                if event["type"] != "BOOKMARK":
                    break


def _why_held(body: dict[str, object]) -> str:
    status = body.get("status")
    conditions = status.get("conditions") or [] if isinstance(status, dict) else []
    for condition in conditions:
        if condition["type"] == "DeleteBlocked" and condition["status"] == "True":
            return str(condition["message"])
    return ""
