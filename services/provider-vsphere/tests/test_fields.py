"""Attributes: our fields are written and emptied, another's stay."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from provider_vsphere.around import fields
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps.stamp import Stamp
from pyVmomi import vim

from .conftest import OWNER, create

MARK = Stamp("u", "shop", "web", OWNER, attributes={"cost": 101, "owner": 102})


def entity_with(**texts: str) -> Entity:
    value = vim.CustomFieldsManager.StringValue
    return Entity("VirtualMachine", "vm-1", {fields.TEXTS: [value(key=int(k[1:]), value=v) for k, v in texts.items()]})


def test_our_attributes_are_told_as_they_are_now() -> None:
    assert fields.observed(entity_with(k101="42", k900="another's"), MARK) == {"cost": "42", "owner": ""}
    assert fields.observed(Entity("VirtualMachine", "vm-1"), MARK) == {"cost": "", "owner": ""}


def test_a_field_is_ours_before_it_is_written_and_until_it_is_empty() -> None:
    claimed = fields.claimed(MARK, {"cost": 101, "team": 103})
    assert claimed is not None
    assert claimed.attributes == {"cost": 101, "owner": 102, "team": 103}
    assert fields.claimed(claimed, {"team": 103}) is None
    released = fields.released(claimed, ["cost", "team"])
    assert released == replace(claimed, attributes={"cost": 101, "team": 103})
    assert fields.released(claimed, ["cost", "team", "owner"]) is None


@pytest.mark.real
async def test_fields_are_defined_once_written_and_emptied(vsphere: Vsphere) -> None:
    uid = str(uuid.uuid4())
    entity = Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid))))
    await vsphere.refresh(entity)
    entity = vsphere.tree.get(entity.moid) or entity
    one, two = f"cost-{uid}", f"owner-{uid}"
    found = await fields.keys(vsphere, [two, one], "define")
    assert await fields.keys(vsphere, [one], "define again") == {one: found[one]}
    assert await fields.keys(vsphere, [], "nothing") == {}

    def define(login: object) -> int:
        manager = login.content.customFieldsManager  # type: ignore[attr-defined]  # pyvmomi's
        key: int = manager.AddCustomFieldDef(f"another-{uid}", vim.VirtualMachine, None, None).key
        manager.SetField(vsphere.machine(entity, login), key, "stays")  # type: ignore[arg-type]  # a Login
        return key

    anothers = await vsphere.call("another writes", define)
    await fields.write(vsphere, entity, {found[one]: "42", found[two]: "ann"}, "write")
    await vsphere.refresh(entity)
    assert fields.texts(entity) == {found[one]: "42", found[two]: "ann", anothers: "stays"}
    await fields.write(vsphere, entity, {found[one]: "42", found[two]: ""}, "empty one")
    await vsphere.refresh(entity)
    assert fields.texts(entity) == {found[one]: "42", anothers: "stays"}
