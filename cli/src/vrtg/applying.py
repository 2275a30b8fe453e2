"""Apply as kubectl does it: what was applied last is remembered in an annotation, so that removed fields go away."""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

from vrtg.api import Api, Object
from vrtg.failures import NotFoundError
from vrtg.kinds_table import NAMESPACE, Resource

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
Outcome = Literal["created", "configured", "unchanged"]


def apply(
    api: Api, resource: Resource, wanted: Object, namespace: str | None, *, dry_run: bool = False
) -> tuple[Outcome, Object]:
    """Create the object, or change what differs; answers with what was done and the object as it is now.

    Fields that others set and that the manifest never named are left alone. Lists are replaced as a whole.
    """
    body = stamped(wanted, namespace)
    try:
        live = api.get(resource, body["metadata"]["name"], namespace)
    except NotFoundError:
        live = None
    if live is None:
        try:
            return "created", api.create(resource, body, namespace, dry_run=dry_run)
        except NotFoundError as error:
            if namespace and f'namespaces "{namespace}"' in str(error):
                raise NotFoundError(f'there is no {NAMESPACE.kind.lower()} "{namespace}": create it first') from error
            raise
    patch = merge_patch(last_applied(live), body, live)
    if set(patch) <= {"metadata"} and set(patch.get("metadata", {}).get("annotations", {})) <= {LAST_APPLIED}:
        if not patch:
            return "unchanged", live
        if set(patch["metadata"]) == {"annotations"}:
            # Only our note differs (an object that was made otherwise): write it, and call nothing changed.
            return "unchanged", api.patch(resource, body["metadata"]["name"], namespace, patch, dry_run=dry_run)
    return "configured", api.patch(resource, body["metadata"]["name"], namespace, patch, dry_run=dry_run)


def last_applied(live: Object) -> Any:  # Any: JSON
    """What was applied last, as the object's note says; nothing where there is no note, or somebody garbled it."""
    annotations = live["metadata"].get("annotations") or {}
    try:
        return json.loads(annotations.get(LAST_APPLIED) or "{}")
    except (ValueError, RecursionError):
        return {}


def stamped(wanted: Object, namespace: str | None) -> Object:
    """The object with its namespace and the note of what was applied, both as kubectl writes them."""
    body = copy.deepcopy(wanted)
    if namespace:
        body["metadata"]["namespace"] = namespace
    annotations = body["metadata"].setdefault("annotations", {}) or {}
    annotations.pop(LAST_APPLIED, None)
    body["metadata"]["annotations"] = annotations
    note = json.dumps(body, separators=(",", ":"), sort_keys=True) + "\n"
    annotations[LAST_APPLIED] = note
    return body


def merge_patch(last: Any, wanted: Any, live: Any) -> dict[str, Any]:  # Any: JSON
    """The JSON merge patch that turns `live` into `wanted` and drops what `last` had and `wanted` has not."""
    patch: dict[str, Any] = {}
    for key, value in wanted.items():
        have = live.get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            before = last.get(key) if isinstance(last, dict) else None
            inner = merge_patch(before if isinstance(before, dict) else {}, value, have)
            if inner:
                patch[key] = inner
        elif value != have:
            patch[key] = value
    if isinstance(last, dict):
        patch.update({key: None for key in last if key not in wanted and key in live})
    return patch
