"""What every object's `metadata` must satisfy, and how names are made up."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Any

from .errors import Cause

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
MAX_ANNOTATIONS = 256 << 10

_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def timestamp(when: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def drop_empty(meta: dict[str, Any]) -> None:
    """Remove in place what Kubernetes does not keep when there is nothing in it (`omitempty` of ObjectMeta)."""
    for key in ("generateName", "labels", "annotations", "ownerReferences", "finalizers"):
        if key in meta and not meta[key]:
            del meta[key]


def generated_name(prefix: str) -> str:
    """Return the prefix, shortened if need be, with five random characters."""
    return prefix[: 63 - 5] + "".join(secrets.choice(_ALPHABET) for _ in range(5))


def subdomain_fault(name: str) -> str:
    """Return why a text is no DNS subdomain; empty if it is one."""
    if len(name) > 253:
        return "must be no more than 253 characters"
    return "" if _SUBDOMAIN.fullmatch(name) else _SUBDOMAIN_TEXT


def label_fault(name: str) -> str:
    """Return why a text is no DNS label; empty if it is one."""
    if len(name) > 63:
        return "must be no more than 63 characters"
    return "" if _LABEL.fullmatch(name) else _LABEL_TEXT


def label_key_fault(key: str) -> str:
    """Return why a text is no qualified name such as `app.kubernetes.io/name`; empty if it is one."""
    prefix, slash, name = key.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        if fault := subdomain_fault(prefix):
            return f"prefix part {fault}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 characters"
    return "" if _QUALIFIED.fullmatch(name) else _QUALIFIED_TEXT


def label_value_fault(value: str) -> str:
    """Return why a text is no label value; empty if it is one."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    return "" if not value or _QUALIFIED.fullmatch(value) else _VALUE_TEXT


def _bad(field: str, value: str, fault: str) -> Cause:
    return Cause("FieldValueInvalid", f'Invalid value: "{value}": {fault}', field)


def faults(meta: dict[str, Any], *, namespaced: bool, label_names: bool) -> list[Cause]:
    """List what is wrong with a metadata whose types are already known to be right."""
    found: list[Cause] = []
    name = meta.get("name") or ""
    if not name:
        found.append(Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name"))
    elif fault := (label_fault if label_names else subdomain_fault)(name):
        found.append(_bad("metadata.name", name, fault))
    if namespaced:
        namespace = meta.get("namespace") or ""
        if fault := label_fault(namespace):
            found.append(_bad("metadata.namespace", namespace, fault))
    elif meta.get("namespace"):
        found.append(Cause("FieldValueForbidden", "Forbidden: not allowed on this type", "metadata.namespace"))
    for key, value in (meta.get("labels") or {}).items():
        if fault := label_key_fault(key):
            found.append(_bad("metadata.labels", key, fault))
        if fault := label_value_fault(value):
            found.append(_bad("metadata.labels", value, fault))
    annotations = meta.get("annotations") or {}
    found += [_bad("metadata.annotations", k, f) for k in annotations if (f := label_key_fault(k.lower()))]
    if sum(len(k) + len(v) for k, v in annotations.items()) > MAX_ANNOTATIONS:
        text = f"Too long: may not be more than {MAX_ANNOTATIONS} bytes"
        found.append(Cause("FieldValueTooLong", text, "metadata.annotations"))
    for index, finalizer in enumerate(meta.get("finalizers") or []):
        if fault := label_key_fault(finalizer):
            found.append(_bad(f"metadata.finalizers[{index}]", finalizer, fault))
    found += _owner_faults(meta.get("ownerReferences") or [])
    return found


def _owner_faults(owners: list[dict[str, Any]]) -> list[Cause]:
    found = []
    for index, owner in enumerate(owners):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                field = f"metadata.ownerReferences[{index}].{key}"
                found.append(_bad(field, "", f"{key} must not be empty"))
    controllers = [o for o in owners if o.get("controller")]
    if len(controllers) > 1:
        names = " and ".join(str(o.get("name")) for o in controllers)
        text = f'Only one reference can have Controller set to true. Found "true" in references for {names}'
        found.append(_bad("metadata.ownerReferences", "", text))
    return found
