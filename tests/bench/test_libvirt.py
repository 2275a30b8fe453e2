"""The benches on a real libvirt themselves work: a few figures of each, judged nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from libvirtd.fixtures import guest_image, missing, own_libvirtd
from libvirtd.private import PrivateLibvirtd

from . import create, drift
from .libvirt_rig import rig

__all__ = ["guest_image", "own_libvirtd"]  # fixtures

pytestmark = pytest.mark.real


async def test_creates_and_drift_are_measured(own_libvirtd: PrivateLibvirtd, guest_image: Path, tmp_path: Path) -> None:
    """One create by each way, explained by its trace, and two changes behind our back; nothing is left of them."""
    if shutil.which("kubectl") is None:
        missing("kubectl is not installed (make setup installs it)")
    others = [way for way in create.OTHERS if way != create.VIRT_INSTALL or shutil.which("virt-install")]
    async with rig(tmp_path / "stack", own_libvirtd, guest_image) as here:
        images = set(own_libvirtd.pool_path.iterdir())
        created = await create.taken(here, tmp_path, count=1, others=others)
        assert set(own_libvirtd.pool_path.iterdir()) == images
        assert own_libvirtd.guests() == []
        drifted = await drift.taken(here, count=2, machines=1, pause=0.1, every=1.0)
    assert set(created[0].samples) == {create.APPLY, *others}
    assert all(value > 0 for samples in created[0].samples.values() for value in samples)
    assert sum(created[-1].parts.values()) == pytest.approx(created[-2].value)
    assert [len(values) for values in drifted[1].samples.values()] == [2, 2]
    assert all(value >= 0 for values in drifted[1].samples.values() for value in values)
