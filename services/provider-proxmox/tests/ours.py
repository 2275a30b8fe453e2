"""A machine of ours that is simply there: in the simulated cluster, with a disk, a NIC and our stamp."""

from __future__ import annotations

from dataclasses import replace

from common import v1
from provider_proxmox import stamp
from provider_proxmox.stamp import DiskStamp, NicStamp, Stamp
from simulators.proxmox import Proxmox
from simulators.proxmox.world import Guest, Volume

from .conftest import OWNER

UID = "7a1e2f30-0000-4000-8000-000000000001"
GIB = 1 << 30
IDENTITY = v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner=OWNER)


def record(vmid: int, *disks: DiskStamp, identity: v1.MachineIdentity = IDENTITY, **more: object) -> Stamp:
    """Its stamp."""
    nics = (NicStamp("lan", "net0"),)
    return replace(stamp.of(identity, vmid, 1_700_000_000), made=True, disks=disks, nics=nics, **more)  # type: ignore[arg-type]  # fields by name


def volume(server: Proxmox, node: str, volid: str, size: int, vmid: int | None = None) -> str:
    """A volume that is simply there; answers with its name."""
    name = volid.partition(":")[0]
    made = Volume(volid, "images", "qcow2" if volid.endswith("qcow2") else "raw", size, vmid=vmid)
    server.world.storages[name].on(node)[volid] = made
    return volid


def machine(
    server: Proxmox,
    vmid: int = 1042,
    node: str = "pve1",
    *,
    identity: v1.MachineIdentity = IDENTITY,
    storage: str = "local-lvm",
    settings: dict[str, str] | None = None,
    **config: str,
) -> Guest:
    """One of ours, powered off, with a disk `root` of 1 GiB and a NIC `lan`."""
    suffix = f"{vmid}/vm-{vmid}-disk-0.qcow2" if server.world.storages[storage].files else f"vm-{vmid}-disk-0"
    root = volume(server, node, f"{storage}:{suffix}", GIB, vmid)
    mark = record(vmid, DiskStamp("root", "scsi0", root), identity=identity, settings=settings or {})
    given = {
        "name": f"{identity.namespace}.{identity.name}",
        "description": stamp.written("", mark),
        "tags": "virtrigaud",
        "smbios1": f"uuid={identity.uid}",
        "cores": "1",
        "memory": "512",
        "scsihw": "virtio-scsi-single",
        "scsi0": f"{root},discard=on,iothread=1,size=1G",
        "net0": f"virtio=BC:24:11:00:{vmid // 100 % 100:02d}:{vmid % 100:02d},bridge=vmbr0",
        "boot": "order=scsi0;net0",
        "hotplug": "network,disk,usb",
    }
    return server.world.add_guest(vmid, node, {**given, **config})
