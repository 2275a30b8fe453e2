"""MACs of NICs whose spec gives none: always the same for the same machine and name, and never another machine's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container

from common import v1

Draw = Callable[[bytes], str]
"""Makes a MAC, lower case, of the first bytes of a digest; in the range that the hypervisor leaves for such."""


def macs(spec: v1.MachineSpec, taken: Container[str], draw: Draw) -> dict[str, str]:
    """MAC of each NIC by its name: the spec's, else derived.

    Args:
        taken: MACs of other machines, lower case.
    """
    uid = (spec.identity or v1.MachineIdentity()).uid
    found = {nic.name: nic.mac.lower() for nic in spec.nics if nic.mac}
    for nic in spec.nics:
        if not nic.mac:
            attempt = 0
            while (mac := draw(_digest(uid, nic.name, attempt))) in taken or mac in found.values():
                attempt += 1
            found[nic.name] = mac
    return found


def _digest(uid: str, nic: str, attempt: int) -> bytes:
    return hashlib.sha256(f"{uid}/{nic}/{attempt}".encode()).digest()
