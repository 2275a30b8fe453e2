"""First-boot data in a template's OVF properties."""

from __future__ import annotations

import base64
import uuid
from typing import Any

from common import v1
from provider_vsphere.config import ovfproperties
from pyVmomi import SoapAdapter, vim

UID = str(uuid.uuid4())


def template(*ids: str, **fields: Any) -> list[Any]:
    """Properties of a template, each with a value of its author's."""
    told = {"userConfigurable": True, "classId": "", "instanceId": "", "value": "author's"} | fields
    return [vim.vApp.PropertyInfo(key=key, id=name, **told) for key, name in enumerate(ids)]


def spec(**fields: Any) -> v1.MachineSpec:
    identity = v1.MachineIdentity(uid=UID, namespace="lab", name="web", owner="tests")
    return v1.MachineSpec(identity=identity, **fields)


def values(wish: v1.MachineSpec, properties: list[Any]) -> dict[str, str]:
    change = ovfproperties.filled(wish, properties)
    if change is None:
        return {}
    assert SoapAdapter.Serialize(change)
    ids = {each.key: each.id for each in properties}
    assert {each.operation for each in change.property} == {"edit"}
    return {ids[each.info.key]: each.info.value for each in change.property}


def test_what_the_template_asks_for_is_filled_in() -> None:
    wish = spec(boot_data=v1.BootData(user_data="#cloud-config\n", hostname="db"))
    assert values(wish, template("hostname", "user-data", "instance-id", "colour")) == {
        "hostname": "db",
        "user-data": base64.b64encode(b"#cloud-config\n").decode(),
        "instance-id": UID,
    }


def test_the_name_of_the_machine_is_that_of_its_host() -> None:
    assert values(spec(), template("hostname")) == {"hostname": "web"}


def test_a_templates_own_values_are_taken_away() -> None:
    assert values(spec(), template("user-data", "public-keys", "seedfrom")) == {
        "user-data": "", "public-keys": "", "seedfrom": "",
    }  # fmt: skip


def test_a_template_that_asks_for_nothing_gets_nothing() -> None:
    assert values(spec(), template("colour")) == {}
    assert values(spec(), template("hostname", userConfigurable=False)) == {}
    assert values(spec(), template("hostname", classId="com.example")) == {}


def test_a_guest_that_is_customized_is_told_nothing_else() -> None:
    wish = spec(customization=v1.Customization(), boot_data=v1.BootData(user_data="x"))
    assert set(values(wish, template("user-data", "hostname")).values()) == {""}


def test_user_data_that_is_too_long_goes_by_guest_variables_alone() -> None:
    wish = spec(boot_data=v1.BootData(user_data="x" * 60_000))
    assert values(wish, template("user-data")) == {"user-data": ""}
