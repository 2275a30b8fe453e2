"""Power: the state that is asked for, and the restart that written settings wait for."""

from __future__ import annotations

from collections.abc import Sequence

from common import v1

from .situation import OFF, ON, PAUSED, SUSPENDED, Situation, because, wished_power

_Kind = v1.ChangeKind
_Effect = v1.Effect


def change(want: v1.MachineSpec, machine: v1.Machine, can: v1.Capabilities) -> v1.Change | None:
    """The change of the power state; None when there is nothing to change, or no wish."""
    wish, seen = wished_power(want), machine.power
    if wish is v1.PowerState.UNSPECIFIED or wish is seen:
        return None
    effect, reasons = _Effect.ONLINE, []
    message = {ON: "power on", OFF: "power off", SUSPENDED: "suspend"}[wish]
    if wish is ON and seen in (SUSPENDED, PAUSED):
        message = "resume" + (f" (paused: {machine.power_reason})" if seen is PAUSED and machine.power_reason else "")
    if seen not in (ON, OFF, SUSPENDED, PAUSED):
        reasons.append(because("PowerStateUnknown", "the hypervisor does not tell the power state"))
    elif wish is SUSPENDED and seen is OFF:
        reasons.append(because("MachineOff", "a machine that is off has no memory to keep; power it on first"))
    elif wish is OFF and want.power is not None and want.power.graceful:
        message = "shut down gracefully"
        if not can.graceful_shutdown:
            reasons.append(
                because("GracefulShutdownUnsupported", "this provider cannot ask the guest; power off without grace")
            )
    if reasons:
        effect = _Effect.UNSUPPORTED
    return v1.Change(kind=_Kind.SET_POWER, field="power.state", effect=effect, message=message, reasons=reasons)


def restart(at: Situation) -> Sequence[v1.Change]:
    """What the hypervisor itself says waits for one."""
    if not at.seen.pending_restart or at.off or at.seen.power not in (ON, PAUSED):
        return ()
    reasons = [because("AwaitsRestart", line) for line in at.seen.pending_restart]
    message = "restart so that written settings take hold"
    return (
        v1.Change(kind=_Kind.RESTART, field="power.state", effect=_Effect.RESTART, message=message, reasons=reasons),
    )
