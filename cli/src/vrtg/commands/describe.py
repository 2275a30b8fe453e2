"""`vrtg describe`: one object in full, with its events."""

from __future__ import annotations

from typing import Any

from vrtg.api import Api
from vrtg.commands.get import age_of
from vrtg.commands.options import HERE, Where
from vrtg.discovery import by_name
from vrtg.kinds_table import EVENT, GROUP, VIRTUAL_MACHINE, Resource
from vrtg.terminal import COLOUR_OF, clean, paint, table

TRACE_ID = "virtrigaud.io/trace-id"
"""Annotation of an Event: the trace of what it tells of."""
Body = dict[str, Any]  # Any: an object, as JSON


def describe(resource: str, name: str, /, *, where: Where = HERE) -> None:
    """Show one object in full, with its conditions and events.

    Parameters
    ----------
    resource
        vm, provider, image, ...
    name
        Its name.
    """
    api = where.connect()
    kind = by_name(resource, api)
    namespace = where.within(api) if kind.namespaced else None
    body = api.get(kind, name, namespace)
    _head(kind, body)
    if kind is VIRTUAL_MACHINE:
        _machine(body)
    else:
        _tree("Spec", body.get("spec"))
        _tree("Status", {k: v for k, v in (body.get("status") or {}).items() if k != "conditions"})
    _conditions(body)
    _events(api, kind, body, namespace)


def _line(title: str, value: object) -> None:
    if value not in (None, "", [], {}):
        text = clean(value)
        print(f"{title + ':':<18}{paint(text, COLOUR_OF.get(text, ''))}")


def _head(kind: Resource, body: Body) -> None:
    metadata = body["metadata"]
    _line("Name", metadata["name"])
    _line("Namespace", metadata.get("namespace"))
    _line("Kind", kind.kind)
    _line("UID", metadata.get("uid"))
    _line("Created", f"{metadata.get('creationTimestamp')} ({age_of(metadata.get('creationTimestamp'))} ago)")
    if metadata.get("deletionTimestamp"):
        _line("Deleting since", f"{metadata['deletionTimestamp']} ({age_of(metadata['deletionTimestamp'])} ago)")
    _line("Trace", _trace(kind, metadata))
    for title, key in (("Labels", "labels"), ("Annotations", "annotations")):
        pairs = {k: v for k, v in (metadata.get(key) or {}).items() if not k.endswith("last-applied-configuration")}
        _line(title, ", ".join(f"{k}={v}" for k, v in sorted(pairs.items())))


def _trace(kind: Resource, metadata: Body) -> str:
    """Of the last change of the spec: it is told by the object alone, and stands in the logs whoever keeps spans."""
    if kind.group != GROUP or not metadata.get("uid") or not metadata.get("generation"):
        return ""
    from common import tracing

    generation = int(metadata["generation"])
    try:
        root = tracing.of_generation(metadata["uid"], generation, metadata.get("annotations") or {})
    except ValueError:  # as the controller does, which says so in an Event
        root = tracing.of_generation(metadata["uid"], generation, {})
    return f"{root.trace_id:032x} (generation {generation}, {'its creation' if generation == 1 else 'the last change'})"


def _machine(body: Body) -> None:
    spec, status = body["spec"], body.get("status") or {}
    _line("Phase", status.get("phase"))
    wanted, have = spec.get("powerState") or "On", status.get("powerState") or "Unknown"
    _line("Power", have if have == wanted else f"{have} (wanted: {wanted})")
    for title, key in (("Provider", "providerRef"), ("Class", "classRef"), ("Image", "imageRef")):
        _line(title, _reference(spec.get(key)))
    size = status.get("currentResources") or {}
    if size:
        cpus = size.get("cpu", "?")
        _line("Size", f"{cpus} CPU{'' if cpus == 1 else 's'}, {size.get('memoryMiB', '?')} MiB")
    _line("Hypervisor ID", status.get("id"))
    _line("Hypervisor name", status.get("hypervisorName"))
    _line("Host", status.get("host"))
    _line("Guest hostname", status.get("hostname"))
    if status.get("addresses"):
        print("\nAddresses:")
        rows = [
            [a.get("address"), a.get("interface", ""), a.get("mac", ""), a.get("source", "")]
            for a in status["addresses"]
        ]
        print(_indented(table(["ADDRESS", "INTERFACE", "MAC", "SEEN BY"], rows)))
    else:
        _line("IPs", ", ".join(status.get("ips") or []))
    for title, key in (("Disks", "disks"), ("Networks", "networks")):
        if spec.get(key):
            _tree(title, spec[key])
    if status.get("pendingChanges"):
        print("\nPending changes:")
        rows = [
            [c.get("field"), c.get("effect"), c.get("message"), "; ".join(_reason(r) for r in c.get("reasons") or [])]
            for c in status["pendingChanges"]
        ]
        print(_indented(table(["FIELD", "EFFECT", "CHANGE", "REASONS"], rows)))


def _reason(reason: object) -> str:
    return str(reason.get("message") or reason.get("code")) if isinstance(reason, dict) else str(reason)


def _reference(reference: Body | None) -> str:
    if not reference:
        return ""
    return f"{reference['namespace']}/{reference['name']}" if reference.get("namespace") else str(reference.get("name"))


def _tree(title: str, value: Any) -> None:
    if not value:
        return
    import yaml

    print(f"\n{title}:")
    print(_indented(clean(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)).rstrip()))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _conditions(body: Body) -> None:
    conditions = (body.get("status") or {}).get("conditions") or []
    if conditions:
        print("\nConditions:")
        newest = body["metadata"].get("generation") or 0
        rows = [
            [c["type"], c["status"], c.get("reason", ""), age_of(c.get("lastTransitionTime")), _said(c, newest)]
            for c in conditions
        ]
        print(_indented(table(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows)))


def _said(condition: Body, newest: int) -> str:
    """The message; with a word on what it is about, where that is not the object as it is now."""
    about, message = condition.get("observedGeneration") or newest, str(condition.get("message", ""))
    return message if about >= newest else f"(of generation {about}) {message}"


def _events(api: Api, kind: Resource, body: Body, namespace: str | None) -> None:
    uid = body["metadata"].get("uid")
    events = [e for e in api.list(EVENT, namespace)["items"] if e.get("involvedObject", {}).get("uid") == uid]
    if not events:
        print("\nEvents:           none")
        return
    print("\nEvents:")
    events.sort(key=_when)
    traces = [(e["metadata"].get("annotations") or {}).get(TRACE_ID, "") for e in events]
    rows = [
        [e.get("type"), e.get("reason"), age_of(_when(e)), e.get("count") or 1, *([trace] if any(traces) else []),
         e.get("message", "")]
        for e, trace in zip(events, traces, strict=True)
    ]  # fmt: skip
    print(_indented(table(["TYPE", "REASON", "AGE", "COUNT", *(["TRACE"] if any(traces) else []), "MESSAGE"], rows)))


def _when(event: Body) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
