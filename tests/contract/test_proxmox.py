"""The contract, kept by the Proxmox VE provider on a simulated cluster of three nodes."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from common import v1
from common.errors import ProviderError
from provider_proxmox import stamp
from provider_proxmox.__main__ import build
from provider_proxmox.driver import ProxmoxDriver
from provider_proxmox.keeping import MARK
from provider_proxmox.session.index import Index
from provider_proxmox.session.pve import Pve
from provider_proxmox.settings import ProxmoxSettings
from simulators.proxmox import pace as simulated
from simulators.proxmox.client import by_ticket, client
from simulators.proxmox.server import Proxmox, proxmox
from simulators.proxmox.world import Guest, Pool, Storage, Volume
from simulators.proxmox.world import World as Cluster

from .adoption import AdoptionContract
from .capabilities import CapabilityContract
from .clones import CloneContract
from .consoles import ConsoleContract
from .disks import DiskContract
from .images import ImageContract
from .machines import MachineContract
from .operations import OperationContract
from .server import ServerContract
from .snapshots import SnapshotContract
from .subject import OWNER, Pace, Subject, Traits, World
from .watching import WatchContract

MIB = 1 << 20
MEDIA = ("shared:iso/one.iso", "shared:iso/two.iso")
ENDLESS = 1e6
EXTRA_CONFIG = {
    "proxmox.vmid": "4711",
    "proxmox.cpuType": "x86-64-v3",
    "proxmox.numa": "true",
    "proxmox.cpuLimit": "1.5",
    "proxmox.machine": "q35",
    "proxmox.scsiHardware": "virtio-scsi-pci",
    "proxmox.hotplug": "network,disk",
    "proxmox.onBoot": "true",
    "proxmox.startup": "order=2,up=30",
    "proxmox.protection": "true",
    "proxmox.osType": "win11",
    "proxmox.ha": "started",
    "proxmox.diskCache": "writeback",
    "proxmox.diskDiscard": "false",
    "proxmox.diskIothread": "false",
    "proxmox.diskSsd": "true",
    "proxmox.diskBackup": "false",
    "proxmox.diskAio": "threads",
    "proxmox.bootData": "iso",
    "proxmox.balloon": "512",
    "proxmox.suspendTo": "disk",
}
PACE = Pace(call=20.0, settle=20.0, short_wait=2.0)


class Held(simulated.Pace):
    """A pace at which nothing that is being made gets on until it is released."""

    def __init__(self, usual: simulated.Pace) -> None:
        super().__init__(**{**dataclasses.asdict(usual), "create": ENDLESS, "clone_full": ENDLESS})
        object.__setattr__(self, "release", asyncio.Event())

    async def spend(self, seconds: float) -> None:
        if seconds < ENDLESS:
            await super().spend(seconds)
        else:
            await self.release.wait()


class ProxmoxWorld(World):
    """The simulator, changed from behind, and the provider's own view of it for waiting."""

    def __init__(self, pve: Proxmox) -> None:
        self.pve = pve
        self.cluster: Cluster = pve.world
        self.session: Pve | None = None
        self.theirs: set[int] = set()
        """Guests that others made."""

    async def make_foreign(self, name: str, uid: str = "", *, description: str = "", template: bool = False) -> str:
        vmid = next(vmid for vmid in range(100, 1000) if vmid not in self.cluster.guests)
        volume = f"local-lvm:vm-{vmid}-disk-0"
        self.cluster.storages["local-lvm"].on("pve1")[volume] = Volume(
            volume, "images", "raw", 8 * MIB, vmid=vmid, notes=f"theirs: {volume}"
        )
        config = {"name": name, "cores": "1", "memory": "64", "scsi0": f"{volume},size=8M", "boot": "order=scsi0"}
        config |= {"smbios1": f"uuid={uid}"} if uid else {}
        config |= {"description": description} if description else {}
        self.cluster.add_guest(vmid, "pve1", config | ({"template": "1"} if template else {}))
        self.theirs.add(vmid)
        await self._until(lambda index: vmid in index.guests and bool(index.guests[vmid].config))
        return str(vmid)

    async def make_template(self, name: str) -> str:
        return await self.make_foreign(name, template=True)

    async def make_of_others(self, name: str) -> str:
        vmid = next(vmid for vmid in range(100, 1000) if vmid not in self.cluster.guests)
        identity = v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="theirs", name=name, owner="somebody-else")
        mark = dataclasses.replace(stamp.of(identity, vmid, 1), made=True)
        return await self.make_foreign(name, identity.uid, description=stamp.written("", mark))

    async def fingerprint(self, machine_id: str) -> str:
        guest = self.cluster.guests[int(machine_id)] if machine_id.isdecimal() else self._our(machine_id)
        return f"{guest.node} {guest.status} {guest.text()}"

    async def count(self, uid: str) -> int:
        return len(self._with(uid))

    def _with(self, uid: str) -> list[Guest]:
        """What keeps disks of people for them is no machine."""
        return [guest for guest in self.cluster.guests.values() if uid in guest.text() and MARK not in guest.text()]

    def _our(self, uid: str) -> Guest:
        (guest,) = self._with(uid)
        return guest

    async def leftovers(self, uid: str) -> list[str]:
        guests = [guest.name for guest in self._with(uid) if guest.vmid not in self.theirs]
        volumes = [
            volid
            for storage in self.cluster.storages.values()
            for volumes in storage.volumes.values()
            for volid, volume in volumes.items()
            if uid in volid or (volume.vmid is not None and volume.vmid not in self.cluster.guests)
        ]
        return guests + volumes

    async def let_go(self, uid: str) -> None:
        guest = self._our(uid)
        del guest.config["scsi0"]
        await self._until(lambda index: "scsi0" not in index.guests[guest.vmid].config)

    async def has_disk(self, disk_id: str) -> bool:
        """Under its own name, or that of a person under the name that it got with the guest that keeps it."""
        everything = [volume for storage in self.cluster.storages.values() for volume in self._volumes(storage)]
        return any(volume.volid == disk_id or volume.notes == f"theirs: {disk_id}" for volume in everything)

    @staticmethod
    def _volumes(storage: Storage) -> list[Volume]:
        return [volume for volumes in storage.volumes.values() for volume in volumes.values()]

    async def agent(self, uid: str, *, running: bool) -> None:
        self._our(uid).agent = running
        await self._until(lambda index: all(bool(each.agent) is running for each in index.with_uid(uid)))

    async def take_foreign_snapshot(self, uid: str, name: str) -> None:
        guest = self._our(uid)
        async with client(self.pve, await by_ticket(self.pve)) as root:
            done = await root.run("POST", f"/nodes/{guest.node}/qemu/{guest.vmid}/snapshot", snapname=name)
        assert done.exitstatus == "OK"
        await self._until(
            lambda index: any(each["name"] == name for found in index.with_uid(uid) for each in found.snapshots)
        )

    async def power_off(self, uid: str) -> None:
        self._our(uid).run = None

    async def remove(self, uid: str) -> None:
        guest = self._our(uid)
        guest.run = None
        async with client(self.pve, await by_ticket(self.pve)) as root:
            done = await root.run("DELETE", f"/nodes/{guest.node}/qemu/{guest.vmid}", purge=1)
        assert done.exitstatus == "OK"
        await self._until(lambda index: not index.with_uid(uid))

    async def _until(self, holds: Callable[[Index], bool]) -> None:
        """Wait until the provider has heard of it, which costs it no call of ours and so takes a moment."""
        assert self.session is not None
        async with asyncio.timeout(15):
            while not holds(self.session.index):
                await asyncio.to_thread(time.sleep, 0.01)

    @asynccontextmanager
    async def slow_create(self) -> AsyncIterator[None]:
        before = self.cluster.pace
        self.cluster.pace = held = Held(before)
        try:
            yield
        finally:
            self.cluster.pace = before
            held.release.set()

    def deaf(self, uid: str) -> None:
        self._our(uid).obeys = False

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        assert self.session is not None
        await self.pve.down(0)
        try:
            async with asyncio.timeout(30):
                while self._answers():
                    await asyncio.to_thread(time.sleep, 0.05)
            yield
        finally:
            await self.pve.up(0)
            async with asyncio.timeout(30):
                while not self._answers():
                    await asyncio.to_thread(time.sleep, 0.05)

    def _answers(self) -> bool:
        assert self.session is not None
        try:
            self.session.known("test")
        except ProviderError:
            return False
        return True

    @asynccontextmanager
    async def storage_full(self) -> AsyncIterator[None]:
        sizes = {name: storage.total for name, storage in self.cluster.storages.items()}
        for storage in self.cluster.storages.values():
            storage.total = 0
        try:
            yield
        finally:
            for name, size in sizes.items():
                self.cluster.storages[name].total = size


@asynccontextmanager
async def served_proxmox(pve: Proxmox, home: Path, traits: Traits, **settings: object) -> AsyncIterator[Subject]:
    """A subject on a simulated cluster."""
    (home / "token_id").write_text(pve.token_id)
    (home / "token_secret").write_text(pve.token_secret)
    shutil.copyfile(pve.ca_file, home / "ca.crt")
    world = ProxmoxWorld(pve)

    def make_driver() -> ProxmoxDriver:
        driver = build(
            ProxmoxSettings(
                endpoint=pve.urls,
                credentials_directory=home,
                owner=OWNER,
                insecure=True,
                call_timeout=10.0,
                tick=0.2,
                image_directory=[home],
                spool_directory=home / "spool",
                **settings,  # type: ignore[arg-type]  # fields of the settings
            )
        )
        world.session = driver.pve
        return driver

    async with Subject(make_driver, world, traits) as subject:
        yield subject


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Images that the provider may read."""
    small = ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "small.qcow2"), "8M"]
    subprocess.run(small, check=True)
    (tmp_path / "broken.qcow2").write_bytes(b"no image at all" * 100)
    return tmp_path


@pytest.fixture
async def subject(home: Path) -> AsyncIterator[Subject]:
    traits = Traits(
        other_network=v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr1"),
        places={
            v1.PlacementKind.HOST: ("pve1", "pve2"),
            v1.PlacementKind.RESOURCE_POOL: ("web", "db"),
            v1.PlacementKind.DATASTORE: ("local-lvm", "shared"),
        },
        other_storage="shared",
        memory_bytes=1 << 30,
        extra_config=EXTRA_CONFIG,
        media=MEDIA,
        gpu="a100",
        copies_images=True,  # clones on thin LVM stand on nothing; test_proxmox_disks has others
        image=lambda: v1.ImageSource(file=v1.FileSource(path="small.qcow2")),
        broken_image=lambda: v1.ImageSource(file=v1.FileSource(path="broken.qcow2")),
        console=(b"hello\r", b"hello\r\n"),
        pace=PACE,
    )
    async with proxmox(Cluster()) as pve:
        pve.world.pools |= {name: Pool(name) for name in ("web", "db")}
        pve.world.mappings["pci"] = {"a100": {"map": ["node=pve3,path=0000:01:00.0,id=10de:20b0"]}}
        for medium in MEDIA:
            pve.world.storages["shared"].on("pve1")[medium] = Volume(medium, "iso", "iso", MIB)
        async with served_proxmox(pve, home, traits, default_storage="local-lvm") as subject:
            yield subject


class TestMachines(MachineContract): ...


class TestCapabilities(CapabilityContract): ...


class TestConsoles(ConsoleContract): ...


class TestImages(ImageContract): ...


class TestWatch(WatchContract): ...


class TestOperations(OperationContract): ...


class TestServer(ServerContract): ...


class TestDisks(DiskContract): ...


class TestSnapshots(SnapshotContract): ...


class TestClones(CloneContract): ...


class TestAdoption(AdoptionContract): ...
