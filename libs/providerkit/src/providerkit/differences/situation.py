"""What every difference is judged by: what is wanted, seen and possible, and whether the machine is off by then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common import v1

from providerkit.record import ADOPTED_SETTING
from providerkit.refusals import Refusal
from providerkit.violations import MIB, plain

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED
_Kind = v1.ChangeKind
_Effect = v1.Effect


def wished_power(want: v1.MachineSpec) -> v1.PowerState:
    """UNSPECIFIED is no wish."""
    return want.power.state if want.power is not None else v1.PowerState.UNSPECIFIED


class Situation:
    """One plan in the making."""

    def __init__(
        self,
        want: v1.MachineSpec,
        seen: v1.Machine,
        can: v1.Capabilities,
        limits: v1.Limits,
        refused: list[Refusal],
        power: v1.Change | None,
    ) -> None:
        """Args: power: the change of the power state that is part of the plan."""
        self.want = want
        self.seen = seen
        self.can = can
        self.limits = limits
        self.blocked = {refusal.change.subject for refusal in refused if refusal.blocking}
        self.refused = {refusal.change.field for refusal in refused}
        self.adopted = seen.settings.get(ADOPTED_SETTING) == "true"
        self.power = power
        self.wish = wished_power(want)
        goes_off = power is not None and power.effect is _Effect.ONLINE and self.wish is OFF
        self.off = seen.power is OFF or goes_off
        self.running = not self.off and (seen.power is ON or (seen.power in (SUSPENDED, PAUSED) and self.wish is ON))

    def shape(
        self, kind: v1.ChangeKind, field: str, message: str, live: Iterable[v1.Reason], *, subject: str = "",
        offline: bool = True, offline_code: str = "",
    ) -> v1.Change:  # fmt: skip
        """A change of shape. `live` lists what forbids it on a running machine; none left means ONLINE."""
        reasons = list(live)
        if self.off:
            reasons = [] if offline else [because(offline_code, "cannot be done while the machine is off")]
            effect = _Effect.ONLINE if offline else _Effect.UNSUPPORTED
        else:
            if not self.running:
                state = self.seen.power.name.lower() if self.seen.power.name else "in an unknown state"
                reasons.append(because("MachineNotRunning", f"the machine is {state}"))
            effect = _Effect.ONLINE
            if reasons:
                effect = _Effect.RESTART if offline else _Effect.UNSUPPORTED
            if reasons and not offline:
                reasons.append(because(offline_code, "cannot be done while the machine is off, either"))
        return v1.Change(kind=kind, field=field, subject=subject, effect=effect, message=message, reasons=reasons)

    def needs_off(self, kind: v1.ChangeKind, field: str, message: str, code: str, *, subject: str = "") -> v1.Change:
        """A change of shape that a running machine never takes."""
        return self.shape(
            kind, field, message, [because(code, "cannot be changed while the machine runs")], subject=subject
        )

    def setting(self, kind: v1.ChangeKind, field: str, value: str, *, live: bool, subject: str = "") -> list[v1.Change]:
        """A wish that Machine.settings tells: not there, it does not hold; an empty wish is that it shall not."""
        have = self.seen.settings.get(field, "")
        if have == value or (not value and field in self.refused):
            return []
        message = f"change {field} from {have} to {value}"
        if not (have and value):
            message = f"set {field} to {value}" if value else f"take {field} {have} off"
        reasons = [] if live else [because("ReadAtStart", "the hypervisor reads it when the machine starts")]
        return [self.shape(kind, field, message, reasons, subject=subject)]

    def had_room(self, field: str) -> bool:
        """The machine was given room to grow, and its driver says so: room that is used up is as asked for."""
        return self.seen.settings.get(field) == "true"


def never(
    kind: v1.ChangeKind, field: str, message: str, effect: v1.Effect, code: str, why: str, subject: str = ""
) -> v1.Change:
    """A change that no restart brings: it is reported with this effect."""
    return v1.Change(
        kind=kind, field=field, subject=subject, effect=effect, message=message, reasons=[because(code, why)]
    )


def by_name(at: Situation, kind: v1.ChangeKind, field: str, wishes: Mapping[str, str]) -> list[v1.Change]:
    """What is written beside a machine in any state of it: by name, and gone once it is no longer asked for."""
    have = {key[len(field) + 1 : -1]: value for key, value in at.seen.settings.items()
            if key.startswith(f"{field}[")}  # fmt: skip
    changes = []
    for name in sorted(wishes.keys() | have.keys()):
        if wishes.get(name) == have.get(name):
            continue
        verb = "take off" if name not in wishes else "set" if name not in have else "change"
        where = f"{field}[{plain(name)}]"
        changes.append(
            v1.Change(kind=kind, field=where, subject=name, effect=_Effect.ONLINE, message=f"{verb} {where}")
        )
    return changes


def because(code: str, message: str) -> v1.Reason:
    """Why a change cannot be made at once."""
    return v1.Reason(code=code, message=message)


def mib(count: int) -> int:
    """MiB, rounded up: hypervisors round sizes up to their own granule, which is no difference."""
    return -(-count // MIB)
