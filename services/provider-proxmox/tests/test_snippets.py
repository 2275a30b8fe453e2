"""First-boot data as snippets in a mounted directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from common.errors import HypervisorUnavailableError
from provider_proxmox.content.snippets import Snippets

UID, OTHER = "7a1e2f30-0000-4000-8000-000000000001", "7a1e2f30-0000-4000-8000-000000000002"
CONTENT = {"user-data": "#!/bin/sh\n", "meta-data": "instance-id: x\n", "network-config": "version: 2\n"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "snippets").mkdir()
    return tmp_path


async def test_writes_what_cicustom_names(directory: Path) -> None:
    cicustom, volumes = await Snippets("nfs", directory).put(101, UID, CONTENT, "test")
    parts = dict(part.split("=") for part in cicustom.split(","))
    assert list(parts.values()) == volumes
    for part, file in (("user", "user-data"), ("meta", "meta-data"), ("network", "network-config")):
        storage, _, path = parts[part].partition(":")
        assert storage == "nfs"
        assert (directory / path).read_text() == CONTENT[file]
        assert (directory / path).stat().st_mode & 0o077 == 0  # it may hold secrets


async def test_drop_takes_what_is_this_machines_and_nothing_else(directory: Path) -> None:
    """What a crash left half written goes as well."""
    snippets = Snippets("nfs", directory)
    await snippets.put(101, UID, CONTENT, "test")
    _, kept = await snippets.put(101, UID, CONTENT | {"user-data": "#!/bin/bash\n"}, "test")
    _, others = await snippets.put(102, OTHER, CONTENT, "test")
    mine = directory / "snippets" / "mine.yaml"
    mine.write_text("a person's")
    part = directory / "snippets" / f".{kept[0].rpartition('/')[2]}.part"
    part.write_text("half")
    await snippets.drop(UID, "test", frozenset(kept))
    left = {path.name for path in (directory / "snippets").iterdir()}
    assert left == {volume.rpartition("/")[2] for volume in [*kept, *others]} | {"mine.yaml"}
    for _ in range(2):
        await snippets.drop(UID, "test")
    assert {path.name for path in (directory / "snippets").iterdir()} == {
        volume.rpartition("/")[2] for volume in others
    } | {"mine.yaml"}


async def test_a_directory_that_is_not_mounted_is_told(tmp_path: Path) -> None:
    with pytest.raises(HypervisorUnavailableError, match="No such file"):
        await Snippets("nfs", tmp_path / "gone").put(101, UID, CONTENT, "test")
