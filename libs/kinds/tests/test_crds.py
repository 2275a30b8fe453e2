"""The CRDs: structural, current, and a superset of what v0.3 accepted."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import pytest
from kinds import KINDS, crds
from kinds.rules import RULES, at

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "crds"
FACTS = (Path(__file__).parent / "fields.tsv").read_text()
FIELDS = list(csv.DictReader(FACTS.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
SCHEMAS = {name: crds.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for name, kind in KINDS.items()}
FORBIDDEN = {
    "$ref",
    "definitions",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "const",
    "title",
    "uniqueItems",
    "patternProperties",
}

# What is loosened on purpose: (kind, path) -> why.
LOOSENED = {
    ("Provider", "spec.credentialSecretRef"): "a local libvirt needs no credentials",
    ("Provider", "spec.runtime"): "the controller has a default runtime",
    ("Provider", "spec.runtime.image"): "only the kubernetes runtime needs an image",
}
# Enumerations of which no value could ever be accepted: (kind, path).
UNSATISFIABLE = {("VMClass", "spec.securityProfile.tpmVersion")}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from nodes(schema["items"], path + "[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], path + "{}")


def find(schema: dict[str, Any], path: str) -> dict[str, Any] | None:
    return dict(nodes(schema)).get(path)


def test_committed_files_are_what_the_models_say() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.yaml")} == crds.rendered()


def test_check_names_the_stale_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crds.main(["--out", str(tmp_path)]) == 0
    stale = tmp_path / "infra.virtrigaud.io_vmclasses.yaml"
    stale.write_text(stale.read_text() + "# edited\n")
    assert crds.main(["--out", str(tmp_path), "--check"]) == 1
    assert stale.name in capsys.readouterr().err
    assert crds.main(["--out", str(tmp_path)]) == 0
    assert crds.main(["--out", str(tmp_path), "--check"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_structural(kind: str) -> None:
    """What Kubernetes demands of every node, or it refuses the CRD."""
    for path, node in nodes(SCHEMAS[kind]):
        assert not FORBIDDEN & node.keys(), path
        if not node.get("x-kubernetes-int-or-string"):
            assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert not ("properties" in node and "additionalProperties" in node), path
        if node.get("type") == "array":
            assert "items" in node, path
        if "required" in node:
            assert set(node["required"]) <= node.get("properties", {}).keys(), path
        if "default" in node:
            assert default_fits(node), path
        for name, child in node.get("properties", {}).items():
            assert child.get("description") or not path, f"{path}.{name} has no description"


def default_fits(node: dict[str, Any]) -> bool:
    value = node["default"]
    if "enum" in node:
        return value in node["enum"]
    expected = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}
    return bool(node.get("x-kubernetes-int-or-string")) or isinstance(value, expected[node["type"]])


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_are_anchored_and_compile(kind: str) -> None:
    for path, node in nodes(SCHEMAS[kind]):
        if pattern := node.get("pattern"):
            re.compile(pattern)
            assert pattern.startswith("^"), path
            assert "(?=" not in pattern, f"{path}: RE2 knows no look-around"
            assert "(?!" not in pattern, f"{path}: RE2 knows no look-around"


@pytest.mark.parametrize("row", FIELDS, ids=lambda row: f"{row['kind']}.{row['path']}")
def test_W74_every_field_is_still_there_and_no_narrower(row: dict[str, str]) -> None:
    """A manifest that was valid loads unchanged."""
    node = find(SCHEMAS[row["kind"]], row["path"])
    assert node is not None, "the field is gone"
    key = (row["kind"], row["path"])
    if key in UNSATISFIABLE:
        return
    assert_type(node, row["type"])
    assert_required(row, key)
    if row["default"] and row["path"].startswith("spec"):
        assert json.dumps(node["default"]) == row["default"]
    for limit in filter(None, row["validation"].split("; ")):
        assert_no_narrower(node, limit)


def assert_type(node: dict[str, Any], type_: str) -> None:
    expected = {"int32": "integer", "int64": "integer", "integer": "integer", "bool": "boolean", "string": "string"}
    if type_.startswith("[]"):
        assert node["type"] == "array"
    elif type_ in ("Quantity", "int-or-string"):
        assert node["x-kubernetes-int-or-string"] is True
    else:
        assert node["type"] == expected.get(type_, "string" if type_ == "date-time" else "object")


def assert_required(row: dict[str, str], key: tuple[str, str]) -> None:
    parent, _, name = row["path"].rpartition(".")
    holder = find(SCHEMAS[row["kind"]], parent)
    assert holder is not None
    required = name in holder.get("required", [])
    if key in LOOSENED:
        assert not required
    elif row["path"].startswith("spec"):
        assert required == (row["required"] == "yes" and not row["default"])
    else:
        assert not required or row["required"] == "yes"


def assert_no_narrower(node: dict[str, Any], limit: str) -> None:
    if limit.startswith(("enum ", "each: enum ")):
        values = set(limit.split("enum ", 1)[1].split(" / "))
        assert values <= set((node if limit.startswith("enum") else node["items"])["enum"])
        return
    match = re.fullmatch(r"(?:(len|items|keys) )?(>=|<=) ?(\d+)", limit)
    assert match is not None, limit
    name = {"len": "Length", "items": "Items", "keys": "Properties", None: "imum"}[match[1]]
    bound = int(match[3])
    if match[2] == ">=":
        assert node.get(f"min{name}", bound) <= bound
    else:
        assert node.get(f"max{name}", bound) >= bound


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_subresources(kind: str) -> None:
    spec = crds.crd(KINDS[kind])["spec"]
    assert spec["names"]["shortNames"] == [KINDS[kind].short_name]
    assert ("scale" in spec["versions"][0]["subresources"]) == (kind == "VMSet")
    for column in spec["versions"][0]["additionalPrinterColumns"]:
        path = re.sub(r"\[.*?\]", "[]", column["jsonPath"].lstrip("."))
        node = find(SCHEMAS[kind], path)
        if not path.startswith("metadata."):
            assert node is not None, f"column {column['name']} shows a field that does not exist"


# -- rules ---------------------------------------------------------------------------------------------------------

VM: dict[str, Any] = {"spec": {"classRef": {"name": "small"}, "providerRef": {"name": "local"}}}


def vm(**spec: Any) -> dict[str, Any]:
    return {**VM, "spec": {**VM["spec"], **spec}}


def violations(kind: str, new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """Messages of the rules that an object breaks."""
    found = []
    for path, rules in RULES[kind].items():
        here, before = reach(new, path), reach(old, path) if old is not None else None
        if here is None:
            continue
        for rule in rules:
            if "oldSelf" in rule["rule"] and before is None:
                continue
            scope = {"self": here} | ({"oldSelf": before} if before is not None else {})
            if cel.evaluate(rule["rule"], scope) is not True:
                found.append(rule["message"])
    return found


def reach(value: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        value = value.get(part) if isinstance(value, dict) else None
    return value


BOUND = {**vm(), "status": {"id": "a", "boundProvider": {"namespace": "default", "name": "local"}}}
OTHER = vm(providerRef={"name": "other"})
NIC = {"name": "eth0"}


@pytest.mark.parametrize(
    ("kind", "old", "new", "broken"),
    [
        ("VirtualMachine", None, vm(), None),
        ("VirtualMachine", None, vm(imageRef={"name": "a"}), None),
        ("VirtualMachine", None, vm(imageRef={"name": "a"}, importedDisk={"diskID": "b"}), "boot disk"),
        ("VirtualMachine", None, vm(disks=[{"name": "a"}, {"name": "b"}]), None),
        ("VirtualMachine", None, vm(disks=[{"name": "a"}, {"name": "a"}]), "disks"),
        ("VirtualMachine", None, vm(networks=[NIC, NIC]), "networks"),
        ("VirtualMachine", vm(), OTHER, None),
        ("VirtualMachine", {**vm(), "status": {}}, {**OTHER, "status": {}}, None),
        ("VirtualMachine", BOUND, {**BOUND, "spec": OTHER["spec"]}, "providerRef"),
        ("VirtualMachine", BOUND, BOUND, None),
        ("VirtualMachine", BOUND, {**BOUND, "spec": vm(powerState="Off")["spec"]}, None),
        ("Provider", {"spec": {"type": "libvirt"}}, {"spec": {"type": "libvirt"}}, None),
        ("Provider", {"spec": {"type": "libvirt"}}, {"spec": {"type": "vsphere"}}, "type"),
        ("Provider", None, {"spec": {"type": "vsphere", "topology": "cluster"}}, "topology"),
        ("Provider", None, {"spec": {"type": "fake", "runtime": {"mode": "External"}}}, "runtime.address"),
        ("Provider", None, {"spec": {"type": "fake", "runtime": {"mode": "External", "address": "h:1"}}}, None),
        ("VMClone", None, {"spec": {"source": {"vmRef": {"name": "a"}}}}, None),
        ("VMClone", None, {"spec": {"source": {"vmRef": {"name": "a"}, "imageRef": {"name": "b"}}}}, "source"),
    ],
)
def test_W8_W71_rules_refuse_what_can_never_work(
    kind: str, old: dict[str, Any] | None, new: dict[str, Any], broken: str | None
) -> None:
    """One-of, uniqueness and immutability are told when the manifest is applied."""
    messages = violations(kind, new, old)
    assert [message.split(":")[0].removeprefix("spec.") for message in messages] == ([broken] if broken else [])


@pytest.mark.parametrize("kind", RULES)
def test_rules_stand_on_nodes_that_exist(kind: str) -> None:
    for path in RULES[kind]:
        assert at(SCHEMAS[kind], path)["x-kubernetes-validations"]


# -- what the schemas take that was refused before -------------------------------------------------------------------

ACCEPTED = [
    ("VirtualMachine", "spec.imageRef.name", "ubuntu-22.04"),
    ("Provider", "spec.runtime.image", "localhost:5000/virtrigaud/provider:1.0"),
    ("Provider", "spec.runtime.image", "[2001:db8::1]:5000/provider"),
    ("VMImage", "spec.source.registry.image", "registry.example:5000/images/debian@sha256:" + "a" * 64),
    ("Provider", "spec.endpoint", "qemu+ssh://virt_admin@[2001:db8::7]:22/system"),
    ("Provider", "spec.endpoint", "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"),
    ("Provider", "spec.endpoint", "qemu:///system"),
    ("Provider", "spec.endpoint", "https://vcenter.example/sdk"),
    ("VMSnapshot", "spec.schedule.cronSpec", "0 */6 * * *"),
    ("VMSnapshot", "spec.schedule.cronSpec", "0 2 * * MON"),
    ("VMSnapshot", "spec.schedule.cronSpec", "@daily"),
    ("VMImage", "spec.source.vsphere.ovaURL", "https://host.example/a.OVA?signature=x"),
    ("VirtualMachine", "spec.lifecycle.gracefulShutdownTimeout", "1h30m"),
    ("VMClass", "spec.securityProfile.tpmVersion", "2.0"),
]
REFUSED = [
    ("VMSnapshot", "spec.schedule.cronSpec", "12345"),
    ("VMSnapshot", "spec.schedule.cronSpec", "@daily junk"),
    ("VMSnapshot", "spec.schedule.cronSpec", "junk 0 2 * * *"),
    ("VirtualMachine", "spec.lifecycle.gracefulShutdownTimeout", "abc"),
    ("VirtualMachine", "spec.imageRef.name", "Not A Name"),
    ("VirtualMachine", "spec.imageRef.name", "../../etc/passwd"),
    ("Provider", "spec.endpoint", "not an address"),
    ("VirtualMachine", "spec.powerState", "on"),
]


def accepts(kind: str, path: str, value: str) -> bool:
    node = find(SCHEMAS[kind], path)
    assert node is not None
    if "enum" in node and value not in node["enum"]:
        return False
    return len(value) <= node.get("maxLength", 10**6) and bool(re.search(node.get("pattern", ""), value))


@pytest.mark.parametrize(("kind", "path", "value"), ACCEPTED)
def test_W71_values_that_work_are_accepted(kind: str, path: str, value: str) -> None:
    assert accepts(kind, path, value)


@pytest.mark.parametrize(("kind", "path", "value"), REFUSED)
def test_W71_values_that_cannot_work_are_refused(kind: str, path: str, value: str) -> None:
    assert not accepts(kind, path, value)


def test_a_set_keeps_the_labels_of_its_template() -> None:
    metadata = find(SCHEMAS["VMSet"], "spec.template.metadata")
    assert metadata is not None
    assert {"labels", "annotations"} <= metadata["properties"].keys()


def test_W20_any_power_state_of_a_provider_can_be_reported() -> None:
    node = find(SCHEMAS["VirtualMachine"], "status.powerState")
    assert node is not None
    assert {"On", "Off", "Suspended", "Paused", "Unknown"} <= set(node["enum"])


def test_any_size_of_a_machine_can_be_reported() -> None:
    """A class may ask for 64Mi; limits of what may be wished for must not keep us from telling what is."""
    for field in ("cpu", "memoryMiB"):
        node = find(SCHEMAS["VirtualMachine"], f"status.currentResources.{field}")
        assert node is not None
        assert not {"minimum", "maximum"} & set(node), field


def test_conditions_are_maps_by_type() -> None:
    for kind, schema in SCHEMAS.items():
        conditions = find(schema, "status.conditions")
        assert conditions is not None, kind
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
