"""Apply as kubectl does it: a table over the pure merge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vrtg.applying import LAST_APPLIED, last_applied, merge_patch, stamped


@pytest.mark.parametrize(
    ("last", "wanted", "live", "patch"),
    [
        pytest.param({}, {"a": 1}, {"a": 1}, {}, id="nothing to do"),
        pytest.param({}, {"a": 2}, {"a": 1}, {"a": 2}, id="changed"),
        pytest.param({"a": 1}, {}, {"a": 1}, {"a": None}, id="removed from the manifest"),
        pytest.param({"a": 1}, {}, {}, {}, id="removed, and gone already"),
        pytest.param({}, {}, {"a": 1}, {}, id="set by others"),
        pytest.param(
            {"s": {"a": 1}}, {"s": {"b": 2}}, {"s": {"a": 1, "c": 3}}, {"s": {"a": None, "b": 2}}, id="nested"
        ),
        pytest.param({}, {"l": [1, 2]}, {"l": [1]}, {"l": [1, 2]}, id="lists are replaced"),
        pytest.param({}, {"a": {"b": 1}}, {"a": "text"}, {"a": {"b": 1}}, id="another type"),
    ],
)
def test_a_patch_holds_what_differs_and_drops_what_was_taken_out(last: Any, wanted: Any, live: Any, patch: Any) -> None:
    assert merge_patch(last, wanted, live) == patch


def test_the_note_is_what_was_applied_without_itself() -> None:
    """Otherwise it would grow with each apply."""
    once = stamped({"metadata": {"name": "a"}}, "default")
    twice = stamped(once, "default")
    assert once == twice
    assert json.loads(once["metadata"]["annotations"][LAST_APPLIED])["metadata"]["namespace"] == "default"


@pytest.mark.parametrize("note", ["{", "", "[" * 5000])
def test_a_note_that_somebody_garbled_is_none(note: str) -> None:
    assert last_applied({"metadata": {"annotations": {LAST_APPLIED: note}}}) == {}
    assert last_applied({"metadata": {}}) == {}
