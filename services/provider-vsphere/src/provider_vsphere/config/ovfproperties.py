"""First-boot data for guests that read the OVF environment: properties of a template, filled in for each machine.

A template says by its properties that its guest asks for them; guest variables are handed over besides (`bootdata`).

Sources: cloud-init, data source "OVF"; vSphere Web Services API, VAppPropertyInfo.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from common import v1
from pyVmomi import vim

_LONGEST = 65535
"""Characters of a value. Source: VAppPropertyInfo.type, "string"."""


def filled(spec: v1.MachineSpec, properties: Sequence[Any]) -> Any | None:
    """The change of the machine's OVF environment; None when its template asks for nothing that we know.

    What the spec says nothing of loses the value that the template has: it would count as if the machine's owner had
    asked for it. A default of the template's author stays, which no value can hide.

    Args:
        properties: vim.vApp.PropertyInfo of the template.
    """
    values = _values(spec)
    edits = [
        vim.vApp.PropertySpec(operation="edit", info=vim.vApp.PropertyInfo(key=each.key, value=values[each.id]))
        for each in properties
        if each.id in values and each.userConfigurable and not each.classId and not each.instanceId
    ]
    return vim.vApp.VmConfigSpec(property=edits) if edits else None


def _values(spec: v1.MachineSpec) -> dict[str, str]:
    identity, boot = spec.identity or v1.MachineIdentity(), spec.boot_data or v1.BootData()
    values = dict.fromkeys(("instance-id", "hostname", "user-data", "public-keys", "seedfrom"), "")
    if spec.customization is not None:
        return values  # vSphere's own tools set up the guest; what is here would hold them off
    user_data = base64.b64encode(boot.user_data.encode()).decode()
    if len(user_data) <= _LONGEST:
        values["user-data"] = user_data
    return values | {"instance-id": identity.uid, "hostname": boot.hostname or identity.name}
