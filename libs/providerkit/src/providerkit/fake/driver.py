"""The Driver of the fake hypervisor."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from common import faults, v1
from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    DownloadFailedError,
    ForeignMachineError,
    HostFullError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    ResourceNotFoundError,
    WrongPowerStateError,
)

from providerkit.driver import Console, Driver, Progress
from providerkit.planner import BOOT_DATA_SETTING, boot_data_digest, hypervisor_name

from .world import GIB, FakeHypervisor, Volume

ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED

CREATE_VOLUMES = faults.declare("fake.create.volumes", "the volumes of a new machine are there, the machine is not")
DESTROY_VOLUMES = faults.declare("fake.destroy.volumes", "a machine is gone, its volumes are not")

MAX_CPUS = 64
MAX_MEMORY = 1 << 40

FAKE_CAPABILITIES = v1.Capabilities(
    firmware=[v1.FirmwareType.BIOS, v1.FirmwareType.UEFI],
    secure_boot=True,
    tpm_versions=["2.0"],
    cpu_hot_add=True,
    memory_hot_add=True,
    disk_hot_add=True,
    disk_hot_remove=True,
    disk_online_grow=True,
    nic_hot_add=True,
    nic_hot_remove=True,
    nic_online_update=True,
    disk_offline_grow=True,
    disk_offline_change=True,
    nic_offline_change=True,
    disk_buses=[v1.DiskBus.VIRTIO, v1.DiskBus.SCSI, v1.DiskBus.SATA],
    disk_provisionings=[v1.DiskProvisioning.THIN, v1.DiskProvisioning.THICK],
    disk_iops_limit=True,
    existing_disk=True,
    nic_models=["virtio", "e1000e"],
    network_kinds=[v1.NetworkKind.NAMED, v1.NetworkKind.BRIDGE, v1.NetworkKind.NAT],
    vlan=True,
    nic_mtu=True,
    fixed_mac=True,
    cloud_init=True,
    static_addresses=True,
    ignition=True,
    graceful_shutdown=True,
    suspend=True,
    reset=True,
    nested_virtualization=True,
    iommu=True,
    cpu_topology=True,
    cpu_shares=True,
    tags=True,
    extra_config_keys=["fake.colour"],
    consoles=[v1.ConsoleKind.SERIAL],
    image_import=True,
    image_formats=["qcow2", "raw"],
    image_sources=[v1.ImageSourceKind.URL, v1.ImageSourceKind.FILE],
    inventory=True,
    guest_addresses=True,
)


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
        self._owner = owner
        self._capabilities = capabilities or FAKE_CAPABILITIES
        self._guest_shutdown_seconds = guest_shutdown_seconds
        self._guests: asyncio.TaskGroup | None = None

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
        limits = v1.Limits(max_cpus=MAX_CPUS, max_memory_bytes=MAX_MEMORY, max_disks=32, max_nics=16)
        return v1.GetProviderResponse(
            hypervisor="Fake 1.0", endpoint="memory:", capabilities=copy.deepcopy(self._capabilities), limits=limits
        )

    async def check(self) -> str:
        """A round trip to the world."""
        await self.world.enter("check")
        return "Fake 1.0"

    # -- observation -----------------------------------------------------------------------------------------------

    async def observe(self, uid: str) -> v1.Machine | None:
        await self.world.enter("observe")
        machine = self.world.machines.get(uid)
        return None if machine is None else self._seen(machine)

    async def observe_all(self) -> list[v1.Machine]:
        await self.world.enter("observe_all")
        return [self._seen(machine) for machine in self.world.machines.values()]

    def changes(self) -> AsyncIterator[str | None]:
        return self.world.events()

    def _seen(self, machine: v1.Machine) -> v1.Machine:
        """What is true, as one who stamps with our owner sees it."""
        seen = copy.deepcopy(machine)
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
        for machine in self.world.machines.values():
            if machine.hypervisor_name == name:
                raise NameConflictError(f"create machine {uid}: name {name} belongs to {machine.id}, which is not ours")
        self._check_networks(spec)
        sizes = [self._new_disk_size(uid, disk) for disk in spec.disks]
        known = sum(1 for disk in spec.disks if f"{uid}/{disk.name}" in self.world.volumes)
        if not known:
            self._reserve(f"create machine {uid}", sum(sizes))
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
            del self.world.machines[uid]
            self.world.changed(uid)
            await faults.point(DESTROY_VOLUMES)
        for volume in [volume for volume in self.world.volumes.values() if volume.uid == uid]:
            del self.world.volumes[volume.id]
        self.world.save()

    async def release(self, uid: str) -> None:
        await self.world.enter("release")
        machine = self.world.machines.get(uid)
        if machine is None or machine.identity is None or machine.identity.owner != self._owner:
            return
        machine.identity = None
        for volume in self.world.volumes.values():
            if volume.uid == uid:
                volume.uid = ""
        self.world.changed(uid)

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
            host="fake-host",
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
        _set_cpu(machine, cpu)
        _set_memory(machine, memory)
        _set_tuning(machine, spec)
        if digest := boot_data_digest(spec):
            machine.settings[BOOT_DATA_SETTING] = digest
        for disk in spec.disks:
            _plug_disk(machine, disk, self._volume(uid, disk))
        for nic in spec.nics:
            _plug_nic(machine, nic)
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

    def _reserve(self, what: str, size: int) -> None:
        free = self.world.capacity_bytes - self.world.used_bytes
        if size > free:
            raise HostFullError(f"{what}: {size} bytes asked, storage fake has {free} bytes free")

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
            _boot(machine)
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

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        await self.world.enter("set_cpu")
        _set_cpu(self._ours(uid), cpu)
        self.world.changed(uid)

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        await self.world.enter("set_memory")
        _set_memory(self._ours(uid), memory)
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
            self._reserve(f"attach disk {disk.name} to machine {uid}", size)
        self._make_volume(uid, disk, size)
        _plug_disk(machine, disk, self._volume(uid, disk))
        self.world.changed(uid)

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        await self.world.enter("grow_disk")
        disk = self._disk(uid, name)
        if size_bytes > disk.size_bytes:
            self._reserve(f"grow disk {name} of machine {uid}", size_bytes - disk.size_bytes)
            disk.size_bytes = self.world.volumes[disk.id].size_bytes = size_bytes
            self.world.changed(uid)

    async def update_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        await self.world.enter("update_disk")
        self._disk(uid, disk.name)
        if disk.iops_limit:
            self._ours(uid).settings[f"disks[{disk.name}].iops_limit"] = str(disk.iops_limit)
        self.world.changed(uid)

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        await self.world.enter("detach_disk")
        machine = self._ours(uid)
        machine.disks = [disk for disk in machine.disks if disk.name != name]
        machine.settings.pop(f"disks[{name}].iops_limit", None)
        self.world.changed(uid)

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        await self.world.enter("attach_nic")
        machine = self._ours(uid)
        self._check_network(nic)
        if all(have.name != nic.name for have in machine.nics):
            _plug_nic(machine, nic)
            _address(machine)
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
        if nic.mtu:
            machine.settings[f"nics[{nic.name}].mtu"] = str(nic.mtu)
        _address(machine)
        self.world.changed(uid)

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        await self.world.enter("detach_nic")
        machine = self._ours(uid)
        machine.nics = [nic for nic in machine.nics if nic.name != name]
        machine.settings.pop(f"nics[{name}].mtu", None)
        _address(machine)
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
        self._ours(uid).description = description
        self.world.changed(uid)

    async def set_tuning(self, uid: str, spec: v1.MachineSpec) -> None:
        await self.world.enter("set_tuning")
        _set_tuning(self._ours_off(uid, "change tuning"), spec)
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
        source = request.source or v1.ImageSource()
        if source.url is None and source.file is None:
            raise InvalidSpecError("source: the fake takes url and file")
        if source.url is not None:
            parts = urlsplit(source.url.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise InvalidSpecError("source.url: is not an http or https URL without user information")
        if source.file is not None and (not source.file.path.startswith("/") or ".." in Path(source.file.path).parts):
            raise InvalidSpecError("source.file.path: is not an absolute path without ..")
        if source.format not in ("", "qcow2", "raw"):
            raise InvalidSpecError(f"source.format: {source.format[:32]!r} is neither qcow2 nor raw")
        text = source.url.url if source.url is not None else source.file.path if source.file is not None else ""
        checksum = source.checksum or v1.Checksum()
        key = "\n".join((request.uid, text, source.format, checksum.algorithm, checksum.digest))
        return f"image-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        image_id = await self.image_id(request)
        if (ready := self.world.images.get(image_id)) is not None:
            return copy.deepcopy(ready)
        assert request.source is not None
        progress(0.0, "fetching")
        content = self._fetch(request.source)
        await self.world.enter("prepare_image")
        progress(0.5, "verifying")
        checksum = request.source.checksum
        if checksum is not None and checksum.digest:
            digest = hashlib.new(checksum.algorithm, content, usedforsecurity=False).hexdigest()
            if digest != checksum.digest:
                raise ChecksumMismatchError(
                    f"image {request.namespace}/{request.name}: {checksum.algorithm} is {digest}"
                )
        format_, virtual_size = _image_format(
            f"image {request.namespace}/{request.name}", request.source.format, content
        )
        self._reserve(f"prepare image {request.namespace}/{request.name}", len(content))
        image = v1.Image(
            id=image_id, location=f"fake:{image_id}", format=format_, size_bytes=len(content),
            virtual_size_bytes=virtual_size, source_digest=hashlib.sha256(content).hexdigest(), uid=request.uid,
            namespace=request.namespace, name=request.name, create_time=self.world.clock.now(),
        )  # fmt: skip
        self.world.images[image_id] = image
        self.world.save()
        return copy.deepcopy(image)

    def _fetch(self, source: v1.ImageSource) -> bytes:
        if source.file is not None:
            try:
                return Path(source.file.path).read_bytes()
            except OSError as error:
                raise ImageNotFoundError(f"image file {source.file.path}: {error.strerror}") from error
        url = source.url.url if source.url is not None else ""
        if url in self.world.urls:
            return self.world.urls[url]
        host = urlsplit(url).hostname or ""
        if host == "example" or host.endswith(".example"):
            return _QCOW2.pack(b"QFI\xfb", 3, 0, 0, 16, GIB) + url.encode()  # a made-up image: the URL is its content
        raise DownloadFailedError(f"fetch image: host {host} gave no answer")

    async def get_image(self, image_id: str) -> v1.Image | None:
        await self.world.enter("get_image")
        return copy.deepcopy(self.world.images.get(image_id))

    async def list_images(self) -> list[v1.Image]:
        await self.world.enter("list_images")
        return copy.deepcopy(list(self.world.images.values()))

    async def delete_image(self, image_id: str) -> None:
        await self.world.enter("delete_image")
        users = sorted(
            {volume.uid or volume.id for volume in self.world.volumes.values() if volume.image_id == image_id}
        )
        if users:
            raise ImageInUseError(f"image {image_id} is in use by machines {', '.join(users)}")
        self.world.images.pop(image_id, None)
        self.world.save()

    # -- the rest --------------------------------------------------------------------------------------------------

    def console(self, uid: str, kind: v1.ConsoleKind, *, force: bool) -> AbstractAsyncContextManager[Console]:
        if kind is not v1.ConsoleKind.SERIAL:
            raise NotSupportedError("the fake has a serial console only")
        return self._console(uid)

    @asynccontextmanager
    async def _console(self, uid: str) -> AsyncIterator[Console]:
        await self.world.enter("console")
        if self._ours(uid).power is OFF:
            raise WrongPowerStateError(f"open console of machine {uid}: it is off")
        yield _EchoConsole()

    async def inventory(self) -> v1.GetInventoryResponse:
        await self.world.enter("inventory")
        used = sum(m.memory.size_bytes for m in self.world.machines.values() if m.power is ON and m.memory is not None)
        host = v1.Host(
            name="fake-host", ready=True, cpu_model="fake", cpus=MAX_CPUS, memory_bytes=MAX_MEMORY,
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


_QCOW2 = struct.Struct(">4sIQIIQ")
"""Magic, version, backing file offset and size, cluster bits, capacity. Source: QEMU docs/interop/qcow2.rst."""


def _image_format(what: str, claimed: str, content: bytes) -> tuple[str, int]:
    """Format and capacity in bytes of an image, which must be what it claims to be."""
    is_qcow2 = content[:4] == b"QFI\xfb"
    if is_qcow2 and claimed != "raw":
        if len(content) < _QCOW2.size:
            raise BrokenImageError(f"{what}: a qcow2 file that ends within its header")
        capacity = _QCOW2.unpack_from(content)[5]
        return "qcow2", int(capacity)
    if claimed == "qcow2" or not content:
        raise BrokenImageError(f"{what}: is no qcow2 file")
    return "raw", len(content)


def _set_cpu(machine: v1.Machine, cpu: v1.CpuSpec) -> None:
    assert machine.cpu is not None
    state = machine.cpu
    if machine.power is OFF:
        state.max_count = min(MAX_CPUS, cpu.count * 2) if cpu.hot_add else cpu.count
        machine.settings["cpu.hot_add"] = str(cpu.hot_add).lower()
    state.count = state.configured_count = cpu.count
    state.cores_per_socket = cpu.cores_per_socket or state.cores_per_socket or 1
    state.nested_virtualization = state.nested_virtualization or cpu.nested_virtualization
    if cpu.shares is not None:
        machine.settings["cpu.shares"] = str(cpu.shares)


def _set_memory(machine: v1.Machine, memory: v1.MemorySpec) -> None:
    assert machine.memory is not None
    state = machine.memory
    if machine.power is OFF:
        state.max_bytes = min(MAX_MEMORY, memory.size_bytes * 2) if memory.hot_add else memory.size_bytes
        machine.settings["memory.hot_add"] = str(memory.hot_add).lower()
    state.size_bytes = state.configured_bytes = memory.size_bytes


def _set_tuning(machine: v1.Machine, spec: v1.MachineSpec) -> None:
    if spec.tuning is not None and spec.tuning.iommu:
        machine.settings["tuning.iommu"] = "true"
    machine.settings.update(spec.extra_config)


def _plug_disk(machine: v1.Machine, disk: v1.DiskSpec, volume: Volume) -> None:
    bus = disk.bus if disk.bus is not v1.DiskBus.UNSPECIFIED else v1.DiskBus.VIRTIO
    thin = disk.provisioning is v1.DiskProvisioning.UNSPECIFIED
    machine.disks.append(
        v1.Disk(
            name=disk.name, id=volume.id, size_bytes=volume.size_bytes, bus=bus, storage=disk.storage or "fake",
            provisioning=v1.DiskProvisioning.THIN if thin else disk.provisioning, format="raw",
            owned=disk.existing is None, image_id=volume.image_id, device=f"disk{len(machine.disks)}", active=True,
        )
    )  # fmt: skip
    if disk.iops_limit:
        machine.settings[f"disks[{disk.name}].iops_limit"] = str(disk.iops_limit)


def _plug_nic(machine: v1.Machine, nic: v1.NicSpec) -> None:
    digest = hashlib.sha256(f"{machine.id}/{nic.name}".encode()).digest()
    mac = nic.mac or ":".join(f"{byte:02x}" for byte in bytes([digest[0] & 0xFC | 2, *digest[1:6]]))
    machine.nics.append(
        v1.Nic(
            name=nic.name, mac=mac, model=nic.model or "virtio", network=copy.deepcopy(nic.network), id=nic.name,
            active=True, connected=True,
        )
    )  # fmt: skip
    if nic.mtu:
        machine.settings[f"nics[{nic.name}].mtu"] = str(nic.mtu)


def _boot(machine: v1.Machine) -> None:
    """On, with a guest that has booted: the fake's guests take no time."""
    machine.power, machine.power_reason, machine.pending_restart = ON, "", []
    name = machine.identity.name if machine.identity is not None else machine.hypervisor_name
    machine.guest = v1.Guest(hostname=name, agent_running=True, os="Fake OS 1")
    _address(machine)


def _address(machine: v1.Machine) -> None:
    """Give each NIC of a machine that is on its address out of TEST-NET-1, always the same."""
    machine.addresses = []
    if machine.power is not ON:
        return
    for nic in machine.nics:
        last = int(hashlib.sha256(nic.mac.encode()).hexdigest()[:4], 16) % 253 + 1
        machine.addresses.append(
            v1.GuestAddress(address=f"192.0.2.{last}", interface=nic.name, mac=nic.mac, sources=["agent"], nic=nic.name)
        )
