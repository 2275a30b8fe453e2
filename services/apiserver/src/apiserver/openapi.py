"""OpenAPI v2 and v3, made from the registry: what `kubectl explain` and client-side validation read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from .builtins import META, definitions
from .resources import Registry, Resource

_QUERY = {
    "list": [
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "watch",
    ],
    "create": ["dryRun", "fieldManager", "fieldValidation"],
    "update": ["dryRun", "fieldManager", "fieldValidation"],
    "patch": ["dryRun", "fieldManager", "fieldValidation", "force"],
    "delete": ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"],
    "get": [],
}
_TYPES = {
    "limit": "integer", "timeoutSeconds": "integer", "gracePeriodSeconds": "integer", "watch": "boolean",
    "allowWatchBookmarks": "boolean", "sendInitialEvents": "boolean", "force": "boolean", "orphanDependents": "boolean",
}  # fmt: skip
_METHODS = {"list": "get", "get": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
_PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)


class Documents:
    """The documents, made on demand and kept until the registry changes."""

    def __init__(self, registry: Registry) -> None:
        """Bind to a registry."""
        self._registry = registry
        self._generation = -1
        self._cache: dict[str, bytes] = {}

    def _kept(self, key: str) -> bytes | None:
        if self._generation != self._registry.generation:
            self._cache.clear()
            self._generation = self._registry.generation
        return self._cache.get(key)

    def index(self) -> bytes:
        """Return /openapi/v3: where the document of each group-version is, with its hash."""
        kept = self._kept("")
        if kept is None:
            paths = {}
            for group, versions in self._registry.versions().items():
                for version in versions:
                    name = f"apis/{group}/{version}" if group else f"api/{version}"
                    document = self.version3(group, version) or b""
                    digest = hashlib.sha512(document).hexdigest()[:64].upper()
                    paths[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={digest}"}
            kept = self._cache[""] = msgspec.json.encode({"paths": dict(sorted(paths.items()))})
        return kept

    def version3(self, group: str, version: str) -> bytes | None:
        """Return the OpenAPI v3 document of a group-version, or None if there is none."""
        key = f"3/{group}/{version}"
        kept = self._kept(key)
        if kept is None:
            resources = self._registry.of(group, version)
            if not resources:
                return None
            kept = self._cache[key] = msgspec.json.encode(_document(resources))
        return kept

    def version2(self) -> bytes:
        """Return the one OpenAPI v2 document."""
        kept = self._kept("2")
        if kept is None:
            schemas: dict[str, Any] = {}
            paths: dict[str, Any] = {}
            for resource in self._registry:
                schemas |= _schemas(resource)
                paths |= _paths(resource, version2=True)
            text = json.dumps({"definitions": schemas, "paths": paths}).replace(
                "#/components/schemas/", "#/definitions/"
            )
            document = {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "unversioned"}, **json.loads(text)}
            kept = self._cache["2"] = msgspec.json.encode(_lowered(document))
        return kept


def _lowered(value: Any) -> Any:
    """Return a document in the words of OpenAPI v2: no allOf around references, no anyOf, oneOf, not, nullable."""
    if isinstance(value, list):
        return [_lowered(v) for v in value]
    if not isinstance(value, dict):
        return value
    parts = value.get("allOf")
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict) and "$ref" in parts[0]:
        return parts[0] | ({"description": value["description"]} if "description" in value else {})
    out = {k: _lowered(v) for k, v in value.items() if k not in ("anyOf", "oneOf", "not", "allOf", "nullable")}
    if out.get("x-kubernetes-preserve-unknown-fields") and out.get("type") == "object":
        out.pop("properties", None)
    return out


def definition_name(resource: Resource) -> str:
    """Return the name of a kind's schema."""
    if resource.definition:
        return resource.definition
    return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])


def _reach(name: str, out: dict[str, Any]) -> None:
    if name in out:
        return
    known = definitions()
    out[name] = known[name]
    for part in msgspec.json.encode(known[name]).decode().split('"#/components/schemas/')[1:]:
        _reach(part.partition('"')[0], out)


def _schemas(resource: Resource) -> dict[str, Any]:
    out: dict[str, Any] = {}
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    name = definition_name(resource)
    if not resource.custom:
        _reach(name, out)
        if "list" in resource.verbs:
            _reach(name + "List", out)
    else:
        for needed in ("ObjectMeta", "ListMeta"):
            _reach(META + needed, out)
        out[name] = {**_with_standard_fields(resource.openapi), "x-kubernetes-group-version-kind": [kind]}
        out[name + "List"] = _list_schema(resource, name)
    for needed in ("Status", "DeleteOptions", "Patch"):
        _reach(META + needed, out)
    return out


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _with_standard_fields(raw: dict[str, Any]) -> dict[str, Any]:
    known = definitions()["io.k8s.api.core.v1.ConfigMap"]["properties"]
    standard = {name: known[name] for name in ("apiVersion", "kind", "metadata")}
    return {**raw, "properties": {**(raw.get("properties") or {}), **standard}}


def _list_schema(resource: Resource, name: str) -> dict[str, Any]:
    known = definitions()["io.k8s.api.core.v1.ConfigMapList"]["properties"]
    kind = {"group": resource.group, "version": resource.version, "kind": resource.list_kind}
    return {
        "type": "object",
        "description": f"{resource.list_kind} is a list of {resource.kind}",
        "required": ["items"],
        "properties": {
            "apiVersion": known["apiVersion"],
            "kind": known["kind"],
            "metadata": known["metadata"],
            "items": {"type": "array", "items": _ref(name), "description": f"List of {resource.plural}."},
        },
        "x-kubernetes-group-version-kind": [kind],
    }


def _document(resources: list[Resource]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for resource in resources:
        schemas |= _schemas(resource)
        paths |= _paths(resource)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "authorization",
                    "description": "Bearer Token authentication",
                }
            },
        },
    }


def _paths(resource: Resource, *, version2: bool = False) -> dict[str, Any]:
    root = f"{resource.path}/namespaces/{{namespace}}" if resource.namespaced else resource.path
    many, one = f"{root}/{resource.plural}", f"{root}/{resource.plural}/{{name}}"
    name = definition_name(resource)
    verbs: list[str] = [v for v in ("list", "create") if v in resource.verbs]
    out = {many: _operations(resource, verbs, name, version2)}
    if "get" in resource.verbs:
        verbs = [v for v in ("get", "update", "patch", "delete") if v in resource.verbs]
        out[one] = _operations(resource, verbs, name, version2)
        if resource.has_status:
            out[one + "/status"] = _operations(resource, ["get", "update", "patch"], name, version2)
    if resource.namespaced and "list" in resource.verbs:
        out[f"{resource.path}/{resource.plural}"] = _operations(resource, ["list"], name, version2)
    for path, item in out.items():
        item["parameters"] = [
            {"name": p, "in": "path", "required": True, **_typed("string", version2)}
            for p in ("name", "namespace")
            if f"{{{p}}}" in path
        ]
    return out


def _typed(kind: str, version2: bool) -> dict[str, Any]:
    return {"type": kind} if version2 else {"schema": {"type": kind, "uniqueItems": True}}


def _operations(resource: Resource, verbs: list[str], name: str, version2: bool) -> dict[str, Any]:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    out: dict[str, Any] = {}
    for verb in verbs:
        answer = {"list": name + "List", "delete": META + "Status"}.get(verb, name)
        body = {"create": name, "update": name, "patch": META + "Patch", "delete": META + "DeleteOptions"}.get(verb)
        operation: dict[str, Any] = {
            "operationId": f"{verb}{resource.kind}",
            "parameters": [
                {"name": q, "in": "query", **_typed(_TYPES.get(q, "string"), version2)} for q in _QUERY[verb]
            ],
            "x-kubernetes-action": {"create": "post", "update": "put"}.get(verb, verb),
            "x-kubernetes-group-version-kind": kind,
        }
        if version2:
            operation["responses"] = {"200": {"description": "OK", "schema": _ref(answer)}}
            if body:
                operation["parameters"].append({"name": "body", "in": "body", "required": True, "schema": _ref(body)})
        else:
            operation["responses"] = {
                "200": {"description": "OK", "content": {"application/json": {"schema": _ref(answer)}}}
            }
            if body:
                types: tuple[str, ...] = ("application/json", "application/yaml")
                if verb == "patch":  # kubectl reads from here whether it may send a strategic merge patch
                    types = _PATCHES[: -1 if resource.custom else None]
                operation["requestBody"] = {"content": {t: {"schema": _ref(body)} for t in types}, "required": True}
        out[_METHODS[verb]] = operation
    return out
