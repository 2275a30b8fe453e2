"""What statuses claim while faults go on, held against what the hypervisor shows all the while.

A status is written after the fact and read before the next one, so at any moment it may be late. What it must not be is
late for longer than the longest fault and everything that follows from it: a machine that is told to be Ready and On,
and that has been off in every look for so long, is a lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from e2e.stack import Object

from .kubectl import condition
from .sites import Found

LATE_SECONDS = 60.0
"""How late a status may be: a few faults, a Lease that has to run out, and the way of a change to the API."""
GAP_SECONDS = 15.0
"""After so long without a look nobody knows what was in between."""
LOOKS = 8
"""So many looks at least must have shown the same."""
ABSENT = "absent"


@dataclass
class _Shown:
    """What a machine has looked like without a break."""

    state: str
    since: float
    last: float
    looks: int = 1


class Claims:
    """Of one installation, over all of its runs."""

    def __init__(self, late: float = LATE_SECONDS) -> None:
        """Args: late: seconds; longer where single faults take long."""
        self._late = late
        self._shown: dict[str, _Shown] = {}
        self._claimed: set[str] = set()
        self.judged = 0
        """Claims that were old enough to be held against something."""

    def see(self, now: float, found: Iterable[Found]) -> None:
        """Take a look at the hypervisor. Args: now: seconds, of any steady clock."""
        states = dict.fromkeys(self._claimed, ABSENT)
        states |= {machine.uid: "On" if machine.on else "Off" for machine in found if machine.uid}
        busy = {machine.uid for machine in found if machine.busy}
        self._shown = {uid: self._look(uid, state, now) for uid, state in states.items() if uid not in busy}

    def _look(self, uid: str, state: str, now: float) -> _Shown:
        before = self._shown.get(uid)
        if before is None or before.state != state or now - before.last > GAP_SECONDS:
            return _Shown(state, now, now)
        return _Shown(state, before.since, now, before.looks + 1)

    def judge(self, objects: Iterable[Object]) -> str:
        """The first lie among the statuses; empty when there is none."""
        told = [body for body in objects if condition(body, "Ready").get("status") == "True"]
        self._claimed = {body["metadata"]["uid"] for body in told}
        for body in told:
            shown = self._shown.get(body["metadata"]["uid"])
            if shown is None or shown.last - shown.since < self._late or shown.looks < LOOKS:
                continue
            self.judged += 1
            claim = body["status"].get("powerState")
            if shown.state != claim:
                seconds = shown.last - shown.since
                name = body["metadata"]["name"]
                return f"{name} is told to be Ready and {claim}; for {seconds:.0f} s the hypervisor shows {shown.state}"
        return ""
