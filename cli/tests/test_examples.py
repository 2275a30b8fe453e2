"""Every example is taken by the API server as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_is_valid(folder: Path, vrtg: Callable[..., Any]) -> None:
    """Unknown fields are refused by the dry run, so a typing error would show."""
    ran = vrtg("apply", "-f", str(folder), "--dry-run")
    assert ran.code == 0, ran.err
    assert ran.err == "", "no warning either"
    documents = [each for file in folder.glob("*.yaml") for each in yaml.safe_load_all(file.read_text())]
    assert ran.out.count("created (dry run)") == len(documents)


def test_a_typing_error_is_refused_with_its_place(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    text = (ROOT / "examples" / "quickstart" / "vmclass.yaml").read_text().replace("memory:", "memroy:")
    (tmp_path / "class.yaml").write_text(text)
    ran = vrtg("apply", "-f", str(tmp_path / "class.yaml"))
    assert ran.code == 5
    assert "memroy" in ran.err
    assert "class.yaml" in ran.err
