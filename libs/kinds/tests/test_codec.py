"""Decoding: a bad object is told apart and never spoils the others."""

from __future__ import annotations

import json

from kinds import codec
from kinds.metadata import LabelSelector, LabelSelectorRequirement
from kinds.virtualmachine import VirtualMachine

GOOD = {
    "apiVersion": "infra.virtrigaud.io/v1beta1",
    "kind": "VirtualMachine",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "managedFields": [{"manager": "kubectl"}]},
    "spec": {
        "classRef": {"name": "small"},
        "providerRef": {"name": "local"},
        "importedDisk": {"diskID": "d", "sizeGiB": 4},
    },
}
BAD = {"metadata": {"name": "broken", "uid": "u-2"}, "spec": {"classRef": {"name": "small"}, "providerRef": 7}}


def test_one_bad_object_does_not_stall_the_kind() -> None:
    page = {"metadata": {"resourceVersion": "41", "continue": "next"}, "items": [GOOD, BAD, {"spec": 1}]}
    good, bad, version, token = codec.decode_list(VirtualMachine, json.dumps(page).encode())
    assert [vm.metadata.name for vm in good] == ["web"]
    assert [(item.metadata.name, "providerRef" in item.error) for item in bad] == [("broken", True), ("", False)]
    assert (version, token) == ("41", "next")


def test_names_of_the_wire_are_kept() -> None:
    vm = codec.decode(VirtualMachine, json.dumps(GOOD).encode())
    assert isinstance(vm, VirtualMachine)
    assert vm.spec.imported_disk is not None
    assert (vm.spec.imported_disk.disk_id, vm.spec.imported_disk.size_gib) == ("d", 4)
    written = json.loads(codec.encode(vm))
    assert written["spec"]["importedDisk"] == {"diskID": "d", "sizeGiB": 4}


def test_an_object_without_status_has_an_empty_one() -> None:
    vm = codec.decode(VirtualMachine, json.dumps(GOOD).encode())
    assert isinstance(vm, VirtualMachine)
    assert vm.status.conditions == []


def test_label_selectors() -> None:
    selector = LabelSelector(
        match_labels={"team": "a"},
        match_expressions=[
            LabelSelectorRequirement("stage", "In", ["dev", "test"]),
            LabelSelectorRequirement("frozen", "DoesNotExist"),
            LabelSelectorRequirement("owner", "Exists"),
            LabelSelectorRequirement("zone", "NotIn", ["x"]),
        ],
    )
    labels = {"team": "a", "stage": "dev", "owner": "me"}
    assert selector.matches(labels)
    assert not selector.matches(labels | {"frozen": ""})
    assert not selector.matches(labels | {"zone": "x"})
    assert not selector.matches(labels | {"stage": "prod"})
    assert LabelSelector().matches({})


def test_numbers_and_nesting_beyond_all_bounds_are_a_bad_object() -> None:
    head = '{"metadata": {"name": "web"}, "spec": {"classRef": '
    for text in (head + "9" * 5000 + "}}", head + "[" * 5000 + "]" * 5000 + "}}"):
        assert isinstance(codec.decode(VirtualMachine, text.encode()), codec.BadObject)
