"""Discovery: which groups, versions and kinds there are."""

from __future__ import annotations

from typing import Any

from .resources import Registry, Resource

AGGREGATED = {"kind": "APIGroupDiscoveryList", "metadata": {}}


def api_versions() -> dict[str, Any]:
    """Return /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_groups(registry: Registry) -> dict[str, Any]:
    """Return /apis."""
    groups = [api_group(group, versions) for group, versions in sorted(registry.versions().items()) if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(group: str, versions: list[str]) -> dict[str, Any]:
    """Return one group; its preferred version stands first."""
    named = [{"groupVersion": f"{group}/{v}", "version": v} for v in versions]
    return {"name": group, "versions": named, "preferredVersion": named[0]}


def api_resources(registry: Registry, group: str, version: str) -> dict[str, Any] | None:
    """Return the resources of a group-version, or None if there are none."""
    found = registry.of(group, version)
    if not found:
        return None
    entries = [entry for resource in found for entry in _entries(resource)]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _entries(resource: Resource) -> list[dict[str, Any]]:
    main: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        main["shortNames"] = list(resource.short_names)
    if resource.categories:
        main["categories"] = list(resource.categories)
    out = [main]
    for sub, kind, group, version in _subresources(resource):
        entry = {
            "name": f"{resource.plural}/{sub}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": ["get", "patch", "update"],
        }
        if (group, version) != (resource.group, resource.version):
            entry |= {"group": group, "version": version}
        out.append(entry)
    return out


def _subresources(resource: Resource) -> list[tuple[str, str, str, str]]:
    own = (resource.kind, resource.group, resource.version)
    out = [("status", *own)] if resource.has_status else []
    if resource.scale is not None:
        out.append(("scale", "Scale", "autoscaling", "v1"))
    return out


def aggregated(registry: Registry, *, core: bool, version: str) -> dict[str, Any]:
    """Return all groups at once (apidiscovery.k8s.io); `core` asks for what /api holds."""
    items = []
    for group, versions in sorted(registry.versions().items()):
        if bool(group) == core:
            continue
        inner = [
            {"version": v, "freshness": "Current", "resources": [_aggregated(r) for r in registry.of(group, v)]}
            for v in versions
        ]
        items.append({"metadata": {"name": group} if group else {}, "versions": inner})
    return {**AGGREGATED, "apiVersion": f"apidiscovery.k8s.io/{version}", "items": items}


def _aggregated(resource: Resource) -> dict[str, Any]:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    out: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        out["shortNames"] = list(resource.short_names)
    if resource.categories:
        out["categories"] = list(resource.categories)
    subs = [
        {
            "subresource": sub,
            "responseKind": {"group": group, "version": version, "kind": sub_kind},
            "verbs": ["get", "patch", "update"],
        }
        for sub, sub_kind, group, version in _subresources(resource)
    ]
    if subs:
        out["subresources"] = subs
    return out
