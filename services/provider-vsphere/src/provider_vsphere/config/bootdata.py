"""First-boot data as guest variables, which the guest reads through VMware Tools: no ISO, no file on a datastore.

Sources: cloud-init, "VMware" data source (guestinfo.metadata, guestinfo.userdata, their `.encoding`; the network
configuration is part of the metadata) and "Networking config version 2"; Ignition, "VMware" platform
(guestinfo.ignition.config.data).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from common import v1
from providerkit import cloudinit

USER_DATA = "guestinfo.userdata"
META_DATA = "guestinfo.metadata"
VENDOR_DATA = "guestinfo.vendordata"
IGNITION = "guestinfo.ignition.config.data"
_ALL = (USER_DATA, META_DATA, VENDOR_DATA, IGNITION)


def variables(spec: v1.MachineSpec, macs: Mapping[str, str]) -> dict[str, str]:
    """What the spec hands over, by key; empty when that is nothing, or when the guest is customized instead.

    Args:
        macs: MAC of each NIC by its name.
    Raises:
        InvalidSpecError: meta_data is no YAML mapping, or says what the NICs say too; the text is never repeated.
    """
    if spec.customization is not None:
        return {}  # vSphere's own tools set up the guest; what is here would hold them off
    boot = spec.boot_data or v1.BootData()
    texts = {USER_DATA: boot.user_data, IGNITION: boot.ignition}
    nics = cloudinit.network(spec, macs) if cloudinit.addressed(spec) else None
    if boot.user_data or boot.meta_data or boot.hostname or nics is not None:
        texts[META_DATA] = cloudinit.meta_data(spec, nics)
    found = {}
    for key, text in texts.items():
        if text:
            found[key] = base64.b64encode(text.encode()).decode()
            found[f"{key}.encoding"] = "base64"
    return found


def replacing(spec: v1.MachineSpec, macs: Mapping[str, str]) -> dict[str, str]:
    """The same over what a machine or template has: every key that the spec says nothing of is emptied, which removes
    it. A template's own user-data would run in the guest as if its owner had asked for it."""
    return {name: "" for key in _ALL for name in (key, f"{key}.encoding")} | variables(spec, macs)
