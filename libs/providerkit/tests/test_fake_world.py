"""What the fake's world keeps when its process dies."""

from __future__ import annotations

from pathlib import Path

from common import v1
from providerkit.fake import FakeDriver, FakeHypervisor

UID, CLONE, MARK = (f"0a1b2c3d-0000-4000-8000-00000000000{digit}" for digit in (1, 2, 3))


def _driver(path: Path) -> FakeDriver:
    return FakeDriver(FakeHypervisor(path=path), owner="me")


def _spec(uid: str, name: str) -> v1.MachineSpec:
    identity = v1.MachineIdentity(uid=uid, namespace="lab", name=name, owner="me")
    return v1.MachineSpec(identity=identity, disks=[v1.DiskSpec(name="root", size_bytes=1 << 20)])


async def test_snapshots_and_what_stands_on_them_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    driver = _driver(path)
    await driver.create(_spec(UID, "web"), lambda _part, _step: None)
    taken = await driver.create_snapshot(
        v1.CreateSnapshotRequest(machine_uid=UID, uid=MARK, name="s"), lambda _part, _step: None
    )
    wish = v1.CloneMachineRequest(source_uid=UID, kind=v1.CloneKind.LINKED, target=_spec(CLONE, "copy"))
    wish.source_snapshot_id = taken.id
    await driver.clone(wish, lambda _part, _step: None)
    before = [await driver.list_snapshots(UID), await driver.observe(UID), await driver.observe(CLONE)]
    again = _driver(path)
    assert [await again.list_snapshots(UID), await again.observe(UID), await again.observe(CLONE)] == before
    assert again.world.volumes == driver.world.volumes
    assert again.world.snapshots == driver.world.snapshots
