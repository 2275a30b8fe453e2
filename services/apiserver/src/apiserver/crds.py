"""Custom resource definitions: what makes one acceptable, and the resources that it defines."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Container, Iterable
from typing import Any

from . import metadata
from .builtins import age_column, name_column, object_meta
from .errors import Cause
from .jsonpath import compile_path
from .resources import ALL_VERBS, Column, Object, Resource, ScalePaths, Strategy
from .schema import structure
from .schema.nodes import Schema, compile_schema
from .times import age

KEY = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_KIND = re.compile(r"[A-Za-z]([-A-Za-z0-9]*[A-Za-z0-9])?")


def strategy(existing: Callable[[], Iterable[Object]], now: Callable[[], str], reserved: Container[str]) -> Strategy:
    """Return the rules of the kind CustomResourceDefinition.

    Args:
        existing: gives all stored definitions, to find names that are taken.
        now: gives the time for conditions.
        reserved: `PLURAL.GROUP` of the kinds that the server has by itself.
    """

    def prepare(obj: Object, old: Object | None) -> None:
        _prepare(obj, old, list(existing()), now())

    def faults(obj: Object, old: Object | None) -> list[Cause]:
        found = _faults(obj, old)
        if (name := obj["metadata"].get("name")) in reserved:
            found.append(_bad("metadata.name", name, "is a kind that this server has by itself"))
        return found

    return Strategy(prepare, faults)


def _prepare(obj: Object, old: Object | None, existing: list[Object], now: str) -> None:
    spec = obj.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    for version in spec.get("versions") or []:
        version.setdefault("served", False)
        version.setdefault("storage", False)
    if old is None:
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if CLEANUP not in finalizers:
            finalizers.append(CLEANUP)
    obj["status"] = _status(obj, (old or {}).get("status") or {}, existing, now)


def _status(obj: Object, old: Object, existing: list[Object], now: str) -> Object:
    names, group = obj["spec"]["names"], obj["spec"].get("group")
    taken = _taken(obj, existing, group)
    stored = list(old.get("storedVersions") or [])
    stored += [v["name"] for v in obj["spec"].get("versions") or [] if v.get("storage") and v.get("name") not in stored]
    accepted = ("False", "NamesConflict", taken) if taken else ("True", "NoConflicts", "no conflicts found")
    established = (
        ("False", "NotAccepted", "not all names are accepted")
        if taken and not _condition(old, "Established")
        else ("True", "InitialNamesAccepted", "the initial names have been accepted")
    )
    conditions = [c for c in old.get("conditions") or [] if c.get("type") not in ("NamesAccepted", "Established")]
    for kind, (value, reason, message) in (("NamesAccepted", accepted), ("Established", established)):
        before: Object = next((c for c in old.get("conditions") or [] if c.get("type") == kind), {})
        since = before.get("lastTransitionTime", now) if before.get("status") == value else now
        conditions.append(
            {"type": kind, "status": value, "lastTransitionTime": since, "reason": reason, "message": message}
        )
    kept = (old.get("acceptedNames") or {"plural": "", "kind": ""}) if taken else copy.deepcopy(names)
    return {"acceptedNames": kept, "conditions": conditions, "storedVersions": stored}


def _taken(obj: Object, existing: list[Object], group: str | None) -> str:
    """Return which name another definition of the group holds; empty if none."""
    names = obj["spec"]["names"]
    mine = _all_names(names)
    for other in existing:
        if other["metadata"]["name"] == obj["metadata"].get("name") or other["spec"].get("group") != group:
            continue
        theirs = (other.get("status") or {}).get("acceptedNames") or {}
        if clash := sorted(mine & _all_names(theirs)):
            return f'"{clash[0]}" is already in use'
        for key in ("kind", "listKind"):
            if names.get(key) and names[key] in (theirs.get("kind"), theirs.get("listKind")):
                return f'"{names[key]}" is already in use'
    return ""


def _all_names(names: Object) -> set[str]:
    return {n for n in (names.get("plural"), names.get("singular"), *(names.get("shortNames") or [])) if n}


def _condition(status: Object, kind: str) -> bool:
    return any(c.get("type") == kind and c.get("status") == "True" for c in status.get("conditions") or [])


def established(crd: Object) -> bool:
    """Tell whether the definition is served."""
    return _condition(crd.get("status") or {}, "Established")


# ---- validation ----


def _required(path: str, text: str = "") -> Cause:
    return Cause("FieldValueRequired", "Required value" + (f": {text}" if text else ""), path)


def _bad(path: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueInvalid", f'Invalid value: "{value}": {text}', path)


def _faults(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj["spec"]
    names = spec["names"]
    found: list[Cause] = []
    group = spec.get("group") or ""
    if not group:
        found.append(_required("spec.group"))
    elif (fault := metadata.subdomain_fault(group)) or "." not in group:
        found.append(_bad("spec.group", group, fault or "should be a domain with at least one dot"))
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        text = f'Unsupported value: "{spec.get("scope") or ""}": supported values: "Cluster", "Namespaced"'
        found.append(Cause("FieldValueNotSupported", text, "spec.scope"))
    wanted = f"{names.get('plural', '')}.{group}"
    if obj["metadata"].get("name") != wanted:
        found.append(_bad("metadata.name", obj["metadata"].get("name"), 'must be spec.names.plural+"."+spec.group'))
    found += _name_faults(names)
    found += _version_faults(spec.get("versions") or [])
    if spec.get("preserveUnknownFields"):
        found.append(_bad("spec.preserveUnknownFields", "true", "must be false"))
    if (spec.get("conversion") or {}).get("strategy") != "None":
        text = 'Unsupported value: conversion webhooks are not supported by this server; supported values: "None"'
        found.append(Cause("FieldValueNotSupported", text, "spec.conversion.strategy"))
    if old is not None and established(old):
        for path in ("group", "scope"):
            if spec.get(path) != old["spec"].get(path):
                found.append(_bad(f"spec.{path}", spec.get(path), "field is immutable"))
        for path in ("kind", "plural"):
            if names.get(path) != old["spec"]["names"].get(path):
                found.append(_bad(f"spec.names.{path}", names.get(path), "field is immutable"))
        kept = {v.get("name") for v in spec.get("versions") or []}
        for version in (old.get("status") or {}).get("storedVersions") or []:
            if version not in kept:
                text = f"missing from spec.versions: {version} still holds stored objects"
                found.append(_bad("status.storedVersions", version, text))
    return found


def _name_faults(names: Object) -> list[Cause]:
    found = []
    for key in ("plural", "singular"):
        value = names.get(key) or ""
        if not value:
            found.append(_required(f"spec.names.{key}"))
        elif fault := metadata.label_fault(value):
            found.append(_bad(f"spec.names.{key}", value, fault))
    for key in ("kind", "listKind"):
        value = names.get(key) or ""
        if not value:
            found.append(_required(f"spec.names.{key}"))
        elif not _KIND.fullmatch(value):
            found.append(
                _bad(f"spec.names.{key}", value, "may have mixed case, but should otherwise match a DNS label")
            )
    for key in ("shortNames", "categories"):
        for index, value in enumerate(names.get(key) or []):
            if fault := metadata.label_fault(value):
                found.append(_bad(f"spec.names.{key}[{index}]", value, fault))
    return found


def _version_faults(versions: list[Object]) -> list[Cause]:
    found = []
    if sum(bool(v.get("storage")) for v in versions) != 1:
        text = "Invalid value: must have exactly one version marked as storage version"
        found.append(Cause("FieldValueInvalid", text, "spec.versions"))
    seen: set[str] = set()
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        name = version.get("name") or ""
        if fault := metadata.label_fault(name):
            found.append(_bad(f"{path}.name", name, fault))
        if name in seen:
            found.append(Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{path}.name"))
        seen.add(name)
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        found += structure.faults(schema, f"{path}.schema.openAPIV3Schema")
        for number, column in enumerate(version.get("additionalPrinterColumns") or []):
            here = f"{path}.additionalPrinterColumns[{number}]"
            found += [_required(f"{here}.{key}") for key in ("name", "type", "jsonPath") if not column.get(key)]
            found += _path_faults(column.get("jsonPath") or "", f"{here}.jsonPath")
        scale = (version.get("subresources") or {}).get("scale")
        if scale is not None:
            for key, root in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
                if not str(scale.get(key) or "").startswith(root):
                    found.append(_bad(f"{path}.subresources.scale.{key}", scale.get(key), f"must start with {root}"))
    return found


def _path_faults(text: str, path: str) -> list[Cause]:
    try:
        compile_path(text)
    except ValueError as error:
        return [_bad(path, text, str(error))]
    return []


# ---- the resources ----


def resources_of(crd: Object, revision: int) -> list[Resource]:
    """Return the resources that an accepted definition makes; empty while its names are not accepted."""
    if not established(crd):
        return []
    spec, names = crd["spec"], crd["status"]["acceptedNames"]
    terminating = bool(crd["metadata"].get("deletionTimestamp"))
    storage = next(v["name"] for v in spec["versions"] if v.get("storage"))
    return [
        _resource(spec, names, version, storage, revision, terminating)
        for version in spec["versions"]
        if version.get("served")
    ]


def _resource(spec: Object, names: Object, version: Object, storage: str, revision: int, terminating: bool) -> Resource:
    raw = version["schema"]["openAPIV3Schema"]
    sub = version.get("subresources") or {}
    scale = sub.get("scale")
    selectable = {f["jsonPath"].removeprefix(".") for f in version.get("selectableFields") or []}
    warning = ""
    if version.get("deprecated"):
        made = f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
        warning = version.get("deprecationWarning") or made
    return Resource(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        schema=root_schema(raw),
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        columns=columns_of(version),
        has_status="status" in sub,
        scale=ScalePaths(
            scale["specReplicasPath"].removeprefix("."),
            scale["statusReplicasPath"].removeprefix("."),
            (scale.get("labelSelectorPath") or "").removeprefix("."),
        )
        if scale
        else None,
        verbs=tuple(v for v in ALL_VERBS if not terminating or v != "create"),
        custom=True,
        counts_generation=True,
        unconditional=False,
        storage_api_version=f"{spec['group']}/{storage}",
        selectable=frozenset(selectable),
        schema_revision=revision,
        openapi=raw,
        deprecation=warning,
    )


def root_schema(raw: Object) -> Schema:
    """Return the schema of whole objects: the author's, with the metadata that every object has."""
    schema = compile_schema(raw)
    text = {"type": "string"}
    schema.properties = {
        **schema.properties,
        "apiVersion": Schema(text, type="string"),
        "kind": Schema(text, type="string"),
        "metadata": object_meta(),
    }
    return schema


def columns_of(version: Object) -> tuple[Column, ...]:
    """Return the printer columns of a version; without any, the age is shown."""
    given = version.get("additionalPrinterColumns")
    if not given:
        return (name_column(), age_column())
    return (name_column(), *(_column(column) for column in given))


def _column(raw: Object) -> Column:
    find = compile_path(raw["jsonPath"])
    kind = raw["type"]

    def cell(obj: Object, now: float) -> Any:
        values = find(obj)
        return _cell(kind, values[0], now) if values else None

    return Column(
        raw["name"], cell, kind, raw.get("format") or "", raw.get("description") or "", raw.get("priority") or 0
    )


def _cell(kind: str, value: Any, now: float) -> Any:
    if value is None:
        return None
    match kind:
        case "date":
            return age(str(value), now)
        case "integer":
            return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        case "number":
            return value if isinstance(value, int | float) and not isinstance(value, bool) else None
        case "boolean":
            return value if isinstance(value, bool) else None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)
