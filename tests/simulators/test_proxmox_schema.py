"""Validation by the product's own description of its API."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from simulators.proxmox import proxmox
from simulators.proxmox.client import client
from simulators.proxmox.reference import RECORDING, SCHEMA, reference
from simulators.proxmox.rules import Rule
from simulators.proxmox.schema import Schema, check_object, check_value

ABSENT = "the reference of Proxmox VE's API is not here: PVE_REFERENCE_DIR names no directory with it"
NOT_IN_SCHEMA = "property is not defined in schema and the schema does not allow additional properties"
VM = "/nodes/{node}/qemu/{vmid}"

# What a 400 names that the description does not know: the method itself found it, in its second look.
FOUND_LATER = (
    "Only root may use this option.",
    r"VM \d+ already exists",
    "No such storage.",
    "interface does not exist",
    "no such task",
    "unable to parse worker upid",
    "storage '.*' does not support vm images",
    "unknown option '.*'",
    "you can't use .* at the same time",
    "invalid filename or wrong extension",
    "'import-from' requires special syntax .*",
    ".* has wrong type 'iso' .*",
    "hotplug problem - .*",
)


@pytest.fixture(scope="module")
def schema() -> Schema:
    found = Schema.find()
    if found is None:
        pytest.skip(ABSENT)  # also under REQUIRE_REAL: the reference is data that not everybody may have
    return found


def recorded() -> list[dict[str, Any]]:
    file = reference(RECORDING)
    assert file is not None
    return [line for line in map(json.loads, file.read_text().splitlines()) if line["request"] is not None]


def template(schema: Schema, method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """The description's path that matches, and what its variables stand for."""
    for known, pattern in schema.paths():
        names = re.sub(r"\\{volume\\}", "(?P<volume>.+)", re.escape(pattern))
        names = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", names)
        if known == method and (found := re.fullmatch(names, path)):
            return pattern, found.groupdict()
    return None


def plain(value: object) -> Any:
    return str(int(value)) if isinstance(value, bool) else value if isinstance(value, list) else str(value)


def test_every_recorded_request_is_judged_as_the_product_judged_it(schema: Schema) -> None:
    judged = 0
    for line in recorded():
        request = line["request"]
        found = template(schema, request["method"], request["path"])
        if found is None:
            assert line["status"] == 501, f"{line['step']}: the description lacks {request['path']}"
            continue
        pattern, variables = found
        given = variables | {name: plain(value) for name, value in (request["params"] or {}).items()}
        if pattern.endswith("/upload"):
            given["filename"] = "left-out-in-the-recording.qcow2"
        if line["status"] == 500 and "hostname lookup" in line["reason"]:
            continue  # the way to the node is sought before the parameters are judged
        told = line["body"].get("errors", {}) if isinstance(line["body"], dict) else {}
        expected = {name: text for name, text in told.items() if not re.fullmatch("|".join(FOUND_LATER), text.strip())}
        assert schema.check(request["method"], pattern, given) == expected, line["step"]
        judged += 1
    assert judged > 650


@pytest.mark.parametrize(
    ("parameters", "errors"),
    [
        ({"scsi30": "local:1"}, {}),
        ({"scsi31": "local:1"}, {"scsi31": NOT_IN_SCHEMA}),
        ({"cpu": "host,flags=+aes;-pcid"}, {}),
        ({"boot": "order=scsi0;net0"}, {}),
        ({"net0": "virtio,bridge=vmbr0,firewall=on"}, {}),
        ({"agent": "enabled=1,fstrim_cloned_disks=yes"}, {}),
        ({"hostpci0": "mapping=gpu,pcie=1"}, {}),
        ({"startup": "order=1,up=30"}, {}),
        ({"startup": "soon"}, {"startup": "invalid format - unable to parse startup options\n"}),
        ({"force": "1"}, {"delete": "missing property required by 'force'"}),
    ],
)
def test_config_parameters(schema: Schema, parameters: dict[str, str], errors: dict[str, str]) -> None:
    given = {"node": "pve1", "vmid": "100", **parameters}
    assert schema.check("PUT", f"{VM}/config", given) == errors


def test_a_path_that_the_description_lacks_is_not_judged(schema: Schema) -> None:
    assert schema.check("GET", "/cluster/mapping/pci", {"anything": "x"}) == {}


def test_without_the_reference_there_is_no_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PVE_REFERENCE_DIR", str(tmp_path))
    assert reference(SCHEMA) is None
    assert Schema.find() is None


@pytest.mark.parametrize(
    ("rule", "value", "reason"),
    [
        (Rule(type="integer"), "-3", ""),
        (Rule(type="integer"), "3.5", "type check ('integer') failed - got '3.5'"),
        (Rule(type="boolean"), "yes", "type check ('boolean') failed - got 'yes'"),
        (Rule(type="number", maximum=128), "128.5", "value must have a maximum value of 128"),
        (Rule(type="integer", minimum=1000000000), "1", "value must have a minimum value of 1000000000"),
        (Rule(minLength=5), "four", "value must be at least 5 characters long"),
        (Rule(enum=["a", "b"]), "c", "value 'c' does not have a value in the enumeration 'a, b'"),
        (Rule(type="array", items=Rule(maxLength=1)), ["a", "bc"], "value may only be 1 characters long"),
        (Rule(type="array", items=Rule()), "one", ""),
        (Rule(), ["a"], "type check ('string') failed - got 'ARRAY'"),
        (Rule(pattern=r"(?^:\d+)"), "12a", "value does not match the regex pattern"),
        (Rule(format="pve-configid-list"), "abc,d", "invalid format - invalid configuration ID 'd'\n"),
        (Rule(format="pve-vmid-list"), "100,101;102 103", ""),
        (Rule(format="email-opt"), "whatever", ""),
        (Rule(format="pve-poolid"), "a/b/c", ""),
        (Rule(format="address"), "10.0.0.1", ""),
        (Rule(format="address"), "fe80::1", ""),
    ],
)  # fmt: skip
def test_rules(rule: Rule, value: Any, reason: str) -> None:
    assert check_value(value, rule, "x") == reason


def test_several_bad_keys_of_a_property_string_are_listed_at_once() -> None:
    keys = {"size": Rule(type="integer"), "on": Rule(type="boolean", optional=True)}
    text = check_value("on=banana,odd=1", Rule(format=keys), "scsi0")
    assert text == (
        "invalid format - format error\n"
        f"scsi0.odd: {NOT_IN_SCHEMA}\n"
        "scsi0.on: type check ('boolean') failed - got 'banana'\n"
        "scsi0.size: property is missing and it is not optional\n"
    )


def test_an_open_object_takes_more_than_it_names() -> None:
    assert check_object({"odd": "1"}, {}, "", closed=False) == {}


@pytest.mark.usefixtures("schema")
async def test_the_server_lists_all_bad_parameters_at_once() -> None:
    async with proxmox() as pve, client(pve) as admin:
        answer = await admin.ask("GET", "/nodes/pve1/tasks", limit="x", source="nowhere", bogus=1)
    assert (answer.status, answer.reason) == (400, "Parameter verification failed.")
    assert answer.errors == {
        "limit": "type check ('integer') failed - got 'x'",
        "source": "value 'nowhere' does not have a value in the enumeration 'archive, active, all'",
        "bogus": NOT_IN_SCHEMA,
    }


async def test_without_the_reference_the_server_takes_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("PVE_REFERENCE_DIR", str(tmp_path))
    async with proxmox() as pve, client(pve) as admin:
        assert pve.schema is None
        assert (await admin.ask("GET", "/version", bogus=1)).status == 200
