"""Where the recorded facts about the product lie. They are not part of this project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = "api-schema.json"
RECORDING = "recorded.jsonl"


def reference(file: str) -> Path | None:
    """The file in the directory that PVE_REFERENCE_DIR names, else in `../shared/pve` beside the repository."""
    named = os.environ.get("PVE_REFERENCE_DIR")
    places = [Path(named)] if named else [ROOT.parent / "shared" / "pve", *beside_the_main_worktree()]
    return next((place / file for place in places if (place / file).is_file()), None)


def beside_the_main_worktree() -> Iterator[Path]:
    """A linked worktree may lie anywhere; its `.git` names the repository that it belongs to."""
    link = ROOT / ".git"
    if link.is_file():
        repository = Path(link.read_text().removeprefix("gitdir:").strip()).parents
        if len(repository) > 3:
            yield repository[3] / "shared" / "pve"
