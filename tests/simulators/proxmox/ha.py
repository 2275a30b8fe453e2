"""What high availability changes for everybody else: its members are started and stopped by asking for it."""

from __future__ import annotations

from .calls import Call
from .tasks import Task


def managed(call: Call) -> dict[str, object]:
    """The `ha` part of a guest's status."""
    entry = call.world.ha.get(f"vm:{call.vmid}")
    return {"managed": 0} if entry is None else {"managed": 1, "state": entry.get("state", "started")}


def request_state(call: Call, kind: str, state: str) -> str:
    """Ask the HA managers for a state; the task ends long before the guest has changed."""

    async def worker(task: Task) -> None:
        task.log(f"Requesting HA {kind.removeprefix('ha')} for VM {call.vmid}")
        if (entry := call.world.ha.get(f"vm:{call.vmid}")) is not None:
            entry["state"] = state

    return call.world.tasks.start(call.who, call.node, kind, call.vmid, worker)
