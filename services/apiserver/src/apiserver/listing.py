"""Lists: selection, consistent pages, and their forms."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from . import errors, requests, tables
from .negotiation import Form
from .resources import Resource
from .selection import Selection
from .store import Store
from .watch import Expired, Item


class _Token(msgspec.Struct):
    """Where the next page starts, and the revision that all pages show."""

    revision: int
    namespace: str
    name: str


_TOKEN = msgspec.json.Decoder(_Token)
_GONE = (
    "The provided continue parameter is too old to display a consistent list result. You must start a new list "
    "without the continue parameter."
)


def _start(params: Mapping[str, str], store: Store) -> tuple[int, tuple[str, str] | None]:
    """Return the revision to show and the key to start behind."""
    given = requests.revision(params)
    if text := params.get("continue"):
        try:
            token = _TOKEN.decode(base64.urlsafe_b64decode(text.encode()))
        except (msgspec.DecodeError, binascii.Error, ValueError) as error:
            raise errors.bad_request("continue key is not valid: it must be one that this server gave out") from error
        return token.revision, (token.namespace, token.name)
    match = params.get("resourceVersionMatch", "")
    if match not in ("", "Exact", "NotOlderThan"):
        raise errors.bad_request(f'resourceVersionMatch "{match}" is none of Exact, NotOlderThan')
    if match and given is None:
        text = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        causes = [errors.Cause("FieldValueForbidden", text, "resourceVersionMatch")]
        raise errors.invalid("meta.k8s.io", "ListOptions", "", causes)
    if given and given > store.revision:
        failure = errors.ApiError(504, "Timeout", f"Too large resource version: {given}, current: {store.revision}")
        failure.causes.append(errors.Cause("ResourceVersionTooLarge", "Too large resource version"))
        failure.details["retryAfterSeconds"] = 1
        raise failure
    return (given, None) if match == "Exact" and given else (store.revision, None)


def page(store: Store, selection: Selection, params: Mapping[str, str]) -> tuple[list[Item], dict[str, Any]]:
    """Return one page of objects and the list's metadata.

    Raises:
        ApiError: 400, or 410 when the asked revision is no longer known.
    """
    revision, behind = _start(params, store)
    limit = requests.number(params, "limit") or 0
    try:
        found = store.items_at(selection.resource.key, selection.namespace, revision)
    except Expired as error:
        raise errors.expired(_GONE) from error
    if behind is not None:
        found = [item for item in found if (item.namespace, item.name) > behind]
    if selection.labels or selection.fields:
        found = [item for item in found if selection.matches(item)]
    meta: dict[str, Any] = {"resourceVersion": str(revision)}
    if limit and len(found) > limit:
        last = found[limit - 1]
        token = msgspec.json.encode(_Token(revision, last.namespace, last.name))
        meta["continue"] = base64.urlsafe_b64encode(token).decode()
        if not (selection.labels or selection.fields):
            meta["remainingItemCount"] = len(found) - limit
        found = found[:limit]
    return found, meta


def render(resource: Resource, items: list[Item], meta: dict[str, Any], form: Form, include: str, now: float) -> bytes:
    """Return a list in the form that was asked for."""
    if form.shape == "table":
        objects = [resource.load(item) for item in items]
        return msgspec.json.encode(tables.table(resource, objects, meta, include, now))
    if form.shape == "partial":
        rows = [tables.partial(resource.load(item)) for item in items]
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
        return msgspec.json.encode({**head, "items": rows})
    head = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": meta}
    opening = msgspec.json.encode(head)[:-1]
    return opening + b',"items":[' + b",".join(resource.bytes(item) for item in items) + b"]}"
