"""`vrtg plan`: what an apply would change, with every reason."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from vrtg.commands.options import HERE, Form, Where
from vrtg.home import Home
from vrtg.planning import Plan, PlannedChange
from vrtg.terminal import emit, paint, table, warn


def plan(
    *,
    filename: Annotated[list[str], Parameter(name=["--filename", "-f"], allow_leading_hyphen=True)],
    output: Annotated[Form | None, Parameter(name=["--output", "-o"])] = None,
    where: Where = HERE,
) -> None:
    """Show what applying files would change on the hypervisor: each change, its effect, and every reason.

    Nothing is changed. A changed class, image or network is planned for every machine that refers to it.

    Parameters
    ----------
    filename
        File, folder or "-"; may be given several times.
    output
        json or yaml.
    """
    from vrtg.manifests import load
    from vrtg.planning import plan as ask

    manifests = load(filename, warn)
    for manifest in manifests:
        if where.namespace:
            manifest.body["metadata"].setdefault("namespace", where.namespace)
    api = where.connect()
    plans = asyncio.run(ask(api, Home.from_environment(), manifests))
    if output:
        emit([asdict(one) for one in plans], output)
        return
    if not plans:
        print("no machine is concerned")
    for number, one in enumerate(plans):
        if number:
            print()
        _show(one)


def _show(one: Plan) -> None:
    title = f"{one.namespace}/{one.name}"
    if not one.changes and not one.ignored:
        print(f"{paint(title, 'bold')}: nothing would change")
        return
    state = "would be changed" if one.exists else "would be created"
    print(f"{paint(title, 'bold')}: {state if one.changes else 'nothing would change'}")
    print(table(["FIELD", "EFFECT", "CHANGE", "REASONS"], [_row(c) for c in (*one.changes, *one.ignored)]))


def _row(change: PlannedChange) -> list[str]:
    return [change.field or "machine", change.effect, change.change, "; ".join(change.reasons)]
