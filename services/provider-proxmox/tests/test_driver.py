"""The driver as its command builds it: what several of its rooms do together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common import v1
from provider_proxmox import stamp
from provider_proxmox.__main__ import build
from provider_proxmox.content.uploads import NOTE
from provider_proxmox.settings import ProxmoxSettings
from simulators.proxmox import Proxmox

from .conftest import OWNER, credentials_of
from .ours import GIB, UID, machine, record, volume


async def test_a_start_settles_an_exchange_of_a_disk_first(pve: Proxmox, tmp_path: Path) -> None:
    """The provider died over a write: the machine runs on the new volume, and its stamp says so before it does."""
    guest = machine(pve)
    old = guest.config["scsi0"].partition(",")[0]
    new = volume(pve, "pve1", "local-lvm:vm-1042-disk-1", GIB, 1042)
    mark = record(1042, stamp.DiskStamp("root", "scsi0", old), settings={f"{NOTE}root": old})
    guest.config |= {"scsi0": f"{new},size=1G", "unused0": old, "description": stamp.written("", mark)}
    settings = ProxmoxSettings(
        endpoint=pve.urls, credentials_directory=credentials_of(pve, tmp_path / "credentials"), owner=OWNER,
        insecure=True, spool_directory=tmp_path / "spool",
    )  # fmt: skip
    driver = build(settings)
    async with driver.session():
        await driver.power_on(UID)
        seen = await driver.observe(UID)
    assert seen is not None
    assert (seen.power, seen.disks[0].id, seen.disks[0].owned) == (v1.PowerState.ON, new, True)
    told = stamp.read(guest.config["description"])[1]
    assert told is not None
    assert told == replace(told, settings={})
