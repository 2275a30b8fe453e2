"""Deciding what separates a machine from its spec: pure functions, the same for every provider.

What is compared with what
- Native fields of `v1.Machine` where it has them.
- `Machine.settings` for the rest, by the dotted field of the spec: "cpu.shares", "tuning.iommu",
  "disks[data].iops_limit", "placement.folder"; keys of extra_config stand for themselves; BOOT_DATA_SETTING holds
  `boot_data_digest`, and "placement.affinity[db]" the `affinity_words` of a rule.
- A fact that the hypervisor does not tell is never a difference.

What the spec no longer says
- What our record says was asked for earlier, and is asked for no longer, is a difference: it is taken off again. The
  record is what only we write: names of disks and NICs, `Machine.tags`, and the keys of `Machine.settings`. A driver
  never puts there what came with a template or a person; DESCRIPTION_SETTING says that the description is ours.
- What came from elsewhere is left alone: devices without a name, settings without a key, and the NICs and disks of an
  adopted machine (ADOPTED_SETTING) whose spec lists none: nobody may ever have described them.
- Some things are left to the provider once they are not asked for, because taking them away makes no sense: firmware,
  secure boot and TPM (what is installed would not start, or lose its keys), first-boot data and customization (the
  guest has read it), where the machine is, its topology, room to grow (a ceiling that nobody sees), the MAC and model
  of a NIC, the policy of guest tools (done is done), and the power state.
"""

from __future__ import annotations

import hashlib

from common import v1
from common.errors import InvalidSpecError

from .differences import disks, hardware, nics, places, power, texts
from .differences.situation import Situation
from .record import (
    ADOPTED_SETTING,
    BOOT_DATA_SETTING,
    DESCRIPTION_SETTING,
    affinity_words,
    boot_data_digest,
    nic_settings,
)
from .refusals import narrow
from .violations import check

__all__ = [
    "ADOPTED_SETTING", "BOOT_DATA_SETTING", "DESCRIPTION_SETTING", "affinity_words", "boot_data_digest", "check",
    "hypervisor_name", "nic_settings", "plan", "require_valid", "supported",
]  # fmt: skip

LONGEST_NAME = 200
"""Characters; leaves room for the suffixes of files that hypervisors name after machines (255 is their end)."""

ON, OFF = v1.PowerState.ON, v1.PowerState.OFF
_Kind = v1.ChangeKind
_Effect = v1.Effect


def hypervisor_name(identity: v1.MachineIdentity) -> str:
    """Name on the hypervisor: unique in an installation, readable, free of anything a namespace or name cannot hold.

    One that is longer than LONGEST_NAME ends with a digest of the whole.
    """
    name = f"{identity.namespace}.{identity.name}"
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: LONGEST_NAME - 17]}-{digest}"


def require_valid(want: v1.MachineSpec | None, limits: v1.Limits | None = None) -> v1.MachineSpec:
    """The spec itself.

    Raises:
        InvalidSpecError: names every violation.
    """
    if want is None:
        raise InvalidSpecError("spec: is missing")
    if violations := check(want, limits):
        raise InvalidSpecError("; ".join(violations))
    return want


def supported(want: v1.MachineSpec, can: v1.Capabilities) -> v1.MachineSpec:
    """The part of the spec that this provider can have: what a driver is given to create."""
    return narrow(want, None, can)[0]


def plan(
    want: v1.MachineSpec, seen: v1.Machine | None, can: v1.Capabilities, limits: v1.Limits | None = None
) -> list[v1.Change]:
    """List what separates `seen` from `want`, in the order to do it; empty means settled.

    The order is safe: power off and resume come before the changes, power on after; what cannot be done is last.
    """
    narrowed, refused = narrow(want, seen, can)
    refusals = [refusal.change for refusal in refused]
    if seen is None:
        blocking = [reason for refusal in refused if refusal.blocking for reason in refusal.change.reasons]
        create = v1.Change(
            kind=_Kind.CREATE,
            effect=_Effect.UNSUPPORTED if blocking else _Effect.ONLINE,
            message=f"create machine {_label(want)}",
            reasons=blocking,
        )
        return [create, *refusals]
    at = Situation(narrowed, seen, can, limits or v1.Limits(), refused, power.change(narrowed, seen, can))
    return [*_in_order(at), *refusals]


def _in_order(at: Situation) -> list[v1.Change]:
    """Every difference, in a safe order."""
    shape = [*hardware.cpu(at), *hardware.memory(at), *hardware.firmware(at), *hardware.tuning(at)]
    shape += [*hardware.extra_config(at), *disks.changes_of(at), *disks.cdroms(at), *nics.changes_of(at)]
    shape += [*texts.boot_data(at), *places.placement(at), *places.affinity(at)]
    shape += [*texts.tags_and_description(at), *texts.attributes(at), *hardware.gpus(at)]
    doable = [change for change in shape if change.effect is _Effect.ONLINE]
    waiting = [change for change in shape if change.effect is _Effect.RESTART]
    never = [change for change in shape if change.effect not in (_Effect.ONLINE, _Effect.RESTART)]
    power_first = at.seen.power is not OFF and at.wish in (ON, OFF)
    change_of_power = [at.power] if at.power is not None else []
    before, after = (change_of_power, []) if power_first else ([], change_of_power)
    return [*before, *doable, *waiting, *power.restart(at), *after, *never]


def _label(want: v1.MachineSpec) -> str:
    return hypervisor_name(want.identity) if want.identity is not None else "without identity"
