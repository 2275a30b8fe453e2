"""The driver of the simulated hypervisor, written as one for a real one would be: found by stamp, made in one call."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from common import faults, v1
from common.clock import Clock
from common.errors import (
    ForeignMachineError,
    HypervisorUnavailableError,
    ImageNotFoundError,
    MachineNotFoundError,
    NameConflictError,
    OperationInProgressError,
    WrongPowerStateError,
)
from providerkit.driver import Driver, Progress
from providerkit.fake import hardware
from providerkit.planner import (
    BOOT_DATA_SETTING,
    DESCRIPTION_SETTING,
    boot_data_digest,
    hypervisor_name,
)

from .hypervisor import Guest, Hypervisor, Image, Task

T = TypeVar("T")

ON, OFF, SUSPENDED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED
POLL = 0.5

BEGUN = faults.declare("simulated.create.begun", "the guest is being made, and nobody has noted the task")
FILLED = faults.declare("simulated.image.begun", "the image is being filled, and nobody has noted the task")
DESTROYED = faults.declare("simulated.destroy.begun", "the guest is being removed, and nobody has noted the task")

CAPABILITIES = v1.Capabilities(
    firmware=[v1.FirmwareType.BIOS],
    cpu_hot_add=True, memory_hot_add=True, disk_hot_add=True, disk_hot_remove=True, disk_online_grow=True,
    nic_hot_add=True, nic_hot_remove=True, nic_online_update=True, disk_offline_grow=True, disk_offline_change=True,
    nic_offline_change=True, disk_buses=[v1.DiskBus.VIRTIO], disk_provisionings=[v1.DiskProvisioning.THIN],
    existing_disk=True, nic_models=["virtio"], network_kinds=[v1.NetworkKind.NAT, v1.NetworkKind.NAMED],
    fixed_mac=True, cloud_init=True, graceful_shutdown=True, suspend=True, reset=True, tags=True, inventory=True,
    image_import=True, image_formats=["qcow2"], image_sources=[v1.ImageSourceKind.URL], guest_addresses=True,
)  # fmt: skip


class SimulatedDriver(Driver):
    """Machines on the simulated hypervisor."""

    type = "fake"

    def __init__(self, hypervisor: Hypervisor, clock: Clock, *, owner: str) -> None:
        self.hypervisor, self._clock, self._owner = hypervisor, clock, owner

    # -- session and observation ---------------------------------------------------------------------------------------

    def session(self) -> AbstractAsyncContextManager[None]:
        return self._session()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        yield

    async def describe(self) -> v1.GetProviderResponse:
        return v1.GetProviderResponse(
            hypervisor="Simulated 1.0", endpoint="memory:", capabilities=CAPABILITIES,
            limits=v1.Limits(max_cpus=64, max_disks=16, max_nics=8, max_concurrent_changes=8),
        )  # fmt: skip

    async def check(self) -> str:
        await self._call("check", lambda: None)
        return "Simulated 1.0"

    async def observe(self, uid: str) -> v1.Machine | None:
        guests = await self._call("observe", lambda: [each.seen() for each in self._with(uid)])
        if len(guests) > 1:
            raise OperationInProgressError(f"observe machine {uid}: {len(guests)} guests carry its stamp")
        return self._seen(guests[0]) if guests else None

    async def observe_all(self) -> list[v1.Machine]:
        every = await self._call("observe_all", lambda: [each.seen() for each in self.hypervisor.guests.values()])
        return [self._seen(guest) for guest in every if guest.made]

    def changes(self) -> AsyncIterator[str | None]:
        return self.hypervisor.events()

    def _with(self, uid: str) -> list[Guest]:
        return [guest for guest in self.hypervisor.with_uid(uid) if guest.made]

    def _seen(self, guest: Guest) -> v1.Machine:
        machine = guest.machine
        machine.owned = machine.identity is not None and machine.identity.owner == self._owner
        if not machine.owned:
            machine.identity = None
        return machine

    # -- life ----------------------------------------------------------------------------------------------------------

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        assert spec.identity is not None
        uid = spec.identity.uid
        if await self._settled(uid):
            return
        name = hypervisor_name(spec.identity)
        other = await self._call("find_name", lambda: [each.seen() for each in self.hypervisor.called(name)])
        if other and uid not in (other[0].uid, other[0].maker):
            raise NameConflictError(f"create machine {uid}: the name belongs to guest {other[0].number}")
        boot, begin = repr(spec.boot_data), self.hypervisor.begin_create
        for disk in spec.disks:
            if disk.image is not None and await self.get_image(disk.image.id) is None:
                raise ImageNotFoundError(f"create machine {uid}: image {disk.image.id} is not there")
        task = await self._call("create", lambda: begin(self._new(spec, name), list(spec.disks), boot))
        await faults.point(BEGUN)
        await self._wait(task, f"create machine {uid}")
        if not await self._settled(uid):
            raise HypervisorUnavailableError(f"create machine {uid}: its making was not finished", retry_after=1.0)

    async def _settled(self, uid: str) -> bool:
        """The machine is there and complete. One that a broken making left is cleared away."""
        while True:
            guests = await self._find(uid)
            busy = next((guest for guest in guests if guest.busy), None)
            if busy is None:
                break
            await self._clock.sleep(POLL)
        half = [guest for guest in guests if not guest.made]
        for guest in half:
            await self._remove(guest.number, uid)
        return len(guests) > len(half)

    async def destroy(self, uid: str, progress: Progress) -> None:
        for guest in await self._find(uid):
            identity = guest.machine.identity
            if guest.uid and (identity is None or identity.owner != self._owner):
                raise ForeignMachineError(f"destroy machine {uid}: it does not carry our stamp")
            await self._idle(guest)
            await self._remove(guest.number, uid)

    async def _find(self, uid: str) -> list[Guest]:
        """As they are now, half-made ones too, stamped or not."""
        return await self._call("find", lambda: [each.seen() for each in self._traces(uid)])

    def _traces(self, uid: str) -> list[Guest]:
        return [*self.hypervisor.with_uid(uid), *self.hypervisor.begun_for(uid)]

    async def _idle(self, guest: Guest) -> None:
        """Until no task works on it: one that makes it would go on, with volumes that nobody knows of yet."""
        while guest.busy and await self._is_busy(guest.number):
            await self._clock.sleep(POLL)

    async def _is_busy(self, number: int) -> bool:
        guest = await self._call("look", lambda: copy.copy(self.hypervisor.guests.get(number)))
        return guest is not None and bool(guest.busy)

    async def _remove(self, number: int, uid: str) -> None:
        def begin() -> Task | None:
            guest = self.hypervisor.guests.get(number)
            if guest is None or uid not in (guest.uid, guest.maker):
                return None
            return self.hypervisor.begin_destroy(number, self._doomed(guest))

        task = await self._call("destroy", begin)
        if task is not None:
            await faults.point(DESTROYED)
            await self._wait(task, f"destroy machine {uid}")

    def _doomed(self, guest: Guest) -> list[str]:
        """Volumes that go with it: all that were made for it, plugged in or not."""
        uid = guest.uid or guest.maker
        return [volume.id for volume in self.hypervisor.volumes.values() if volume.maker == uid]

    async def _wait(self, task: Task, doing: str) -> None:
        """Ask until it has ended; one that is forgotten has ended in its own way.

        Raises:
            HypervisorUnavailableError: it failed.
        """
        while True:
            known = await self._call("task", lambda: self.hypervisor.tasks.get(task.id))
            if known is None:
                return
            if known.ended.is_set():
                if known.error:
                    raise HypervisorUnavailableError(f"{doing}: {known.error}", retry_after=1.0)
                return
            await self._clock.sleep(POLL)

    async def release(self, uid: str) -> None:
        for guest in await self._find(uid):
            await self._idle(guest)
            if not guest.made:  # nobody was ever told of it
                await self._remove(guest.number, uid)
            else:
                await self._call("release", lambda number=guest.number: self._release(number, uid))  # type: ignore[misc]

    def _release(self, number: int, uid: str) -> None:
        guest = self.hypervisor.guests.get(number)
        if guest is not None and guest.uid == uid:
            self.hypervisor.release(number)

    def _new(self, spec: v1.MachineSpec, name: str) -> v1.Machine:
        machine = v1.Machine(
            identity=copy.deepcopy(spec.identity), hypervisor_name=name, power=OFF, cpu=v1.CpuState(),
            memory=v1.MemoryState(), firmware=v1.FirmwareSpec(type=v1.FirmwareType.BIOS), host="host",
            tags=sorted(set(spec.tags)), description=spec.description,
        )  # fmt: skip
        hardware.set_cpu(machine, spec.cpu or v1.CpuSpec(count=1))
        hardware.set_memory(machine, spec.memory or v1.MemorySpec(size_bytes=1 << 30))
        hardware.record(machine, BOOT_DATA_SETTING, boot_data_digest(spec))
        hardware.record(machine, DESCRIPTION_SETTING, "true" if spec.description else "")
        for nic in spec.nics:
            hardware.plug_nic(machine, nic)
        return machine

    # -- power and shape -----------------------------------------------------------------------------------------------

    async def power_on(self, uid: str) -> None:
        await self._edit("power_on", uid, hardware.boot)

    async def power_off(self, uid: str) -> None:
        await self._edit("power_off", uid, _off)

    async def ask_shutdown(self, uid: str) -> None:
        def ask(machine: v1.Machine) -> None:
            if machine.power is not ON:
                raise WrongPowerStateError(f"ask machine {uid} to shut down: it is not on")
            number = next(guest.number for guest in self.hypervisor.guests.values() if guest.machine is machine)
            self.hypervisor.spawn(lambda: self._obey(number))

        await self._edit("ask_shutdown", uid, ask)

    async def _obey(self, number: int) -> None:
        await asyncio.sleep(2.0)
        guest = self.hypervisor.guests.get(number)
        if guest is not None:
            self.hypervisor.power_off(guest)

    async def suspend(self, uid: str) -> None:
        await self._edit("suspend", uid, lambda machine: setattr(machine, "power", SUSPENDED))

    async def resume(self, uid: str) -> None:
        await self._edit("resume", uid, lambda machine: setattr(machine, "power", ON))

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        await self._edit("set_cpu", uid, lambda machine: hardware.set_cpu(machine, cpu))

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        await self._edit("set_memory", uid, lambda machine: hardware.set_memory(machine, memory))

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        await self._call("attach_disk", lambda: self.hypervisor.add_disk(self._ours(uid), disk))

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        def grow(machine: v1.Machine) -> None:
            disk = next((disk for disk in machine.disks if disk.name == name), None)
            if disk is None:
                raise MachineNotFoundError(f"machine {uid} has no disk {name}")
            disk.size_bytes = max(disk.size_bytes, size_bytes)
            self.hypervisor.volumes[disk.id].size = disk.size_bytes

        await self._edit("grow_disk", uid, grow)

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        def detach(machine: v1.Machine) -> None:
            machine.disks = [disk for disk in machine.disks if disk.name != name]

        await self._edit("detach_disk", uid, detach)

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        def attach(machine: v1.Machine) -> None:
            if all(have.name != nic.name for have in machine.nics):
                hardware.plug_nic(machine, nic)

        await self._edit("attach_nic", uid, attach)

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        def detach(machine: v1.Machine) -> None:
            machine.nics = [nic for nic in machine.nics if nic.name != name]

        await self._edit("detach_nic", uid, detach)

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        await self._edit("set_tags", uid, lambda machine: setattr(machine, "tags", sorted(set(tags))))

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        await self._edit(
            "set_boot_data", uid, lambda machine: hardware.record(machine, BOOT_DATA_SETTING, boot_data_digest(spec))
        )

    async def note(self, uid: str, key: str, value: str) -> None:
        await self._edit("note", uid, lambda machine: hardware.record(machine, key, value))

    # -- images: every URL is a small image ----------------------------------------------------------------------------

    async def image_id(self, request: v1.PrepareImageRequest) -> str:
        return f"image-{request.uid}"

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        image_id = await self.image_id(request)
        while not await self._whole(image_id):
            task = await self._call("prepare_image", lambda: self.hypervisor.begin_image(image_id))
            await faults.point(FILLED)
            await self._wait(task, f"prepare image {image_id}")
        return self._image(image_id)

    async def _whole(self, image_id: str) -> bool:
        """It is ready to be used. What a broken preparation left is cleared away."""
        while (image := await self._look_at_image(image_id)) is not None and image.busy:
            await self._clock.sleep(POLL)
        if image is not None and not image.made:
            await self._call("drop_image", lambda: self.hypervisor.drop_half_image(image_id))
        return image is not None and image.made

    async def _look_at_image(self, image_id: str) -> Image | None:
        return await self._call("look_image", lambda: copy.copy(self.hypervisor.images.get(image_id)))

    async def get_image(self, image_id: str) -> v1.Image | None:
        image = await self._look_at_image(image_id)
        return self._image(image_id) if image is not None and image.made and not image.busy else None

    async def list_images(self) -> list[v1.Image]:
        every = await self._call("list_images", lambda: [copy.copy(each) for each in self.hypervisor.images.values()])
        return [self._image(image.id) for image in every if image.made]

    async def delete_image(self, image_id: str) -> None:
        await self._call("delete_image", lambda: self.hypervisor.images.pop(image_id, None))

    def _image(self, image_id: str) -> v1.Image:
        size = 1 << 28
        return v1.Image(id=image_id, format="qcow2", size_bytes=size, virtual_size_bytes=size, location=image_id)

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _call(self, verb: str, act: Callable[[], T]) -> T:
        return await self.hypervisor.call(verb, act)

    def _ours(self, uid: str) -> Guest:
        guests = self._with(uid)
        if not guests:
            raise MachineNotFoundError(f"there is no machine {uid}")
        identity = guests[0].machine.identity
        if identity is None or identity.owner != self._owner:
            raise ForeignMachineError(f"machine {uid} does not carry our stamp")
        return guests[0]

    async def _edit(self, verb: str, uid: str, edit: Callable[[v1.Machine], object]) -> None:
        await self._call(verb, lambda: self.hypervisor.change(self._ours(uid).number, edit))


def _off(machine: v1.Machine) -> None:
    machine.power, machine.addresses, machine.guest = OFF, [], None
