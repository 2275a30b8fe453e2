"""The Driver of the fake hypervisor."""

from __future__ import annotations

import asyncio
import base64
import copy
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import timedelta

from common import faults, v1
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    ImageNotFoundError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    ResourceNotFoundError,
    SnapshotInUseError,
    WrongPowerStateError,
)

from providerkit.driver import Console, ConsoleTicket, Driver, Progress
from providerkit.extents import Incoming
from providerkit.planner import BOOT_DATA_SETTING, DESCRIPTION_SETTING, boot_data_digest, hypervisor_name

from . import adoption, hardware
from .capable import FAKE_CAPABILITIES, FAKE_LIMITS
from .clones import Clones
from .disks import Disks
from .images import FakeImages
from .shelves import Volume
from .snapshots import Snapshots
from .world import GIB, FakeHypervisor

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED

CREATE_VOLUMES = faults.declare("fake.create.volumes", "the volumes of a new machine are there, the machine is not")
DESTROY_VOLUMES = faults.declare("fake.destroy.volumes", "a machine is gone, its volumes are not")


class FakeDriver(Driver):
    """Verbs over a FakeHypervisor; any number of drivers, one after the other, may stand on one world."""

    type = "fake"

    def __init__(
        self,
        world: FakeHypervisor,
        *,
        owner: str,
        capabilities: v1.Capabilities | None = None,
        guest_shutdown_seconds: float = 0.0,
    ) -> None:
        self.world = world
        self._images = FakeImages(world)
        self._owner = owner
        self._capabilities = capabilities or FAKE_CAPABILITIES
        self._guest_shutdown_seconds = guest_shutdown_seconds
        self._guests: asyncio.TaskGroup | None = None
        self._snapshots = Snapshots(world)
        self._clones = Clones(world, self._snapshots)
        self._disks = Disks(world, self._snapshots)

    # -- session ---------------------------------------------------------------------------------------------------

    def session(self) -> AbstractAsyncContextManager[None]:
        """Holds the guests' own activity."""
        return self._session()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            self._guests = group
            guests: set[asyncio.Task[None]] = set()
            self._tasks = guests
            try:
                yield
            finally:
                self._guests = None
                for task in tuple(guests):
                    task.cancel()

    async def describe(self) -> v1.GetProviderResponse:
        """As measured: the fake is what it is."""
        return v1.GetProviderResponse(
            hypervisor="Fake 1.0",
            endpoint="memory:",
            capabilities=copy.deepcopy(self._capabilities),
            limits=copy.deepcopy(FAKE_LIMITS),
        )

    async def check(self) -> str:
        """A round trip to the world."""
        await self.world.enter("check")
        return "Fake 1.0"

    # -- observation -----------------------------------------------------------------------------------------------

    async def observe(self, uid: str) -> v1.Machine | None:
        await self.world.enter("observe")
        machine = self.world.machines.get(uid)
        return None if machine is None or uid in self.world.misbehave.unread else self._seen(uid, machine)

    async def rule_out(self, identity: v1.MachineIdentity) -> None:
        if identity.uid in self.world.misbehave.unread:
            raise HypervisorUnavailableError(
                f"look for machine {identity.uid}: something may be it, and cannot be read"
            )

    async def observe_all(self) -> list[v1.Machine]:
        await self.world.enter("observe_all")
        return [self._seen(key, machine) for key, machine in self.world.machines.items()]

    def changes(self) -> AsyncIterator[str | None]:
        return self.world.events()

    def _seen(self, key: str, machine: v1.Machine) -> v1.Machine:
        """What is true, as one who stamps with our owner sees it."""
        seen = copy.deepcopy(machine)
        for disk in seen.disks:
            disk.fixed_size_reason = self._snapshots.why_no_growth(key)
        seen.owned = seen.identity is not None and seen.identity.owner == self._owner
        if not seen.owned:
            seen.identity = None
        return seen

    # -- life ------------------------------------------------------------------------------------------------------

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        assert spec.identity is not None
        uid, name = spec.identity.uid, hypervisor_name(spec.identity)
        if uid in self.world.machines:
            self._ours(uid)
            return
        await self.world.enter("create")
        if (machine := self.world.machines.named(name)) is not None:
            raise NameConflictError(f"create machine {uid}: name {name} belongs to {machine.id}, which is not ours")
        self._check_networks(spec)
        sizes = [self._new_disk_size(uid, disk) for disk in spec.disks]
        known = sum(1 for disk in spec.disks if f"{uid}/{disk.name}" in self.world.volumes)
        if not known:
            self.world.reserve(f"create machine {uid}", sum(sizes))
        for index, (disk, size) in enumerate(zip(spec.disks, sizes, strict=True)):
            progress(index / max(1, len(spec.disks)), f"copying disk {disk.name}")
            self._make_volume(uid, disk, size)
            await self.world.enter("copy_disk")
        await faults.point(CREATE_VOLUMES)
        if uid in self.world.machines:
            raise NameConflictError(f"create machine {uid}: somebody made it in the meantime")
        self.world.machines[uid] = self._new_machine(spec)
        self.world.changed(uid)

    async def destroy(self, uid: str, progress: Progress) -> None:
        await self.world.enter("destroy")
        if uid in self.world.machines:
            self._ours(uid)
            self._snapshots.refuse_used_machine(f"delete machine {uid}", uid)
            del self.world.machines[uid]
            self._snapshots.forget(uid)
            self.world.changed(uid)
            await faults.point(DESTROY_VOLUMES)
        for volume in [volume for volume in self.world.volumes.values() if volume.uid == uid]:
            del self.world.volumes[volume.id]
        self._clones.drop_base(uid)
        self.world.save()

    async def release(self, uid: str) -> None:
        await self.world.enter("release")
        machine = self.world.machines.get(uid)
        if machine is None or machine.identity is None or machine.identity.owner != self._owner:
            return
        adoption.release(self.world, uid)

    async def adopt(self, machine_id: str, identity: v1.MachineIdentity) -> None:
        await self.world.enter("adopt")
        await adoption.adopt(self.world, machine_id, identity)

    async def clone(self, request: v1.CloneMachineRequest, progress: Progress) -> None:
        assert request.target is not None
        assert request.target.identity is not None
        if request.target.identity.uid in self.world.machines:
            self._ours(request.target.identity.uid)
            return
        await self.world.enter("clone")
        self._ours(request.source_uid)
        self._check_networks(request.target)
        await self._clones.clone(request.source_uid, request, progress)

    def _ours(self, uid: str) -> v1.Machine:
        machine = self.world.machines.get(uid)
        if machine is None:
            raise MachineNotFoundError(f"there is no machine {uid}")
        if machine.identity is None or machine.identity.owner != self._owner:
            raise ForeignMachineError(f"machine {uid} does not carry our stamp")
        return machine

    def _new_machine(self, spec: v1.MachineSpec) -> v1.Machine:
        assert spec.identity is not None
        uid, cpu, memory = (
            spec.identity.uid,
            spec.cpu or v1.CpuSpec(count=1),
            spec.memory or v1.MemorySpec(size_bytes=GIB),
        )
        machine = v1.Machine(
            identity=copy.deepcopy(spec.identity),
            id=uid,
            hypervisor_name=hypervisor_name(spec.identity),
            power=OFF,
            cpu=v1.CpuState(),
            memory=v1.MemoryState(),
            firmware=copy.deepcopy(spec.firmware or v1.FirmwareSpec()),
            host=(spec.placement.host if spec.placement is not None else "") or "fake-host",
            tags=sorted(set(spec.tags)),
            description=spec.description,
            create_time=self.world.clock.now(),
            consoles=list(self._capabilities.consoles),
        )
        assert machine.firmware is not None
        if machine.firmware.type is v1.FirmwareType.UNSPECIFIED:
            uefi = machine.firmware.secure_boot or machine.firmware.tpm
            machine.firmware.type = v1.FirmwareType.UEFI if uefi else v1.FirmwareType.BIOS
        if machine.firmware.tpm:
            machine.firmware.tpm_version = machine.firmware.tpm_version or "2.0"
        hardware.set_cpu(machine, cpu)
        hardware.set_memory(machine, memory)
        hardware.set_tuning(machine, spec)
        hardware.record(machine, BOOT_DATA_SETTING, boot_data_digest(spec))
        hardware.record(machine, DESCRIPTION_SETTING, "true" if spec.description else "")
        hardware.set_attributes(machine, spec.attributes)
        hardware.set_affinity(machine, spec.placement.affinity if spec.placement is not None else [])
        for disk in spec.disks:
            hardware.plug_disk(machine, disk, self._volume(uid, disk))
        for cdrom in spec.cdroms:
            hardware.set_cdrom(machine, cdrom)
        for nic in spec.nics:
            hardware.plug_nic(machine, nic)
        return machine

    # -- volumes ---------------------------------------------------------------------------------------------------

    def _new_disk_size(self, uid: str, disk: v1.DiskSpec) -> int:
        if disk.image is not None:
            image = self.world.images.get(disk.image.id)
            if image is None:
                raise ImageNotFoundError(f"disk {disk.name} of machine {uid}: image {disk.image.id} is not prepared")
            return max(disk.size_bytes, image.virtual_size_bytes)
        if disk.existing is not None:
            if disk.existing.id not in self.world.volumes:
                raise ResourceNotFoundError(f"disk {disk.name} of machine {uid}: there is no disk {disk.existing.id}")
            return 0
        return disk.size_bytes

    def _make_volume(self, uid: str, disk: v1.DiskSpec, size: int) -> None:
        """Make the disk's content unless it is there: an interrupted create goes on from what it left."""
        volume_id = f"{uid}/{disk.name}"
        if disk.existing is None and volume_id not in self.world.volumes:
            image_id = disk.image.id if disk.image is not None else ""
            self.world.volumes[volume_id] = Volume(volume_id, uid, disk.name, size, image_id)
            self.world.save()

    def _volume(self, uid: str, disk: v1.DiskSpec) -> Volume:
        return self.world.volumes[disk.existing.id if disk.existing is not None else f"{uid}/{disk.name}"]

    def _check_networks(self, spec: v1.MachineSpec) -> None:
        for nic in spec.nics:
            self._check_network(nic)

    def _check_network(self, nic: v1.NicSpec) -> None:
        network = nic.network
        if network is not None and network.kind is v1.NetworkKind.NAMED and network.name not in self.world.networks:
            known = ", ".join(sorted(self.world.networks))
            raise ResourceNotFoundError(f"NIC {nic.name}: there is no network {network.name}; known: {known}")

    # -- power -----------------------------------------------------------------------------------------------------

    async def power_on(self, uid: str) -> None:
        await self.world.enter("power_on")
        machine = self._ours(uid)
        if machine.power is not ON:
            hardware.boot(machine)
            self.world.changed(uid)

    async def power_off(self, uid: str) -> None:
        await self.world.enter("power_off")
        if self._ours(uid).power is not OFF:
            self.world.power_behind_our_back(uid, OFF)

    async def ask_shutdown(self, uid: str) -> None:
        await self.world.enter("ask_shutdown")
        machine = self._ours(uid)
        if machine.power is not ON:
            raise WrongPowerStateError(f"ask machine {uid} to shut down: it is {machine.power.name}")
        if uid not in self.world.misbehave.deaf:
            self._later(self._guest_powers_off(uid))

    async def ask_reboot(self, uid: str) -> None:
        await self.world.enter("ask_reboot")
        if self._ours(uid).power is not ON:
            raise WrongPowerStateError(f"ask machine {uid} to reboot: it is not on")
        self._count(uid, "boots")

    async def reset(self, uid: str) -> None:
        await self.world.enter("reset")
        if self._ours(uid).power not in (ON, PAUSED):
            raise WrongPowerStateError(f"reset machine {uid}: it is not on")
        self._count(uid, "boots")

    async def suspend(self, uid: str) -> None:
        await self.world.enter("suspend")
        machine = self._ours(uid)
        if machine.power is OFF:
            raise WrongPowerStateError(f"suspend machine {uid}: it is off")
        machine.power = SUSPENDED
        self.world.changed(uid)

    async def resume(self, uid: str) -> None:
        await self.world.enter("resume")
        machine = self._ours(uid)
        if machine.power is OFF:
            raise WrongPowerStateError(f"resume machine {uid}: it is off")
        machine.power, machine.power_reason = ON, ""
        self.world.changed(uid)

    def boots(self, uid: str) -> int:
        """How often the guest was restarted while on."""
        return self.world.calls[f"boots:{uid}"]

    def _count(self, uid: str, what: str) -> None:
        self.world.calls[f"{what}:{uid}"] += 1
        self.world.changed(uid)

    def _later(self, guest: object) -> None:
        if self._guests is None or not asyncio.iscoroutine(guest):
            raise RuntimeError("the fake's session is not open")
        task = self._guests.create_task(guest)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guest_powers_off(self, uid: str) -> None:
        await self.world.clock.sleep(self._guest_shutdown_seconds)
        machine = self.world.machines.get(uid)
        if machine is not None and machine.power is ON:
            self.world.power_behind_our_back(uid, OFF)

    # -- shape -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def together(self, uid: str) -> AsyncIterator[None]:
        """All of it or nothing; in use where `joins_changes` is set."""
        await self.world.enter("together")
        machine, volumes = self._ours(uid), copy.deepcopy(dict(self.world.volumes))
        before = copy.deepcopy(machine)
        try:
            yield
        except BaseException:
            self.world.machines[uid], self.world.volumes = before, volumes
            self.world.changed(uid)
            raise

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        await self.world.enter("set_cpu")
        hardware.set_cpu(self._ours(uid), cpu)
        self.world.changed(uid)

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        await self.world.enter("set_memory")
        hardware.set_memory(self._ours(uid), memory)
        self.world.changed(uid)

    async def set_firmware(self, uid: str, firmware: v1.FirmwareSpec) -> None:
        await self.world.enter("set_firmware")
        machine = self._ours_off(uid, "change firmware")
        have = machine.firmware or v1.FirmwareSpec()
        have.secure_boot = have.secure_boot or firmware.secure_boot
        have.tpm = have.tpm or firmware.tpm
        if have.tpm:
            have.tpm_version = have.tpm_version or firmware.tpm_version or "2.0"
        self.world.changed(uid)

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        await self.world.enter("attach_disk")
        machine = self._ours(uid)
        if any(have.name == disk.name for have in machine.disks):
            return
        size = self._new_disk_size(uid, disk)
        if f"{uid}/{disk.name}" not in self.world.volumes:
            self.world.reserve(f"attach disk {disk.name} to machine {uid}", size)
        self._make_volume(uid, disk, size)
        hardware.plug_disk(machine, disk, self._volume(uid, disk))
        self.world.changed(uid)

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        await self.world.enter("grow_disk")
        disk = self._disk(uid, name)
        if size_bytes > disk.size_bytes:
            if why := self._snapshots.why_no_growth(uid):
                raise SnapshotInUseError(f"grow disk {name} of machine {uid}: {why}")
            self.world.reserve(f"grow disk {name} of machine {uid}", size_bytes - disk.size_bytes)
            self.world.volumes.resize(disk.id, size_bytes)
            disk.size_bytes = size_bytes
            self.world.changed(uid)

    async def update_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        await self.world.enter("update_disk")
        self._disk(uid, disk.name)
        hardware.update_disk(self._ours(uid), disk)
        self.world.changed(uid)

    async def move_disk(self, uid: str, name: str, storage: str, *, live: bool) -> None:
        await self.world.enter("move_disk")
        self._disk(uid, name).storage = storage
        self.world.changed(uid)

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        await self.world.enter("detach_disk")
        machine = self._ours(uid)
        machine.disks = [disk for disk in machine.disks if disk.name != name]
        hardware.replace_record(machine, f"disks[{name}].", {})
        self.world.changed(uid)

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        await self.world.enter("attach_nic")
        machine = self._ours(uid)
        self._check_network(nic)
        if all(have.name != nic.name for have in machine.nics):
            hardware.plug_nic(machine, nic)
            hardware.address(machine)
            self.world.changed(uid)

    async def update_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        await self.world.enter("update_nic")
        machine = self._ours(uid)
        self._check_network(nic)
        have = next((have for have in machine.nics if have.name == nic.name), None)
        if have is None:
            raise ResourceNotFoundError(f"update NIC {nic.name} of machine {uid}: there is none")
        have.network = copy.deepcopy(nic.network) if nic.network is not None else have.network
        have.model, have.mac = nic.model or have.model, nic.mac or have.mac
        hardware.record_nic(machine, nic)
        hardware.address(machine)
        self.world.changed(uid)

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        await self.world.enter("detach_nic")
        machine = self._ours(uid)
        machine.nics = [nic for nic in machine.nics if nic.name != name]
        hardware.replace_record(machine, f"nics[{name}].", {})
        hardware.address(machine)
        self.world.changed(uid)

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        await self.world.enter("set_boot_data")
        self._ours_off(uid, "replace boot data").settings[BOOT_DATA_SETTING] = boot_data_digest(spec)
        self.world.changed(uid)

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        await self.world.enter("set_tags")
        self._ours(uid).tags = sorted(set(tags))
        self.world.changed(uid)

    async def set_description(self, uid: str, description: str) -> None:
        await self.world.enter("set_description")
        machine = self._ours(uid)
        machine.description = description
        hardware.record(machine, DESCRIPTION_SETTING, "true" if description else "")
        self.world.changed(uid)

    async def set_cdrom(self, uid: str, cdrom: v1.CdromSpec, *, live: bool) -> None:
        await self.world.enter("set_cdrom")
        hardware.set_cdrom(self._ours(uid), cdrom)
        self.world.changed(uid)

    async def detach_cdrom(self, uid: str, name: str) -> None:
        await self.world.enter("detach_cdrom")
        machine = self._ours(uid)
        machine.cdroms = [drive for drive in machine.cdroms if drive.name != name]
        self.world.changed(uid)

    async def note(self, uid: str, key: str, value: str) -> None:
        await self.world.enter("note")
        hardware.record(self._ours(uid), key, value)
        self.world.changed(uid)

    async def set_attributes(self, uid: str, attributes: dict[str, str]) -> None:
        await self.world.enter("set_attributes")
        hardware.set_attributes(self._ours(uid), attributes)
        self.world.changed(uid)

    async def set_placement(self, uid: str, placement: v1.Placement) -> None:
        await self.world.enter("set_placement")
        self._ours(uid).host = placement.host
        self.world.changed(uid)

    async def set_affinity(self, uid: str, rules: list[v1.AffinityRule]) -> None:
        await self.world.enter("set_affinity")
        hardware.set_affinity(self._ours(uid), rules)
        self.world.changed(uid)

    async def set_tuning(self, uid: str, spec: v1.MachineSpec) -> None:
        await self.world.enter("set_tuning")
        hardware.set_tuning(self._ours_off(uid, "change tuning"), spec)
        self.world.changed(uid)

    def _ours_off(self, uid: str, what: str) -> v1.Machine:
        machine = self._ours(uid)
        if machine.power is not OFF:
            raise WrongPowerStateError(f"{what} of machine {uid}: it is {machine.power.name}")
        return machine

    def _disk(self, uid: str, name: str) -> v1.Disk:
        for disk in self._ours(uid).disks:
            if disk.name == name:
                return disk
        raise ResourceNotFoundError(f"machine {uid} has no disk {name}")

    # -- images ----------------------------------------------------------------------------------------------------

    async def image_id(self, request: v1.PrepareImageRequest) -> str:
        return self._images.image_id(request)

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        return await self._images.prepare(request, progress)

    async def get_image(self, image_id: str) -> v1.Image | None:
        return await self._images.get(image_id)

    async def list_images(self) -> list[v1.Image]:
        return await self._images.list()

    async def delete_image(self, image_id: str) -> None:
        await self._images.delete(image_id)

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def create_snapshot(self, request: v1.CreateSnapshotRequest, progress: Progress) -> v1.Snapshot:
        await self.world.enter("create_snapshot")
        self._ours(request.machine_uid)
        return await self._snapshots.create(request.machine_uid, request)

    async def delete_snapshot(self, request: v1.DeleteSnapshotRequest, progress: Progress) -> None:
        await self.world.enter("delete_snapshot")
        self._ours(request.machine_uid)
        await self._snapshots.delete(request.machine_uid, request.uid, children=request.children)

    async def revert_snapshot(self, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        await self.world.enter("revert_snapshot")
        self._ours(request.machine_uid)
        await self._snapshots.revert(request.machine_uid, request.uid)

    async def list_snapshots(self, uid: str) -> list[v1.Snapshot]:
        await self.world.enter("list_snapshots")
        self._ours(uid)
        return self._snapshots.of(uid)

    # -- content of disks ------------------------------------------------------------------------------------------

    async def disk_info(self, disk: v1.DiskRef) -> v1.GetDiskResponse:
        await self.world.enter("disk_info")
        self._ours(disk.machine_uid)
        return self._disks.info(disk)

    async def read_disk(self, request: v1.ReadDiskRequest) -> AsyncGenerator[v1.Extent]:
        await self.world.enter("read_disk")
        self._ours(request.disk.machine_uid if request.disk is not None else "")
        async with aclosing(self._disks.read(request)) as found:
            async for extent in found:
                yield extent

    async def write_disk(self, target: v1.WriteDiskTarget, incoming: Incoming) -> int:
        await self.world.enter("write_disk")
        self._ours(target.disk.machine_uid if target.disk is not None else "")
        return await self._disks.write(target, incoming)

    # -- the rest --------------------------------------------------------------------------------------------------

    def console(self, uid: str, kind: v1.ConsoleKind, *, force: bool) -> AbstractAsyncContextManager[Console]:
        if kind is not v1.ConsoleKind.SERIAL:
            raise NotSupportedError("the fake's only connected console is the serial one")
        return self._console(uid)

    @asynccontextmanager
    async def _console(self, uid: str) -> AsyncIterator[Console]:
        await self.world.enter("console")
        if self._ours(uid).power is OFF:
            raise WrongPowerStateError(f"open console of machine {uid}: it is off")
        yield _EchoConsole()

    async def console_ticket(self, uid: str) -> ConsoleTicket:
        await self.world.enter("console_ticket")
        self._ours(uid)
        expires = self.world.clock.now() + timedelta(minutes=1)
        return ConsoleTicket(f"wss://console.example/{uid}?ticket={secrets.token_urlsafe(16)}", expires)

    async def screenshot(self, uid: str) -> bytes:
        await self.world.enter("screenshot")
        self._ours(uid)
        return _SCREEN

    async def inventory(self) -> v1.GetInventoryResponse:
        await self.world.enter("inventory")
        used = sum(m.memory.size_bytes for m in self.world.machines.values() if m.power is ON and m.memory is not None)
        host = v1.Host(
            name="fake-host", ready=True, cpu_model="fake", cpus=hardware.MAX_CPUS, memory_bytes=hardware.MAX_MEMORY,
            memory_used_bytes=used, virtualization="fake",
        )  # fmt: skip
        capacity = self.world.capacity_bytes
        free = max(0, capacity - self.world.used_bytes)
        storage = v1.Storage(name="fake", kind="memory", capacity_bytes=capacity, free_bytes=free, ready=True)
        networks = [
            v1.Network(name=name, kind=v1.NetworkKind.NAMED, ready=True) for name in sorted(self.world.networks)
        ]
        return v1.GetInventoryResponse(hosts=[host], storages=[storage], networks=networks)


class _EchoConsole:
    """A guest that sends back what is typed."""

    def __init__(self) -> None:
        self._echo: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self._echo.get()

    async def write(self, data: bytes) -> None:
        await self._echo.put(data)


_SCREEN = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A PNG of one black pixel."""
