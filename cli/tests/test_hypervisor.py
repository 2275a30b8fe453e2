"""What is known of the machines of a libvirt, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from vrtg import hypervisor


@pytest.mark.parametrize(("script", "told"), [("printf 'a\\nb\\n'", ["a", "b"]), ("echo", []), ("exit 1", None)])
def test_a_libvirt_that_does_not_tell_is_not_one_without_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: list[str] | None
) -> None:
    """`down` ends libvirtd only when it is sure that no machine runs on it."""
    (tmp_path / "virsh").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert hypervisor.running_machines() == told
