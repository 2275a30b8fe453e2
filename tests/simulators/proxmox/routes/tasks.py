"""Lists of tasks, one task, its log, and stopping it."""

from __future__ import annotations

import re
from typing import Any

from simulators.proxmox.calls import Call, Page, route
from simulators.proxmox.errors import bad
from simulators.proxmox.tasks import Task

UPID = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9.-]+):[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:"
    r"(?P<kind>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)


def whose(task: Task) -> dict[str, Any]:
    """The owner as lists tell it; a token stands apart from its user."""
    user, _, token = task.user.partition("!")
    return {"user": user, "tokenid": token} if token else {"user": user}


def row(task: Task) -> dict[str, Any]:
    """What every list and status has in common."""
    told = {"upid": task.upid, "node": task.node, "type": task.kind, "id": task.id, "starttime": task.starttime}
    return told | whose(task)


def visible(call: Call, task: Task) -> bool:
    """One's own tasks always; others' with Sys.Audit on the node."""
    return task.user.partition("!")[0] == call.who.user or call.may(f"/nodes/{task.node}", "Sys.Audit")


def ended_row(task: Task) -> dict[str, Any]:
    return {} if task.running else {"endtime": task.endtime, "status": task.exitstatus}


@route("GET", "/cluster/tasks")
async def cluster_tasks(call: Call) -> object:
    """The latest of every node, newest first."""
    return [
        row(task) | ({"pid": task.pid, "saved": "0"} if task.running else ended_row(task) | {"saved": "1"})
        for task in call.world.tasks.listed()
        if visible(call, task)
    ]


@route("GET", "/nodes/{node}/tasks")
async def node_tasks(call: Call) -> object:
    """Tasks of one node, newest first; the archive unless `source` says otherwise."""
    source = call.text("source", "archive")
    found = [task for task in reversed(call.world.tasks.all.values()) if task.node == call.node and visible(call, task)]
    found = [task for task in found if source == "all" or task.running == (source == "active")]
    if call.has("vmid"):
        found = [task for task in found if task.id == call.text("vmid")]
    if call.has("typefilter"):
        found = [task for task in found if task.kind == call.text("typefilter")]
    if call.has("userfilter"):
        found = [task for task in found if call.text("userfilter") in task.user]
    if call.flag("errors"):
        found = [task for task in found if task.exitstatus not in ("", "OK")]
    if call.has("since"):
        found = [task for task in found if task.starttime >= call.number("since")]
    if call.has("until"):
        found = [task for task in found if task.starttime <= call.number("until")]
    start, limit = call.number("start"), call.number("limit", 50)
    page = found[start : start + limit] if limit else found[start:]
    return Page([row(t) | {"pid": t.pid, "pstart": t.pstart} | ended_row(t) for t in page], len(found))


def one(call: Call, *, change: bool = False) -> Task:
    """The task in the path, for those who may see it or end it."""
    upid = call.path["upid"]
    parsed = UPID.fullmatch(upid)
    if parsed is None:
        raise bad(upid="unable to parse worker upid")
    if parsed["user"].partition("!")[0] != call.who.user:
        call.require(f"/nodes/{call.node}", "Sys.Modify" if change else "Sys.Audit")
    task = call.world.tasks.all.get(upid)
    if task is None or task.node != call.node:
        raise bad(upid="no such task")
    return task


@route("GET", "/nodes/{node}/tasks/{upid}/status")
async def status(call: Call) -> object:
    task = one(call)
    told = row(task) | {"pid": task.pid, "pstart": task.pstart, "status": "running" if task.running else "stopped"}
    return told if task.running else told | {"exitstatus": task.exitstatus}


@route("GET", "/nodes/{node}/tasks/{upid}/log")
async def log(call: Call) -> object:
    """Lines with their numbers; a task that is not there has one line that says so."""
    upid = call.path["upid"]
    if UPID.fullmatch(upid) is None:
        raise bad(upid="unable to parse worker upid")
    task = call.world.tasks.all.get(upid)
    if task is None or task.node != call.node:
        return Page([{"n": 1, "t": "unable to open file - No such file or directory"}], 1)
    one(call)
    start, limit = call.number("start"), call.number("limit", 50)
    lines = [{"n": n, "t": text} for n, text in enumerate(task.lines, 1)]
    page = lines[start : start + limit] if limit else lines[start:]
    return Page(page or [{"n": 1, "t": "no content"}], len(lines))


@route("DELETE", "/nodes/{node}/tasks/{upid}")
async def stop(call: Call) -> object:
    """Interrupt a task; one that is over stays as it is."""
    await call.world.tasks.cancel(one(call, change=True).upid)
    return None
