"""What an object must be to be stored: of its kind, with its defaults, and valid."""

from __future__ import annotations

import re

from . import errors, metadata
from .builtins import meta_faults, object_meta
from .options import WriteOptions
from .resources import Object, Resource
from .schema.shaping import apply_defaults, drop_nulls, prune
from .schema.validation import validate, walk


def admit(resource: Resource, obj: Object, options: WriteOptions) -> list[str]:
    """Check that a body is of this kind and drop what the schema does not know; returns warnings.

    Raises:
        ApiError: 400.
    """
    if not isinstance(obj, dict):
        raise errors.bad_request("the body must be one object")
    missing = [name for name in ("kind", "apiVersion") if resource.custom and not obj.get(name)]
    if missing:  # as in Kubernetes, built-in kinds may leave them out
        raise errors.bad_request(f"{' and '.join(missing)} must be given: {resource.kind} is a custom resource")
    given = (obj.get("apiVersion") or resource.api_version, obj.get("kind") or resource.kind)
    if given[0] != resource.api_version:
        raise errors.bad_request(
            f"the API version in the data ({given[0]}) does not match the expected API version ({resource.api_version})"
        )
    if given[1] != resource.kind:
        raise errors.bad_request(
            f"the kind in the data ({given[1]}) does not match the expected kind ({resource.kind})"
        )
    obj["apiVersion"], obj["kind"] = given
    if obj.get("metadata") is None:
        obj["metadata"] = {}
    checked = resource.schema if not resource.custom else None
    if checked is not None:
        drop_nulls(checked, obj)
    else:
        drop_nulls(object_meta(), obj["metadata"])
    _check_types(resource, obj)
    unknown = [f'unknown field "{path}"' for path in prune(resource.schema, obj)]
    told = [*unknown, *options.duplicates]
    if told and options.validation == "Strict":
        raise errors.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"strict decoding error: {', '.join(told)}"
        )
    warnings = [resource.deprecation] if resource.deprecation else []
    return warnings + (told if options.validation != "Ignore" else [])


def _check_types(resource: Resource, obj: Object) -> None:
    """Refuse what the Go types of Kubernetes could not hold."""
    if resource.custom:
        faults = list(walk(object_meta(), obj["metadata"], "metadata"))
    else:
        faults = list(walk(resource.schema, obj, ""))
    if faults:
        found = re.search(r"must be of type ([\w-]+)", faults[0].message)
        wanted = found[1] if found else "another type"
        # the value itself is not told: this may be a secret
        raise errors.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"json: cannot unmarshal into field {faults[0].field} of type {wanted}"
        )


def finish(resource: Resource, obj: Object, old: Object | None) -> None:
    """Give an object its defaults and refuse it if it is invalid.

    Args:
        old: what is stored; None for an object that is made.
    Raises:
        ApiError: 422.
    """
    if resource.custom:
        apply_defaults(resource.schema, obj)
    resource.strategy.prepare(obj, old)
    metadata.drop_empty(obj["metadata"])
    causes = meta_faults(resource, obj)
    if resource.custom:
        causes += validate(resource.schema, obj, old)
    if not causes or not resource.custom:
        causes += resource.strategy.validate(obj, old)
    if causes:
        name = obj["metadata"].get("name") or obj["metadata"].get("generateName") or ""
        raise errors.invalid(resource.group, resource.kind, name, causes)
