"""The record of a machine: keys and values of `Machine.settings` that every provider writes alike."""

from __future__ import annotations

import hashlib
import json

from common import v1, wire

BOOT_DATA_SETTING = "boot-data"
"""Key of Machine.settings under which a driver reports `boot_data_digest` of the payload that it wrote."""

ADOPTED_SETTING = "adopted"
"""Key of Machine.settings, "true" on a machine that somebody else made and we adopted."""
DESCRIPTION_SETTING = "description"
"""Key of Machine.settings, "true" while the description is one that a spec asked for."""


def boot_data_digest(spec: v1.MachineSpec) -> str:
    """sha256 over everything that the first-boot payload is made of; "" when the spec has none.

    Salted with the UID, so that equal payloads of two machines do not show as equal.
    """
    boot = spec.boot_data or v1.BootData()
    addressing = wire.codec(v1.GuestAddressing)
    nics = [
        [nic.name, nic.mac, addressing.dumps(nic.addressing).hex()]
        for nic in spec.nics
        if nic.addressing is not None and nic.addressing != v1.GuestAddressing()
    ]
    if boot == v1.BootData() and not nics:
        return ""
    uid = spec.identity.uid if spec.identity is not None else ""
    parts = [uid, boot.user_data, boot.meta_data, boot.ignition, boot.hostname, nics]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def nic_settings(nic: v1.NicSpec) -> dict[str, str]:
    """What `Machine.settings` tells of a NIC by the field of NicSpec; empty where it holds nothing."""
    return {
        "mtu": str(nic.mtu or ""),
        "firewall": "true" if nic.firewall else "",
        "rate_limit_bytes": str(nic.rate_limit_bytes or ""),
        "trunks": ";".join(sorted(nic.trunks, key=lambda text: int(text.partition("-")[0]))),
    }


def affinity_words(rule: v1.AffinityRule) -> str:
    """What a rule asks for, as Machine.settings tells it: "apart", "together required"."""
    return ("apart" if rule.apart else "together") + (" required" if rule.required else "")
