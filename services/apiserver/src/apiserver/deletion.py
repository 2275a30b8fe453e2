"""What deleting does to an object: while finalizers hold it, it is only marked."""

from __future__ import annotations

import copy

from . import errors
from .options import DeleteOptions
from .resources import Object, Resource

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
PROTECTED = ("default", "kube-system", "kube-public", "kube-node-lease")


def check_preconditions(resource: Resource, obj: Object, options: DeleteOptions) -> None:
    """Raises: ApiError: 409: it is another object, or another state of it, than the caller means."""
    meta = obj["metadata"]
    for label, wanted, have in (
        ("UID", options.uid, meta["uid"]),
        ("ResourceVersion", options.resource_version, meta["resourceVersion"]),
    ):
        if wanted and wanted != have:
            why = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {have}"
            raise errors.conflict(resource.group, resource.plural, meta["name"], why)


def marked(resource: Resource, obj: Object, propagation: str, now: str) -> Object:
    """Return the object with its deletion asked for."""
    out = copy.deepcopy(obj)
    meta = out["metadata"]
    finalizers = [f for f in meta.get("finalizers") or [] if f not in (FOREGROUND, ORPHAN)]
    kept = [f for f in meta.get("finalizers") or [] if f in (FOREGROUND, ORPHAN)]
    match propagation:
        case "Foreground":
            finalizers.append(FOREGROUND)
        case "Orphan":
            finalizers.append(ORPHAN)
        case "Background":
            pass
        case _:
            finalizers += kept
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)
    if not meta.get("deletionTimestamp"):
        meta["deletionTimestamp"] = now
        meta["deletionGracePeriodSeconds"] = 0
        if resource.counts_generation:
            meta["generation"] = meta.get("generation", 1) + 1
    if resource.key == "namespaces":
        out["status"] = {**(out.get("status") or {}), "phase": "Terminating"}
    return out


def vanishes(resource: Resource, obj: Object) -> bool:
    """Tell whether an object is to be deleted and nothing holds it any more."""
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers"):
        return False
    return resource.key != "namespaces" or not (obj.get("spec") or {}).get("finalizers")
