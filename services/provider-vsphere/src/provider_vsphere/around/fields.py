"""Attributes: custom fields of the vCenter, one definition per name for all VMs, one text per VM.

The stamp holds which of a machine's fields are ours, by the definition's key; what others write stays. A key is put
there before the first text is written, and taken out after the text is gone, so that a change that was cut off in
between shows as a difference and is made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from common import faults
from pyVmomi import vim

from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps.stamp import Stamp

CLAIMED = faults.declare("vsphere.attributes.claimed", "the stamp says which fields are ours, and none is written yet")
TEXTS = "customValue"
"""The fact that holds all texts of a VM."""


def texts(entity: Entity) -> dict[int, str]:
    """What is written in its fields, by key. An empty text cannot be told from none."""
    found = entity.facts.get(TEXTS) or ()
    return {each.key: str(each.value) for each in found if getattr(each, "value", None)}


def observed(entity: Entity, record: Stamp) -> dict[str, str]:
    """Our attributes as they are now, by name."""
    there = texts(entity)
    return {name: there.get(key, "") for name, key in record.attributes.items()}


def claimed(record: Stamp, keys: Mapping[str, int]) -> Stamp | None:
    """The stamp with these fields besides those that are ours already; None when it has them."""
    both = record.attributes | dict(keys)
    return replace(record, attributes=both) if both != record.attributes else None


def released(record: Stamp, names: Iterable[str]) -> Stamp | None:
    """The stamp with only these fields; None when it has no others."""
    kept = {name: key for name, key in record.attributes.items() if name in set(names)}
    return replace(record, attributes=kept) if kept != record.attributes else None


async def keys(vsphere: Vsphere, names: Iterable[str], doing: str) -> dict[str, int]:
    """Key of the definition of each name; one that is not there is made.

    Raises:
        PermissionMissingError: it is not there, and we may not make it.
    """
    wanted = sorted(set(names))

    def look(login: Login) -> dict[str, int]:
        manager = login.content.customFieldsManager
        found = _definitions(manager)
        for name in wanted:
            if name not in found:
                found |= _define(manager, name)
        return {name: found[name] for name in wanted}

    return await vsphere.call(doing, look) if wanted else {}


def _definitions(manager: Any) -> dict[str, int]:
    """Those that a VM can have; one for VMs alone counts before one for everything."""
    found = sorted(manager.field or (), key=lambda each: each.managedObjectType is not None)
    return {each.name: each.key for each in found if each.managedObjectType in (None, vim.VirtualMachine)}


def _define(manager: Any, name: str) -> dict[str, int]:
    try:
        return {name: manager.AddCustomFieldDef(name, vim.VirtualMachine, None, None).key}
    except vim.fault.DuplicateName:  # somebody was faster
        return _definitions(manager)


async def write(vsphere: Vsphere, entity: Entity, wanted: Mapping[int, str], doing: str) -> None:
    """Write these texts where others are; an empty one takes the text away.

    Args:
        wanted: texts by key.
    """
    there = texts(entity)
    changed = {key: text for key, text in wanted.items() if there.get(key, "") != text}

    def set_fields(login: Login) -> None:
        for key, text in changed.items():
            login.content.customFieldsManager.SetField(vsphere.machine(entity, login), key, text)

    if changed:
        await vsphere.call(doing, set_fields)
