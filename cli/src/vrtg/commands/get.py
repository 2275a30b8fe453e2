"""`vrtg get`: objects as tables, JSON or YAML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from vrtg.api import Api
from vrtg.commands.options import HERE, Where
from vrtg.discovery import by_name
from vrtg.failures import NotFoundError, UsageError
from vrtg.kinds_table import Resource
from vrtg.terminal import emit, say, table

Rows = list[dict[str, Any]]  # Any: rows of a server-side Table


def get(
    resource: str,
    /,
    *names: str,
    where: Where = HERE,
    all_namespaces: Annotated[bool, Parameter(name=["--all-namespaces", "-A"], negative=())] = False,
    output: Annotated[Literal["wide", "json", "yaml", "name"] | None, Parameter(name=["--output", "-o"])] = None,
    selector: Annotated[str | None, Parameter(name=["--selector", "-l"])] = None,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative=())] = False,
) -> None:
    """Show objects.

    Parameters
    ----------
    resource
        What to show: vm, provider, class, image, network, or any resource of the API server.
    names
        Only these; none means all.
    all_namespaces
        Of every namespace.
    output
        wide, json, yaml or name.
    selector
        Only objects with these labels: "app=web".
    watch
        Go on showing changes until Ctrl-C.
    """
    if all_namespaces and names:
        raise UsageError("a name belongs to one namespace: pass NAME or -A, not both")
    api = where.connect()
    kind = by_name(resource, api)
    namespace = None if all_namespaces or not kind.namespaced else where.within(api)
    if output in ("json", "yaml"):
        _documents(api, kind, names, namespace, selector, output)
        return
    listed = _rows(api, kind, names, namespace, selector)
    if not listed["rows"] and not watch:
        place = f' in namespace "{namespace}"' if namespace else ""
        say(f"there is no {kind.names[0]}{place}")
        return
    show = _Printer(kind, listed, wide=output == "wide", named=output == "name", namespaces=all_namespaces)
    show.rows(listed["rows"])
    if watch:
        _follow(api, kind, names, namespace, listed["metadata"].get("resourceVersion", ""), show)


def _documents(
    api: Api, kind: Resource, names: Sequence[str], namespace: str | None, selector: str | None, form: str
) -> None:
    if len(names) == 1:
        emit(without_noise(api.get(kind, names[0], namespace)), form)
        return
    if names:
        items = [api.get(kind, name, namespace) for name in names]
    else:
        listing = api.list(kind, namespace, selector=selector)
        items = listing["items"]
        for item in items:  # members of a list come without their type
            item.setdefault("apiVersion", kind.api_version)
            item.setdefault("kind", kind.kind)
    emit({"apiVersion": "v1", "kind": "List", "items": [without_noise(item) for item in items]}, form)


def without_noise(body: dict[str, Any]) -> dict[str, Any]:
    """An object without managedFields, its type first."""
    body.get("metadata", {}).pop("managedFields", None)
    return {"apiVersion": body.pop("apiVersion", None), "kind": body.pop("kind", None), **body}


def _rows(api: Api, kind: Resource, names: Sequence[str], namespace: str | None, selector: str | None) -> Any:
    if not names:
        return api.list(kind, namespace, selector=selector, table=True)
    answers = [api.get(kind, name, namespace, table=True) for name in names]
    return {**answers[0], "rows": [row for answer in answers for row in answer["rows"]]}


def _follow(
    api: Api, kind: Resource, names: Sequence[str], namespace: str | None, version: str, show: _Printer
) -> None:
    """Print each change; when the server ends the watch, go on from the last version seen."""
    only = names[0] if len(names) == 1 else None
    while True:
        for event in api.watch(kind, namespace, version=version, name=only, table=True):
            if event["type"] == "ERROR":
                if event["object"].get("code") == 410:
                    version = ""  # our version is too old: begin with what is there
                    break
                raise NotFoundError(str(event["object"].get("message", "the watch failed")))
            rows = event["object"].get("rows") or []
            for row in rows:
                version = row["object"]["metadata"].get("resourceVersion", version)
            if event["type"] == "BOOKMARK":
                version = event["object"].get("metadata", {}).get("resourceVersion") or version
                continue
            show.rows([row for row in rows if not names or row["object"]["metadata"]["name"] in names])


class _Printer:
    """Prints rows of one Table; the header once."""

    def __init__(self, kind: Resource, first: dict[str, Any], *, wide: bool, named: bool, namespaces: bool) -> None:
        columns = first.get("columnDefinitions") or []
        self._kind, self._named, self._namespaces = kind, named, namespaces
        self._shown = [i for i, column in enumerate(columns) if wide or not column.get("priority")]
        self._header = [columns[i]["name"].upper() for i in self._shown]
        self._widths: list[int] = []
        self._begun = False

    def rows(self, rows: Rows) -> None:
        if self._named:
            for row in rows:
                print(f"{self._kind.label}/{row['object']['metadata']['name']}", flush=True)
            return
        header, lines = list(self._header), []
        for row in rows:
            cells = ["" if row["cells"][i] is None else str(row["cells"][i]) for i in self._shown]
            lines.append([row["object"]["metadata"].get("namespace", ""), *cells] if self._namespaces else cells)
        if self._namespaces:
            header.insert(0, "NAMESPACE")
        if lines or not self._begun:
            # Later rows keep the columns of the first print, so that a watch stays readable.
            self._widths = [
                max([w, *(len(line[i]) for line in ([header, *lines]))])
                for i, w in enumerate(self._widths or [0] * len(header))
            ]
            print(table(header, lines, show_header=not self._begun, widths=self._widths), flush=True)
            self._begun = True


def age_of(timestamp: str | None) -> str:
    """Age of an RFC 3339 time, for people."""
    from vrtg.terminal import age

    if not timestamp:
        return "<unknown>"
    return age((datetime.now(UTC) - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds())
