"""Manifests: every way in which a file can be no object gets a sentence that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from vrtg.failures import NotFoundError, RefusedError
from vrtg.manifests import load

VM = "apiVersion: infra.virtrigaud.io/v1beta1\nkind: VirtualMachine\nmetadata: {name: web}\n"


def test_an_unquoted_power_state_means_what_it_says(tmp_path: Path) -> None:
    """YAML 1.1 reads On as true; the user meant On, and is told to quote it."""
    path, warnings = tmp_path / "vm.yaml", []
    path.write_text(VM + "spec: {powerState: Off}\n")
    assert load([str(path)], warnings.append)[0].body["spec"]["powerState"] == "Off"
    assert "put it in quotes" in warnings[0]
    assert str(path) in warnings[0]


def test_what_others_refer_to_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VM + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n")
    (tmp_path / "b.json").write_text('{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}')
    (tmp_path / "notes.txt").write_text("not ours")
    assert [m.kind for m in load([str(tmp_path)])] == ["Namespace", "Secret", "VirtualMachine"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "bad.yaml:"), ("just text", "a string"), ("kind: Pod\nmetadata: {name: a}", "apiVersion is missing")],
)
def test_what_is_no_object_is_refused_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    """The reader itself is tested where it lives; here, that its words and place arrive as a refusal."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RefusedError) as refusal:
        load([str(path)])
    assert sentence in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RefusedError, match="cannot read"):
        load([str(path)])


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file or folder"):
        load([str(tmp_path / "nope.yaml")])
    with pytest.raises(NotFoundError, match=r"no \.yaml"):
        load([str(tmp_path)])
