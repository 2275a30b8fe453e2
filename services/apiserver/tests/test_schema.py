"""Pruning, defaulting, validation and CEL rules, as tables."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from apiserver.schema import structure
from apiserver.schema.nodes import compile_schema
from apiserver.schema.rules import wanted_of
from apiserver.schema.shaping import apply_defaults, prune
from apiserver.schema.validation import validate
from hypothesis import given
from hypothesis import strategies as st


def spec(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}


def faults(raw: dict[str, Any], value: Any, old: Any = None) -> list[tuple[str, str]]:
    found = validate(compile_schema(raw), {"spec": value}, None if old is None else {"spec": old})
    return [(c.field, c.message) for c in found]


TEXT = {"type": "string"}
CASES = [
    ({"cpu": {"type": "integer", "minimum": 1}}, {"cpu": 0}, "spec.cpu",
     "Invalid value: 0: spec.cpu in body should be greater than or equal to 1"),
    ({"cpu": {"type": "integer", "maximum": 4, "exclusiveMaximum": True}}, {"cpu": 4}, "spec.cpu",
     "Invalid value: 4: spec.cpu in body should be less than 4"),
    ({"cpu": {"type": "integer"}}, {"cpu": "2"}, "spec.cpu",
     'Invalid value: "string": spec.cpu in body must be of type integer: "string"'),
    ({"cpu": {"type": "integer"}}, {"cpu": True}, "spec.cpu",
     'Invalid value: "boolean": spec.cpu in body must be of type integer: "boolean"'),
    ({"cpu": {"type": "integer"}}, {"cpu": 1.5}, "spec.cpu",
     'Invalid value: "number": spec.cpu in body must be of type integer: "number"'),
    ({"cpu": {"type": "integer"}}, {"cpu": 2**63}, "spec.cpu",
     f"Invalid value: {2**63}: spec.cpu in body must fit in 64 bits"),
    ({"x": {**TEXT, "pattern": "^a+$"}}, {"x": "aa\n"}, "spec.x",
     'Invalid value: "aa\\n": spec.x in body should match \'^a+$\''),
    ({"x": {**TEXT, "enum": ["On", "Off"]}}, {"x": "on"}, "spec.x",
     'Unsupported value: "on": supported values: "On", "Off"'),
    ({"x": {**TEXT, "maxLength": 2}}, {"x": "abc"}, "spec.x", "Too long: may not be more than 2 bytes"),
    ({"x": {**TEXT, "minLength": 1}}, {"x": ""}, "spec.x",
     'Invalid value: "": spec.x in body should be at least 1 chars long'),
    ({"x": {**TEXT, "format": "date-time"}}, {"x": "today"}, "spec.x",
     'Invalid value: "today": spec.x in body must be of type date-time: "today"'),
    ({"x": {**TEXT, "format": "ipv4"}}, {"x": "1.2.3.400"}, "spec.x",
     'Invalid value: "1.2.3.400": spec.x in body must be of type ipv4: "1.2.3.400"'),
    ({"x": TEXT}, {"x": None}, "spec.x",
     'Invalid value: "null": spec.x in body must be of type string: "null"'),
    ({"l": {"type": "array", "items": TEXT, "maxItems": 1}}, {"l": ["a", "b"]}, "spec.l",
     "Too many: 2: must have at most 1 items"),
    ({"l": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"}}, {"l": ["a", "a"]}, "spec.l[1]",
     'Duplicate value: "a"'),
    ({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": TEXT}}}},
     {"l": [{"name": "root"}, {"name": "root"}]}, "spec.l[1]", 'Duplicate value: {"name": "root"}'),
    ({"l": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": TEXT}}}},
     {"l": [{}]}, "spec.l[0].name", "Required value"),
    ({"m": {"type": "object", "additionalProperties": {"type": "integer"}}}, {"m": {"a": "b"}}, "spec.m.a",
     'Invalid value: "string": spec.m.a in body must be of type integer: "string"'),
    ({"x": {"x-kubernetes-int-or-string": True}}, {"x": 1.5}, "spec.x",
     'Invalid value: "number": spec.x in body must be of type integer or string: "number"'),
    ({"o": {"type": "object", "properties": {"a": TEXT, "b": TEXT},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}, {"o": {"a": "", "b": ""}}, "spec.o",
     'Invalid value: "": "spec.o" must validate one and only one schema (oneOf). Found 2 valid alternatives'),
    ({"x": {"type": "integer", "multipleOf": 4}}, {"x": 6}, "spec.x",
     "Invalid value: 6: spec.x in body should be a multiple of 4"),
]  # fmt: skip


@pytest.mark.parametrize(("properties", "value", "field", "message"), CASES)
def test_fault(properties, value, field, message):
    assert faults(spec(**properties), value)[0] == (field, message)


@pytest.mark.parametrize(
    ("properties", "value"),
    [
        ({"x": {"type": "integer"}}, {"x": 2.0}),
        ({"x": {"type": "number"}}, {"x": 2}),
        ({"x": {**TEXT, "nullable": True}}, {"x": None}),
        ({"x": {"x-kubernetes-int-or-string": True}}, {"x": "8Gi"}),
        ({"x": {"x-kubernetes-preserve-unknown-fields": True}}, {"x": [1, {"a": None}]}),
        ({"x": {**TEXT, "pattern": "b"}}, {"x": "abc"}),
        ({"x": {**TEXT, "format": "duration"}}, {"x": "1h30m"}),
        ({"x": {**TEXT, "format": "unheard-of"}}, {"x": "anything"}),
    ],
)
def test_no_fault(properties, value):
    assert faults(spec(**properties), value) == []


def rule(text: str, **more: Any) -> dict[str, Any]:
    return {"rule": text, **more}


RULES = [
    (rule("self.cpu <= 4", message="too many"), {"cpu": 5}, None, 'Invalid value: "object": too many'),
    (rule("self.cpu <= 4"), {"cpu": 5}, None, 'Invalid value: "object": failed rule: self.cpu <= 4'),
    (rule("self.cpu <= 4", messageExpression="'got ' + string(self.cpu)"), {"cpu": 5}, None,
     'Invalid value: "object": got 5'),
    (rule("has(self.name) != has(self.cpu)", reason="FieldValueForbidden", message="one of them"),
     {"cpu": 1, "name": "a"}, None, "Forbidden: one of them"),
    (rule("self.name == oldSelf.name", message="immutable"), {"name": "b"}, {"name": "a"},
     'Invalid value: "object": immutable'),
    (rule("self.name == oldSelf.name"), {"name": "b"}, None, None),
    (rule("oldSelf.hasValue() || self.name == 'first'", optionalOldSelf=True, message="m"), {"name": "b"}, None,
     'Invalid value: "object": m'),
    (rule("self.disks.all(d, d.size > 0)", message="m"), {"disks": [{"size": 1}, {"size": 0}]}, None,
     'Invalid value: "object": m'),
    (rule("self.name.startsWith('a') && self.name.size() > 1", message="m"), {"name": "ab"}, None, None),
    (rule("self.__namespace__ == 'x'", message="m"), {"namespace": "x"}, None, None),
    (rule("quantity(self.name).isGreaterThan(quantity('1Gi'))", message="m"), {"name": "2Gi"}, None, None),
    (rule("self.name.split(',').size() == 2", message="m"), {"name": "a,b"}, None, None),
    (rule("self.name == 'a'", message="name must be a"), {"cpu": 1}, None,
     'Invalid value: "object": rule evaluation error: no such key: name evaluating rule: name must be a'),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "value", "old", "message"), RULES)
def test_rule(raw, value, old, message):
    disks = {"type": "array", "items": {"type": "object", "properties": {"size": {"type": "integer"}}}}
    schema = spec(cpu={"type": "integer"}, name=TEXT, namespace=TEXT, disks=disks)
    schema["properties"]["spec"]["x-kubernetes-validations"] = [raw]
    found = faults(schema, value, old)
    assert found == ([] if message is None else [("spec", message)])


def test_transition_rule_follows_the_key_of_a_list_entry():
    """Entries that move in the list keep their past."""
    size = {"type": "integer", "x-kubernetes-validations": [rule("self >= oldSelf", message="a disk cannot shrink")]}
    disks = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "properties": {"name": TEXT, "size": size}},
    }
    old = {"disks": [{"name": "a", "size": 1}, {"name": "b", "size": 9}]}
    swapped = {"disks": [{"name": "b", "size": 9}, {"name": "a", "size": 1}, {"name": "c", "size": 0}]}
    assert faults(spec(disks=disks), swapped, old) == []
    shrunk = {"disks": [{"name": "b", "size": 8}]}
    assert faults(spec(disks=disks), shrunk, old) == [
        ("spec.disks[0].size", 'Invalid value: "integer": a disk cannot shrink')
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("self.a.b > 1 && has(self.c)", {"a": {"b": {}}, "c": {}}),
        ("self.a.size() > 0", {"a": {}}),
        ("self.a.b > 1 || self.a != x", {"a": {}}),
        ("self.a != x || self.a.b > 1", {"a": {}}),
        ("self in [1]", {}),
        ("size(self) > 1 && self.a > 1", {}),
        ("myself.a > 1", {}),
    ],
)
def test_a_rule_is_given_only_what_it_names(text, wanted):
    assert wanted_of(text, "self") == wanted


def test_defaults_reach_into_lists_and_nulls():
    schema = compile_schema(
        spec(
            power={**TEXT, "default": "On"},
            disks={
                "type": "array",
                "items": {"type": "object", "properties": {"bus": {**TEXT, "default": "scsi"}}},
            },
            net={"type": "object", "default": {}, "properties": {"model": {**TEXT, "default": "virtio"}}},
            keep={**TEXT, "nullable": True, "default": "x"},
        )
    )
    value = {"spec": {"power": None, "disks": [{}], "keep": None}}
    apply_defaults(schema, value)
    assert value == {"spec": {"power": "On", "disks": [{"bus": "scsi"}], "net": {"model": "virtio"}, "keep": None}}


def test_a_default_is_never_shared_between_objects():
    schema = compile_schema(spec(tags={"type": "array", "items": TEXT, "default": []}))
    first: dict[str, Any] = {"spec": {}}
    second: dict[str, Any] = {"spec": {}}
    apply_defaults(schema, first)
    apply_defaults(schema, second)
    first["spec"]["tags"].append("x")
    assert second == {"spec": {"tags": []}}


def test_pruning():
    schema = compile_schema(
        spec(
            cpu={"type": "integer"},
            raw={
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {"in": {"type": "object"}},
            },
            labels={"type": "object", "additionalProperties": TEXT},
            template={
                "type": "object",
                "x-kubernetes-embedded-resource": True,
                "properties": {"spec": {"type": "object"}},
            },
        )
    )
    value = {
        "spec": {
            "cpu": 1,
            "bogus": {"a": 1},
            "raw": {"anything": [1], "in": {"gone": 1}},
            "labels": {"free": "text"},
            "template": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "other": 1, "spec": {"no": 1}},
        }
    }
    assert sorted(prune(schema, value)) == [
        "spec.bogus",
        "spec.raw.in.gone",
        "spec.template.other",
        "spec.template.spec.no",
    ]
    assert value["spec"]["raw"] == {"anything": [1], "in": {}}
    assert value["spec"]["template"] == {"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cpu", "disks", "name", "x"]), inner),
    max_leaves=20,
)
SOME = spec(
    cpu={"type": "integer", "default": 1},
    name=TEXT,
    disks={"type": "array", "items": {"type": "object", "properties": {"name": {**TEXT, "default": "d"}}}},
)


@given(JSON)
def test_shaping_is_idempotent_and_never_fails(value):
    """Whatever a client sends: shaping twice is shaping once, and validation answers instead of raising."""
    schema = compile_schema(SOME)
    once = {"spec": value}
    prune(schema, once)
    apply_defaults(schema, once)
    twice = copy.deepcopy(once)
    assert prune(schema, twice) == []
    apply_defaults(schema, twice)
    assert twice == once
    assert all(c.message for c in validate(schema, once))


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"type": "object", "properties": {"a": {}}}, "s.properties[a].type"),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "s.properties[a].type"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "s.properties[a].items"),
        ({"type": "string"}, "s.type"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}, "s.properties[a].pattern"),
        ({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}, "s.properties[a].default"),
        ({"type": "object", "anyOf": [{"type": "string"}]}, "s.anyOf[0].type"),
        ({"type": "object", "x-kubernetes-validations": [{"rule": "self.a >"}]}, "s.x-kubernetes-validations[0].rule"),
        ({"type": "object", "properties": {"a": {"$ref": "#/x"}}}, "s.properties[a].type"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}},
            },
            "s.properties[a].x-kubernetes-list-map-keys",
        ),
        (None, "s"),
    ],
)
def test_schema_that_is_not_structural(raw, field):
    assert field in [c.field for c in structure.faults(raw, "s")]


def test_what_has_not_changed_is_not_held_against_an_object():
    """A schema that became stricter must not stop a finalizer from being removed, nor an unrelated edit."""
    schema = spec(
        cpu={"type": "integer", "minimum": 4},
        name={**TEXT, "x-kubernetes-validations": [rule("self != 'bad'", message="bad")]},
        disks={
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["size"],
                "properties": {"name": TEXT, "size": {"type": "integer"}},
            },
        },
    )
    old = {"cpu": 1, "name": "bad", "disks": [{"name": "a"}]}
    assert faults(schema, old) != []
    assert faults(schema, old, old) == []
    assert faults(schema, {**old, "disks": [{"name": "b", "size": 1}, {"name": "a"}]}, old) == []
    assert next(f for f, _ in faults(schema, {**old, "cpu": 2}, old)) == "spec.cpu"
    assert next(f for f, _ in faults(schema, {**old, "disks": [{"name": "b"}]}, old)) == "spec.disks[0].size"
    assert faults(schema, {**old, "cpu": 4, "name": "bad"}, old) == []
    assert next(f for f, _ in faults(schema, {**old, "cpu": True}, {**old, "cpu": 1})) == "spec.cpu"
