"""The built-in kinds: their definitions come from the published OpenAPI of Kubernetes, their rules are here."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from . import metadata
from .errors import Cause
from .events import from_core, to_core
from .resources import ALL_VERBS, Column, Object, Resource, Strategy
from .schema.nodes import Schema, compile_schema
from .times import age, instant

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
CORE = "io.k8s.api.core.v1."
CRD = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"
MAX_DATA = 1 << 20
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


@cache
def definitions() -> dict[str, Any]:
    """Return the published definitions by name."""
    raw = files("apiserver").joinpath("data/definitions.json").read_bytes()
    found: dict[str, Any] = json.loads(raw)["schemas"]
    return found


@cache
def definition_schema(name: str) -> Schema:
    """Return the schema of a published definition."""
    return compile_schema({"$ref": f"#/components/schemas/{name}"}, definitions().__getitem__, builtin=True)


def object_meta() -> Schema:
    """Return the schema of `metadata`."""
    return definition_schema(META + "ObjectMeta")


def name_column() -> Column:
    """The first column of every table."""
    text = definitions()[META + "ObjectMeta"]["properties"]["name"]["description"]
    return Column("Name", lambda o, _: o["metadata"].get("name", ""), format="name", description=text)


def age_column(description: str = "") -> Column:
    """The time since creation."""
    text = description or definitions()[META + "ObjectMeta"]["properties"]["creationTimestamp"]["description"]
    return Column("Age", lambda o, now: age(o["metadata"].get("creationTimestamp"), now), description=text)


def _count(*names: str) -> Callable[[Object, float], int]:
    return lambda obj, _: sum(len(obj.get(name) or {}) for name in names)


# ---- config maps and secrets ----


def _key_faults(obj: Object, field: str) -> list[Cause]:
    return [
        Cause("FieldValueInvalid", f'Invalid value: "{key}": {_KEY_TEXT}', f"{field}[{key}]")
        for key in obj.get(field) or {}
        if not _KEY.fullmatch(key) or len(key) > 253 or key in (".", "..")
    ]


def _immutable_faults(obj: Object, old: Object | None, fields: tuple[str, ...]) -> list[Cause]:
    if not old or not old.get("immutable"):
        return []
    text = "Forbidden: field is immutable when `immutable` is set"
    found = [Cause("FieldValueForbidden", text, f) for f in fields if (obj.get(f) or {}) != (old.get(f) or {})]
    return found + ([] if obj.get("immutable") else [Cause("FieldValueForbidden", text, "immutable")])


def _config_map_faults(obj: Object, old: Object | None) -> list[Cause]:
    found = _key_faults(obj, "data") + _key_faults(obj, "binaryData")
    found += _base64_faults(obj.get("binaryData") or {}, "binaryData")
    for key in (obj.get("data") or {}).keys() & (obj.get("binaryData") or {}).keys():
        text = f'Invalid value: "{key}": duplicate of key present in binaryData'
        found.append(Cause("FieldValueInvalid", text, f"data[{key}]"))
    size = sum(len(v.encode()) for f in ("data", "binaryData") for v in (obj.get(f) or {}).values())
    if size > MAX_DATA:
        found.append(Cause("FieldValueTooLong", f"Too long: may not be more than {MAX_DATA} bytes", "data"))
    return found + _immutable_faults(obj, old, ("data", "binaryData"))


def _base64_faults(data: dict[str, str], field: str) -> list[Cause]:
    found = []
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):  # the value is not shown: it may be a secret
            text = "Invalid value: not base64; plain text goes into stringData (secrets) or data (config maps)"
            found.append(Cause("FieldValueInvalid", text, f"{field}[{key}]"))
    return found


def _prepare_secret(obj: Object, old: Object | None) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        coded = {k: base64.b64encode(v.encode()).decode() for k, v in plain.items()}
        obj["data"] = {**(obj.get("data") or {}), **coded}


def _secret_faults(obj: Object, old: Object | None) -> list[Cause]:
    data = obj.get("data") or {}
    found = _key_faults(obj, "data") + _base64_faults(data, "data")
    if sum(len(v) * 3 // 4 for v in data.values()) > MAX_DATA:
        found.append(Cause("FieldValueTooLong", f"Too long: may not be more than {MAX_DATA} bytes", "data"))
    for key in _SECRET_KEYS.get(obj["type"], ()):
        if key not in data:
            found.append(Cause("FieldValueRequired", "Required value", f"data[{key}]"))
    if obj["type"] == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        found.append(Cause("FieldValueRequired", "Required value", "data[username]"))
    if old and obj["type"] != old.get("type"):
        text = f'Invalid value: "{obj["type"]}": field is immutable'
        found.append(Cause("FieldValueInvalid", text, "type"))
    return found + _immutable_faults(obj, old, ("data",))


# ---- namespaces ----


def _prepare_namespace(obj: Object, old: Object | None) -> None:
    labels = obj["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
    if old is None:
        obj["spec"] = {**(obj.get("spec") or {}), "finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    else:
        obj["spec"] = old.get("spec") or {}  # the finalizer goes through deletion alone


# ---- events ----


def _prepare_event(obj: Object, old: Object | None) -> None:
    obj.setdefault("reportingComponent", "")
    obj.setdefault("reportingInstance", "")


def _event_faults(obj: Object, old: Object | None) -> list[Cause]:
    inner = (obj.get("involvedObject") or {}).get("namespace") or "default"
    namespace = obj["metadata"].get("namespace", "")
    if inner != namespace:
        text = f'Invalid value: "{inner}": does not match event.namespace'
        return [Cause("FieldValueInvalid", text, "involvedObject.namespace")]
    return []


def _events_v1_faults(obj: Object, old: Object | None) -> list[Cause]:
    found = []
    needed = ("reportingController", "reportingInstance", "action", "reason", "type", "eventTime")
    if not obj.get("deprecatedFirstTimestamp"):  # one that was made as core/v1 keeps that version's rules
        found = [Cause("FieldValueRequired", "Required value", name) for name in needed if not obj.get(name)]
    core = {"involvedObject": obj.get("regarding") or {}, "metadata": obj["metadata"]}
    renamed = [Cause(c.reason, c.message, "regarding.namespace") for c in _event_faults(core, old)]
    return found + renamed


def _event_object(obj: Object, _: float) -> str:
    about = obj.get("involvedObject") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _event_source(obj: Object, _: float) -> str:
    source = obj.get("source") or {}
    component = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or obj.get("reportingInstance") or ""
    return f"{component}, {host}" if host else str(component)


def _first_seen(obj: Object) -> str | None:
    return obj.get("firstTimestamp") or obj.get("eventTime")


def _last_seen(obj: Object) -> str | None:
    return (obj.get("series") or {}).get("lastObservedTime") or obj.get("lastTimestamp") or _first_seen(obj)


def _event_count(obj: Object, _: float) -> int:
    return int((obj.get("series") or {}).get("count") or obj.get("count") or 1)


EVENT_COLUMNS = (
    Column("Last Seen", lambda o, now: age(_last_seen(o), now)),
    Column("Type", lambda o, _: o.get("type", "")),
    Column("Reason", lambda o, _: o.get("reason", "")),
    Column("Object", _event_object),
    Column("Subobject", lambda o, _: (o.get("involvedObject") or {}).get("fieldPath", ""), priority=1),
    Column("Source", _event_source, priority=1),
    Column("Message", lambda o, _: (o.get("message") or "").strip()),
    Column("First Seen", lambda o, now: age(_first_seen(o), now), priority=1),
    Column("Count", _event_count, type="integer", priority=1),
    Column("Name", lambda o, _: o["metadata"].get("name", ""), format="name", priority=1),
)
EVENT_FIELDS = frozenset(
    ["reason", "reportingComponent", "source", "type"]
    + [
        f"involvedObject.{n}"
        for n in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    ]
)
EVENTS_V1_FIELDS = frozenset(f.replace("involvedObject.", "regarding.") for f in EVENT_FIELDS) | {"reportingController"}


def _events_v1_columns() -> tuple[Column, ...]:
    def through(cell: Callable[[Object, float], Any]) -> Callable[[Object, float], Any]:
        return lambda obj, now: cell(to_core(obj), now)

    return tuple(Column(c.name, through(c.cell), c.type, c.format, c.description, c.priority) for c in EVENT_COLUMNS)


# ---- leases ----


def _lease_faults(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found = []
    for name, low in (("leaseDurationSeconds", 1), ("leaseTransitions", 0)):
        value = spec.get(name)
        if value is not None and value < low:
            text = f"Invalid value: {value}: must be at least {low}" if low else f"Invalid value: {value}: must be >= 0"
            found.append(Cause("FieldValueInvalid", text, f"spec.{name}"))
    for name in ("acquireTime", "renewTime"):
        if spec.get(name) and instant(spec[name]) is None:
            found.append(Cause("FieldValueInvalid", f'Invalid value: "{spec[name]}": no time', f"spec.{name}"))
    return found


def _crd_columns() -> tuple[Column, ...]:
    created = Column(
        "Created At",
        lambda o, _: o["metadata"].get("creationTimestamp", ""),
        type="date",
        description="when it was made",
    )
    return (name_column(), created)


def builtin_resources(crd_strategy: Strategy) -> list[Resource]:
    """Return all built-in kinds that store objects."""

    def make(definition: str, version: str, kind: str, plural: str, **more: Any) -> Resource:
        return Resource(
            group=more.pop("group", ""),
            version=version,
            kind=kind,
            plural=plural,
            singular=kind.lower(),
            list_kind=f"{kind}List",
            schema=definition_schema(definition),
            definition=definition,
            columns=more.pop("columns", (name_column(), age_column())),
            **more,
        )

    data = Column("Data", _count("data", "binaryData"), type="integer", description="how many keys it holds")
    secret_type = Column("Type", lambda o, _: o.get("type", ""), description="what its data is for")
    phase = Column("Status", lambda o, _: (o.get("status") or {}).get("phase", ""), description="Active or Terminating")
    secrets = Column("Secrets", _count("secrets"), type="integer", description="how many secrets it may use")
    holder = Column("Holder", lambda o, _: (o.get("spec") or {}).get("holderIdentity", ""), description="who holds it")
    return [
        make(
            CORE + "ConfigMap", "v1", "ConfigMap", "configmaps", short_names=("cm",),
            columns=(name_column(), data, age_column()), strategy=Strategy(validate=_config_map_faults),
        ),
        make(
            CORE + "Secret", "v1", "Secret", "secrets", selectable=frozenset({"type"}),
            columns=(name_column(), secret_type, data, age_column()),
            strategy=Strategy(_prepare_secret, _secret_faults),
        ),
        make(
            CORE + "Namespace", "v1", "Namespace", "namespaces", namespaced=False, short_names=("ns",),
            label_names=True, has_status=True, columns=(name_column(), phase, age_column()),
            selectable=frozenset({"status.phase"}),
            strategy=Strategy(_prepare_namespace), verbs=tuple(v for v in ALL_VERBS if v != "deletecollection"),
        ),
        make(
            CORE + "ServiceAccount", "v1", "ServiceAccount", "serviceaccounts", short_names=("sa",),
            columns=(name_column(), secrets, age_column()),
        ),
        make(
            CORE + "Event", "v1", "Event", "events", short_names=("ev",), columns=EVENT_COLUMNS, storage="events",
            selectable=EVENT_FIELDS, strategy=Strategy(_prepare_event, _event_faults), storage_api_version="v1",
        ),
        make(
            "io.k8s.api.events.v1.Event", "v1", "Event", "events", group="events.k8s.io", short_names=("ev",),
            columns=_events_v1_columns(), storage="events", selectable=EVENTS_V1_FIELDS,
            strategy=Strategy(validate=_events_v1_faults), to_stored=to_core, from_stored=from_core,
        ),
        make(
            "io.k8s.api.coordination.v1.Lease", "v1", "Lease", "leases", group="coordination.k8s.io",
            columns=(name_column(), holder, age_column()), strategy=Strategy(validate=_lease_faults),
            unconditional=False,
        ),
        make(
            CRD, "v1", "CustomResourceDefinition", "customresourcedefinitions", group="apiextensions.k8s.io",
            namespaced=False, short_names=("crd", "crds"), categories=("api-extensions",), has_status=True,
            columns=_crd_columns(), strategy=crd_strategy, counts_generation=True, unconditional=False,
        ),
    ]  # fmt: skip


def meta_faults(resource: Resource, obj: Object) -> list[Cause]:
    """List the faults of an object's metadata."""
    return metadata.faults(obj["metadata"], namespaced=resource.namespaced, label_names=resource.label_names)
