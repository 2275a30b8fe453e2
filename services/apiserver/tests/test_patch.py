"""JSON patch, merge patch and strategic merge patch, as tables."""

from __future__ import annotations

import copy

import pytest
from apiserver.builtins import definition_schema
from apiserver.patch.jsonpatch import PatchError, PatchMismatch, json_patch, merge_patch
from apiserver.patch.strategic import strategic_patch
from hypothesis import given
from hypothesis import strategies as st

ACCOUNT = definition_schema("io.k8s.api.core.v1.ServiceAccount")


@pytest.mark.parametrize(
    ("target", "patch", "after"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target, patch, after):
    assert merge_patch(target, patch) == after


@pytest.mark.parametrize(
    ("operations", "after"),
    [
        ([{"op": "add", "path": "/b", "value": 1}], {"a": [1, 2], "b": 1}),
        ([{"op": "add", "path": "/a/1", "value": 9}], {"a": [1, 9, 2]}),
        ([{"op": "add", "path": "/a/-", "value": 9}], {"a": [1, 2, 9]}),
        ([{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        ([{"op": "replace", "path": "/a", "value": None}], {"a": None}),
        ([{"op": "move", "from": "/a", "path": "/c"}], {"c": [1, 2]}),
        ([{"op": "copy", "from": "/a/0", "path": "/c"}], {"a": [1, 2], "c": 1}),
        ([{"op": "test", "path": "/a/0", "value": 1}, {"op": "remove", "path": "/a"}], {}),
        ([{"op": "add", "path": "/x~1y~0z", "value": 1}], {"a": [1, 2], "x/y~z": 1}),
        ([{"op": "replace", "path": "", "value": {"n": 1}}], {"n": 1}),
    ],
)
def test_json_patch(operations, after):
    before = {"a": [1, 2]}
    assert json_patch(before, operations) == after
    assert before == {"a": [1, 2]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/nope"},
        {"op": "replace", "path": "/nope", "value": 1},
        {"op": "replace", "path": "/a/2", "value": 1},
        {"op": "replace", "path": "/a/-", "value": 1},
        {"op": "remove", "path": "/a/-1"},
        {"op": "add", "path": "/a/3", "value": 1},
        {"op": "add", "path": "/a/01", "value": 1},
        {"op": "add", "path": "/a/0/x", "value": 1},
        {"op": "test", "path": "/a/0", "value": 2},
        {"op": "test", "path": "/a/0", "value": True},
        {"op": "move", "from": "/a", "path": "/a/0"},
        {"op": "remove", "path": ""},
    ],
)
def test_json_patch_that_does_not_fit(operation):
    with pytest.raises(PatchMismatch):
        json_patch({"a": [1, 2]}, [operation])


@pytest.mark.parametrize(
    "patch",
    [
        {},
        "x",
        [1],
        [{"op": "add"}],
        [{"op": "add", "path": "/a"}],
        [{"op": "eat", "path": "/a"}],
        [{"op": "add", "path": "a", "value": 1}],
    ],
)
def test_json_patch_that_is_none(patch):
    with pytest.raises(PatchError):
        json_patch({"a": 1}, patch)


@pytest.mark.parametrize(
    ("target", "patch", "after"),
    [
        (
            {"secrets": [{"name": "a", "kind": "x"}, {"name": "b"}]},
            {"secrets": [{"name": "b", "kind": "y"}, {"name": "c"}]},
            {"secrets": [{"name": "a", "kind": "x"}, {"name": "b", "kind": "y"}, {"name": "c"}]},
        ),
        (
            {"secrets": [{"name": "a"}, {"name": "b"}]},
            {"secrets": [{"name": "a", "$patch": "delete"}]},
            {"secrets": [{"name": "b"}]},
        ),
        (
            {"secrets": [{"name": "a"}]},
            {"secrets": [{"$patch": "replace"}, {"name": "z"}]},
            {"secrets": [{"name": "z"}]},
        ),
        (
            {"secrets": [{"name": "a"}, {"name": "b"}]},
            {"$setElementOrder/secrets": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "secrets": [{"name": "c"}]},
            {"secrets": [{"name": "c"}, {"name": "b"}, {"name": "a"}]},
        ),
        (
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"finalizers": ["c", "a"]}},
            {"metadata": {"finalizers": ["a", "b", "c"]}},
        ),
        (
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}},
            {"metadata": {"finalizers": ["b"]}},
        ),
        (
            {"metadata": {"labels": {"a": "1", "b": "2"}}},
            {"metadata": {"labels": {"$patch": "replace", "c": "3"}}},
            {"metadata": {"labels": {"c": "3"}}},
        ),
        (
            {"metadata": {"labels": {"a": "1", "b": "2"}}},
            {"metadata": {"labels": {"a": None}}},
            {"metadata": {"labels": {"b": "2"}}},
        ),
        (
            {"metadata": {"labels": {"a": "1", "b": "2"}}},
            {"metadata": {"labels": {"$retainKeys": ["b"], "b": "3"}}},
            {"metadata": {"labels": {"b": "3"}}},
        ),
    ],
)
def test_strategic_patch(target, patch, after):
    before = copy.deepcopy(target)
    assert strategic_patch(ACCOUNT, target, patch) == after
    assert target == before


def test_strategic_patch_needs_the_merge_key():
    with pytest.raises(PatchError, match="merge key: name"):
        strategic_patch(ACCOUNT, {}, {"secrets": [{"kind": "x"}]})


VALUES = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


def difference(old, new):
    """The merge patch that leads from one object to another."""
    out = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            out[key] = difference(old[key], value)
        elif key not in old or old[key] != value or type(old[key]) is not type(value):
            out[key] = value
    return out


@given(OBJECTS, OBJECTS)
def test_merge_patch_reaches_any_object(old, new):
    assert merge_patch(old, difference(old, new)) == new
