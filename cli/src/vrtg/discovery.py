"""Which resource is meant: one of the table's, or what the API server says that it serves."""

from __future__ import annotations

from vrtg.api import Api
from vrtg.failures import NotFoundError, UsageError
from vrtg.kinds_table import KNOWN, OURS, Resource


def by_name(name: str, api: Api) -> Resource:
    """The resource that people call `name`; unknown ones are asked of the server.

    Raises:
        UsageError: the server does not serve it either.
    """
    wanted = name.lower().split(".")[0]
    for resource in KNOWN:
        if wanted in resource.names:
            return resource
    for resource in discover(api):
        if wanted in resource.names:
            return resource
    known = ", ".join(sorted(resource.names[-1] for resource in OURS))
    raise UsageError(f'there is no resource "{name}" (of ours there are: {known})')


def by_kind(api_version: str, kind: str, api: Api) -> Resource:
    """The resource of a manifest.

    Raises:
        NotFoundError: the server does not serve the kind.
    """
    for resource in KNOWN:
        if (resource.api_version, resource.kind) == (api_version, kind):
            return resource
    group, _, version = api_version.rpartition("/")
    for resource in discover(api, group, version):
        if resource.kind == kind:
            return resource
    raise NotFoundError(f"the API server does not serve {kind} of {api_version}: check apiVersion and kind")


def discover(api: Api, group: str | None = None, version: str | None = None) -> list[Resource]:
    """What the server serves: all preferred versions, or one group and version."""
    if version:
        places = [(group or "", version)]
    else:
        groups = api.raw("/apis").get("groups", [])
        places = [("", "v1"), *((g["name"], g["preferredVersion"]["version"]) for g in groups)]
    found = []
    for place, at in places:
        try:
            answer = api.raw(f"/apis/{place}/{at}" if place else f"/api/{at}")
        except NotFoundError:
            continue
        for entry in answer.get("resources", []):
            if "/" in entry["name"]:
                continue
            names = (entry["name"], entry.get("singularName") or entry["kind"].lower(), *entry.get("shortNames", []))
            found.append(Resource(entry["kind"], entry["name"], place, at, names, bool(entry["namespaced"])))
    return found
