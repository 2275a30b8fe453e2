"""What vCenter says happened to a VM, and the alarms that are raised on it: why it is in the state that it is in.

Events come through one history collector of the failures and of HA's doings alone, whose newest page is pushed when one
happens: the others of a busy vCenter cost nothing. A happening explains one power state and is forgotten with it.
Source: EventHistoryCollector.latestPage; AlarmState in ManagedEntity.triggeredAlarmState.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from provider_vsphere.session.vim_errors import words

HAPPENING = "virtrigaud.happening"
"""Where the tree keeps the last one of a VM; no property of vSphere's."""
ALARMS = "triggeredAlarmState"
PAGE = 50
"""Events in a page: so many VMs may be restarted by HA at once before some of their reasons are missed."""
SLACK = datetime.timedelta(minutes=10)
"""So far may the clocks of a host and of vCenter differ."""
ON, OFF = "poweredOn", "poweredOff"
_MOST_TEXT = 256


@dataclass(frozen=True)
class Happening:
    """Attributes:
    explains: the power state that it is the reason of.
    """

    text: str
    explains: str
    at: datetime.datetime


def _failed(said: str) -> Callable[[Any], str]:
    def text(event: Any) -> str:
        fault = event.reason
        return f"{said}: {words(fault)}" if isinstance(fault, vmodl.MethodFault) else said

    return text


def _restarted(event: Any) -> str:
    source = event.sourceHost
    return f"HA restarted it, as host {source.name} failed" if source is not None else "HA restarted it on another host"


def _reset(event: Any) -> str:
    return f"HA reset it ({event.reason})" if event.reason else "HA reset it"


_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "VmFailedToPowerOnEvent": (OFF, _failed("it could not be started")),
    "VmFailoverFailed": (OFF, _failed("HA could not start it on another host")),
    "NotEnoughResourcesToStartVmEvent": (OFF, lambda _: "HA finds no host with room to start it"),
    "VmMaxRestartCountReached": (OFF, lambda _: "HA gave up to start it"),
    "VmShutdownOnIsolationEvent": (OFF, lambda _: "HA shut it down, as its host was cut off"),
    "VmRestartedOnAlternateHostEvent": (ON, _restarted),
    "VmDasBeingResetEvent": (ON, _reset),
    "VmDasBeingResetWithScreenshotEvent": (ON, _reset),
    "VmDasResetFailedEvent": (ON, lambda _: "HA could not reset it, though its guest does not answer"),
}


def collector_for(content: Any) -> Any:
    """A history collector of these events. Blocks."""
    wanted = vim.event.EventFilterSpec(eventTypeId=sorted(_KINDS), disableFullMessage=True)
    collector = content.eventManager.CreateCollectorForEvents(wanted)
    collector.SetCollectorPageSize(PAGE)
    return collector


def newest(events: Iterable[Any], after: int, *, history: bool) -> tuple[dict[str, Happening], int]:
    """The last happening of each VM, by its id, and the key of the last event.

    Args:
        after: key of the last event that is known.
        history: they were there before we came. What explains that a VM is off may be long past: it may have run since.
    """
    found = {}
    for event in sorted(events, key=lambda each: int(each.key)):
        kind = type(event).__name__.rpartition(".")[2]
        explains, text = _KINDS.get(kind, ("", str))
        if event.key <= after or event.vm is None or not explains:
            continue
        after = int(event.key)
        if not history or explains == ON:
            said = "".join(ch for ch in text(event)[:_MOST_TEXT] if ch.isprintable())
            found[str(event.vm.vm._moId)] = Happening(said, explains, event.createdTime)
    return found, after


def reason(facts: dict[str, Any]) -> str:
    """Why the VM is in its power state, as far as something happened; stable as long as nothing else does."""
    happened: Happening | None = facts.get(HAPPENING)
    if happened is None or happened.explains != facts.get("runtime.powerState"):
        return ""
    started = facts.get("runtime.bootTime")
    past = happened.explains == ON and (started is None or happened.at < started - SLACK)
    return "" if past else happened.text


def raised(states: Iterable[Any]) -> tuple[str, ...]:
    """Ids of alarms that are red and that nobody has acknowledged."""
    return tuple(sorted(each.alarm._moId for each in states if each.overallStatus == "red" and not each.acknowledged))


def alarm_names(content: Any, stub: Any, moids: Iterable[str]) -> dict[str, str]:
    """Names of alarms. Blocks."""
    kind = vmodl.query.PropertyCollector
    wanted = kind.FilterSpec(
        objectSet=[kind.ObjectSpec(obj=vim.alarm.Alarm(moid, stub)) for moid in moids],
        propSet=[kind.PropertySpec(type=vim.alarm.Alarm, all=False, pathSet=["info.name"])],
    )
    found = content.propertyCollector.RetrieveContents([wanted])
    return {str(each.obj._moId): str(change.val) for each in found for change in each.propSet}
