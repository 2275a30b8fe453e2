"""Network adapters."""

from __future__ import annotations

from common import v1

from providerkit.record import nic_settings

from .situation import Situation, because

_Kind = v1.ChangeKind
_Effect = v1.Effect


def changes_of(at: Situation) -> list[v1.Change]:
    """NICs that we gave a name come, change and go; others are left alone."""
    if not at.want.nics and at.adopted:
        return []
    have = {nic.name: nic for nic in at.seen.nics if nic.name}
    wanted = {nic.name for nic in at.want.nics}
    changes = [
        _nic_shape(at, _Kind.DETACH_NIC, name, "detach", at.can.nic_hot_remove) for name in have if name not in wanted
    ]
    for nic in at.want.nics:
        if nic.name in have:
            changes += _known_nic(at, nic, have[nic.name])
        elif nic.name not in at.blocked:
            changes.append(_nic_shape(at, _Kind.ATTACH_NIC, nic.name, "attach", at.can.nic_hot_add))
    return changes


def _nic_shape(at: Situation, kind: v1.ChangeKind, name: str, verb: str, hot: bool) -> v1.Change:
    word = {"attach": "HotAdd", "detach": "HotRemove"}[verb]
    reasons = (
        [] if hot else [because(f"Nic{word}Unsupported", f"this provider does not {verb} NICs of a running machine")]
    )
    return at.shape(
        kind, f"nics[{name}]", f"{verb} NIC {name}", reasons, subject=name,
        offline=at.can.nic_offline_change, offline_code="NicOfflineChangeUnsupported",
    )  # fmt: skip


def _known_nic(at: Situation, want: v1.NicSpec, have: v1.Nic) -> list[v1.Change]:
    where, changes = f"nics[{want.name}]", []

    def update(field: str, message: str, reasons: list[v1.Reason]) -> None:
        changes.append(
            at.shape(
                _Kind.UPDATE_NIC, f"{where}.{field}", message, reasons, subject=want.name,
                offline=at.can.nic_offline_change, offline_code="NicOfflineChangeUnsupported",
            )
        )  # fmt: skip

    if want.network is not None and have.network is not None and not _same_network(want.network, have.network):
        reasons = []
        if not at.can.nic_online_update:
            reasons.append(because("NicOnlineUpdateUnsupported", "this provider re-plugs no NIC of a running machine"))
        update("network", f"move NIC {want.name} from {_network(have.network)} to {_network(want.network)}", reasons)
    fixed = [because("NicFixedWhileOn", "the guest sees it as another adapter, which needs a restart")]
    if want.model and have.model and want.model != have.model:
        update("model", f"change model of NIC {want.name} from {have.model} to {want.model}", fixed)
    if want.mac and have.mac and want.mac != have.mac.lower():
        update("mac", f"change MAC of NIC {want.name} from {have.mac} to {want.mac}", fixed)
    live = at.can.nic_online_update
    for field, wish in nic_settings(want).items():
        changes += at.setting(_Kind.UPDATE_NIC, f"{where}.{field}", wish, live=live, subject=want.name)
    return changes


def _same_network(want: v1.NetworkRef, have: v1.NetworkRef) -> bool:
    if want.kind is v1.NetworkKind.NAT:
        return have.kind is v1.NetworkKind.NAT
    same_switch = not want.switch or not have.switch or want.switch == have.switch
    return (want.kind, want.name, want.vlan) == (have.kind, have.name, have.vlan) and same_switch


def _network(network: v1.NetworkRef) -> str:
    name = f"{network.kind.name or int(network.kind)} {network.name}".strip().lower()
    return name + (f" vlan {network.vlan}" if network.vlan else "")
