"""Guests of others on a simulated cluster: taken over as they are, given back as they were."""

from __future__ import annotations

import pytest
from common import v1
from common.clock import SystemClock
from common.errors import (
    ForeignMachineError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    OperationInProgressError,
)
from provider_proxmox import stamp
from provider_proxmox.adoption import Adoption
from provider_proxmox.guests import Guests
from provider_proxmox.images import imagestamp
from provider_proxmox.images.imagestamp import ImageStamp
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import DiskStamp, NicStamp
from providerkit.planner import ADOPTED_SETTING
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Guest

from .conftest import OWNER
from .ours import GIB, IDENTITY, UID, machine, record, volume

OTHER = v1.MachineIdentity(uid=UID[:-1] + "2", namespace="shop", name="other", owner=OWNER)


@pytest.fixture
def adoption(cluster: Pve) -> Adoption:
    return Adoption(cluster, Guests(cluster, owner=OWNER), SystemClock())


def _foreign(server: Proxmox, vmid: int = 300, **config: str) -> Guest:
    one = volume(server, "pve2", f"local-lvm:vm-{vmid}-disk-0", GIB, vmid)
    two = volume(server, "pve2", f"local-lvm:vm-{vmid}-disk-1", GIB, vmid)
    given = {
        "name": "theirs", "scsi1": f"{one},size=1G", "sata0": f"{two},size=1G", "boot": "order=sata0",
        "ide2": "none,media=cdrom", "net3": "e1000=02:00:00:00:00:01,bridge=vmbr0", "description": "keep out",
        "tags": "blue",
    }  # fmt: skip
    return server.world.add_guest(vmid, "pve2", {**given, **config})


async def test_it_is_stamped_and_nothing_else(pve: Proxmox, cluster: Pve, adoption: Adoption) -> None:
    guest = _foreign(pve)
    before = dict(guest.config)
    for _ in range(2):
        await adoption.adopt("300", IDENTITY)
    assert {key: value for key, value in guest.config.items() if key not in ("description", "tags")} == {
        key: value for key, value in before.items() if key not in ("description", "tags")
    }
    assert guest.config["tags"] == "blue;virtrigaud"
    seen = cluster.index.guests[300]
    assert seen.stamp is not None
    assert (seen.description, seen.stamp.identity(), seen.stamp.made) == ("keep out", IDENTITY, True)
    assert seen.stamp.settings == {ADOPTED_SETTING: "true"}
    assert seen.stamp.disks == (
        DiskStamp("disk0", "sata0", "local-lvm:vm-300-disk-1", owned=False, provisioning=""),
        DiskStamp("disk1", "scsi1", "local-lvm:vm-300-disk-0", owned=False, provisioning=""),
    )
    assert seen.stamp.nics == (NicStamp("nic0", "net3"),)


async def test_released_it_is_as_it_was(pve: Proxmox, cluster: Pve, adoption: Adoption) -> None:
    for text, tags in (("keep out", "blue"), ("", "")):
        guest = _foreign(pve, description=text, tags=tags)
        if not text:
            del guest.config["description"], guest.config["tags"]
        before = dict(guest.config)
        await adoption.adopt("300", IDENTITY)
        found = await Guests(cluster, owner=OWNER).get(UID, "look")
        await adoption.release(found, "release")
        assert guest.config == before


async def test_what_is_not_adopted(pve: Proxmox, adoption: Adoption) -> None:
    for missing in ("999", "no-such", "", "-1", "99999999999999"):
        with pytest.raises(MachineNotFoundError):
            await adoption.adopt(missing, IDENTITY)
    machine(pve)
    _foreign(pve)
    with pytest.raises(NameConflictError, match="1042"):
        await adoption.adopt("300", IDENTITY)
    with pytest.raises(ForeignMachineError, match="shop/web"):
        await adoption.adopt("1042", OTHER)
    _foreign(pve, 301, template="1")
    with pytest.raises(NotSupportedError, match="template"):
        await adoption.adopt("301", OTHER)
    image = ImageStamp(id="i", uid=UID, namespace="shop", name="i", owner=OWNER, vmid=302)
    _foreign(pve, 302, description=imagestamp.written(image))
    with pytest.raises(ForeignMachineError, match="image"):
        await adoption.adopt("302", OTHER)
    _foreign(pve, 303).lock = "backup"
    with pytest.raises(OperationInProgressError):
        await adoption.adopt("303", OTHER)


async def test_a_copy_of_ours_is_nobodys_and_can_be_adopted(pve: Proxmox, cluster: Pve, adoption: Adoption) -> None:
    """It brings our stamp along, which names another VMID."""
    machine(pve)
    copied = stamp.written("a copy", record(1042))
    _foreign(pve, description=copied)
    await adoption.adopt("300", OTHER)
    seen = cluster.index.guests[300]
    assert seen.stamp is not None
    assert (seen.stamp.identity(), seen.description) == (OTHER, "a copy")
