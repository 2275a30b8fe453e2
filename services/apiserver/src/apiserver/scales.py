"""The scale subresource: one number of a custom resource, seen as autoscaling/v1 Scale."""

from __future__ import annotations

from . import errors
from .errors import Cause
from .resources import Object, Resource, ScalePaths
from .selectors import lookup


def _paths(resource: Resource) -> ScalePaths:
    if resource.scale is None:
        raise errors.no_such_path()
    return resource.scale


def scale_of(resource: Resource, obj: Object) -> Object:
    """Return the Scale of an object."""
    paths = _paths(resource)
    meta = obj["metadata"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": lookup(obj, paths.status_replicas) or 0}
    if paths.selector and (selector := lookup(obj, paths.selector)):
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in names if name in meta},
        "spec": {"replicas": lookup(obj, paths.replicas) or 0},
        "status": status,
    }


def with_scale(resource: Resource, obj: Object, scale: Object) -> Object:
    """Return the object (edited in place) with the replicas that a Scale asks for.

    Raises:
        ApiError: 422, no valid number.
    """
    replicas = (scale.get("spec") or {}).get("replicas", 0) if isinstance(scale.get("spec") or {}, dict) else None
    if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas < 2**31:
        text = f'Invalid value: "{replicas}": must be a non-negative integer'
        causes = [Cause("FieldValueInvalid", text, "spec.replicas")]
        raise errors.invalid("autoscaling", "Scale", obj["metadata"]["name"], causes)
    *parents, last = _paths(resource).replicas.split(".")
    here = obj
    for name in parents:
        here = here.setdefault(name, {})
    here[last] = replicas
    meta = scale.get("metadata") or {}
    if isinstance(meta, dict) and meta.get("resourceVersion"):
        obj["metadata"]["resourceVersion"] = meta["resourceVersion"]
    return obj
