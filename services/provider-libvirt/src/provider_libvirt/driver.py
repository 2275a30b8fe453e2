"""The libvirt driver: each verb in a few lines, over the modules that know how."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import libvirt
from common import faults, v1
from common.errors import HypervisorUnavailableError, NotSupportedError, ProviderError
from providerkit.changes import Changes
from providerkit.driver import Console, Driver, Progress

from provider_libvirt import capable, consoles, editing, host, inventory, making, observed, power
from provider_libvirt.domains import Shape
from provider_libvirt.guests import Guests
from provider_libvirt.host import Host
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.images import Images
from provider_libvirt.making import Config
from provider_libvirt.pools import Pools
from provider_libvirt.reading import Reader

CREATING = faults.declare("libvirt.create.begun", "a machine was asked for, and nothing is there yet")
FILES_MADE = faults.declare("libvirt.create.files", "the disks are made, the domain is not yet defined")
CREATED = faults.declare("libvirt.create.defined", "the domain is defined, and nobody knows yet")
DESTROYED = faults.declare("libvirt.destroy.done", "the machine is gone, and nobody knows yet")
CREATE_SECONDS = 120.0
EDIT_SECONDS = 60.0


class LibvirtDriver(Driver):
    """Machines on one libvirt endpoint."""

    type = "libvirt"

    def __init__(
        self,
        hypervisor: Hypervisor,
        images: Images,
        guests: Guests,
        reader: Reader,
        config: Config,
        virtualization: str,
    ) -> None:
        self.hypervisor = hypervisor
        self._images = images
        self._guests = guests
        self._reader = reader
        self._config = config
        self._virtualization = virtualization
        self._changes = Changes()
        self._host: tuple[int, Host] | None = None
        self._valid: set[Shape] = set()
        """Shapes of definitions that the libvirt of this connection has found valid."""
        self._pools = Pools(hypervisor)
        hypervisor.on_event(self._noticed)
        hypervisor.on_pools(self._pools_changed)
        guests.on_change(self._changes.tell)

    # -- session ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        async with self.hypervisor.session(), self._guests.session():
            with contextlib.suppress(ProviderError):  # away, or credentials that it refuses: the verbs will say so
                await self._measure()
            yield

    def session(self) -> AbstractAsyncContextManager[None]:
        """See Driver."""
        return self._session()

    def _noticed(self, uid: str | None) -> None:
        self._reader.forget(uid)
        self._guests.look_at(uid)
        self._changes.tell(uid)

    def _pools_changed(self) -> None:
        self._pools.forget()
        self._changes.tell(None)

    async def _measure(self) -> Host:
        """Facts about the host, measured once per connection."""
        if self._host is None or self._host[0] != self.hypervisor.generation:
            generation = self.hypervisor.generation
            measured = await self.hypervisor.call("measure the host", lambda c: host.measure(c, self._virtualization))
            self._host, self._valid = (generation, measured), set()
        return self._host[1]

    async def describe(self) -> v1.GetProviderResponse:
        """See Driver."""
        if self.hypervisor.connected:
            await self._measure()
        if self._host is None:
            await self.hypervisor.call("describe the provider", lambda c: c.getType())
            await self._measure()
        found = self._host[1] if self._host else await self._measure()
        kind = "KVM" if found.virtualization == "kvm" else found.virtualization
        return v1.GetProviderResponse(
            hypervisor=f"{found.hypervisor}, {kind}",
            endpoint=self.hypervisor.endpoint.partition("?")[0],
            capabilities=capable.capabilities(found),
            limits=capable.limits(found),
        )

    async def check(self) -> str:
        """See Driver."""
        await self.hypervisor.call("check the connection", lambda c: c.getLibVersion())
        return (await self._measure()).hypervisor

    # -- observation -----------------------------------------------------------------------------------------------

    async def observe(self, uid: str) -> v1.Machine | None:
        """See Driver."""
        found = await self._measure()
        raw = await self._reader.one(uid)
        return None if raw is None else self._machine(raw, found, await self._pools.around([raw]))

    async def observe_all(self) -> list[v1.Machine]:
        """See Driver."""
        found = await self._measure()
        raws = await self._reader.all()
        pools = await self._pools.around(raws)
        return [self._machine(raw, found, pools) for raw in raws]

    def _machine(self, raw: observed.Raw, found: Host, pools: Mapping[str, str]) -> v1.Machine:
        facts = self._guests.facts(raw.uid)
        machine = observed.machine(raw, owner=self._config.owner, host=found.hostname, facts=facts, pools=pools)
        if not found.is_test:  # the mock driver invents addresses
            self._guests.saw(machine)
        return machine

    def changes(self) -> AsyncIterator[str | None]:
        """See Driver."""
        return self._changes.listen()

    # -- life ------------------------------------------------------------------------------------------------------

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        """See Driver."""
        found, identity = await self._measure(), making.identity_of(spec)
        doing = f"create machine {identity.namespace}/{identity.name}"
        progress(0.1, "making the disks")
        await faults.point(CREATING)
        parts = await self.hypervisor.call(
            doing,
            lambda c: making.make_parts(c, spec, found, self._config),
            timeout=CREATE_SECONDS,
            changes=identity.uid,
        )
        if parts is None:
            return
        progress(0.8, "defining the domain")
        await faults.point(FILES_MADE)
        await self._change(
            identity.uid,
            doing,
            lambda c: making.define(c, spec, parts, found, self._config, self._valid),
            timeout=CREATE_SECONDS,
        )
        await faults.point(CREATED)

    async def destroy(self, uid: str, progress: Progress) -> None:
        """See Driver."""
        found = await self._measure()
        progress(0.1, "removing the domain and its files")
        await self._change(
            uid, f"destroy machine {uid}", lambda c: making.destroy(c, uid, found, self._config), timeout=CREATE_SECONDS
        )
        await faults.point(DESTROYED)

    async def release(self, uid: str) -> None:
        """See Driver."""
        await self._change(uid, f"release machine {uid}", lambda c: making.release(c, uid, self._config.owner))

    async def _change(
        self, uid: str, doing: str, verb: Callable[[libvirt.virConnect], None], *, timeout: float | None = None
    ) -> None:
        """A verb that changes a machine: what we know of it is read anew afterwards, whatever came of it."""
        try:
            await self.hypervisor.call(doing, verb, timeout=timeout, changes=uid)
        finally:
            self._reader.forget(uid)
            self._changes.tell(uid)

    # -- power -----------------------------------------------------------------------------------------------------

    async def power_on(self, uid: str) -> None:
        """See Driver."""
        await self._change(
            uid, f"start machine {uid}", lambda c: power.on(c, uid, self._config.owner), timeout=CREATE_SECONDS
        )

    async def power_off(self, uid: str) -> None:
        """See Driver."""
        await self._change(
            uid, f"power off machine {uid}", lambda c: power.off(c, uid, self._config.owner), timeout=CREATE_SECONDS
        )

    async def ask_shutdown(self, uid: str) -> None:
        """See Driver."""
        await self._ask(uid, reboot=False)

    async def ask_reboot(self, uid: str) -> None:
        """See Driver."""
        await self._ask(uid, reboot=True)

    async def _ask(self, uid: str, *, reboot: bool) -> None:
        """The agent first, the power button where there is none or it does not answer."""
        found, doing = await self._measure(), f"{'reboot' if reboot else 'shut down'} machine {uid}"
        asked = False
        if found.agent:
            with contextlib.suppress(HypervisorUnavailableError):  # the agent hangs: the button is left
                asked = await self.hypervisor.slow_call(
                    doing,
                    lambda c: power.ask_agent(c, uid, self._config.owner, reboot=reboot),
                    timeout=power.AGENT_SECONDS + 2.0,
                )
        if not asked:
            await self._change(
                uid, doing, lambda c: power.press_button(c, uid, self._config.owner, found, reboot=reboot)
            )

    async def reset(self, uid: str) -> None:
        """See Driver."""
        await self._change(uid, f"reset machine {uid}", lambda c: power.reset(c, uid, self._config.owner))

    async def suspend(self, uid: str) -> None:
        """See Driver."""
        await self._change(uid, f"suspend machine {uid}", lambda c: power.suspend(c, uid, self._config.owner))

    async def resume(self, uid: str) -> None:
        """See Driver."""
        await self._change(
            uid, f"resume machine {uid}", lambda c: power.resume(c, uid, self._config.owner), timeout=CREATE_SECONDS
        )

    # -- shape -----------------------------------------------------------------------------------------------------

    async def _edit(self, uid: str, what: str, edit: Callable[[editing.Machine], None]) -> None:
        found = await self._measure()
        await self._change(
            uid,
            f"{what} of machine {uid}",
            lambda c: edit(editing.machine(c, uid, found, self._config)),
            timeout=EDIT_SECONDS,
        )

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, "set CPUs", lambda at: editing.set_cpu(at, cpu, live=live))

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, "set memory", lambda at: editing.set_memory(at, memory, live=live))

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, f"attach disk {disk.name}", lambda at: editing.attach_disk(at, disk, live=live))

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, f"grow disk {name}", lambda at: editing.grow_disk(at, name, size_bytes, live=live))

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, f"detach disk {name}", lambda at: editing.detach_disk(at, name, live=live))

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, f"attach NIC {nic.name}", lambda at: editing.attach_nic(at, nic, live=live))

    async def update_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, f"update NIC {nic.name}", lambda at: editing.update_nic(at, nic, live=live))

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        """See Driver."""
        await self._edit(uid, f"detach NIC {name}", lambda at: editing.detach_nic(at, name, live=live))

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        """See Driver."""
        await self._edit(uid, "replace first-boot data", lambda at: editing.set_boot_data(at, spec))

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        """See Driver."""
        await self._edit(uid, "set tags", lambda at: editing.set_tags(at, tags))

    async def set_description(self, uid: str, description: str) -> None:
        """See Driver."""
        await self._edit(uid, "set description", lambda at: editing.set_description(at, description))

    async def note(self, uid: str, key: str, value: str) -> None:
        """See Driver."""
        await self._edit(uid, "keep a note", lambda at: editing.note(at, key, value))

    # -- console and inventory -------------------------------------------------------------------------------------

    def console(
        self, uid: str, kind: v1.ConsoleKind, *, force: bool
    ) -> contextlib.AbstractAsyncContextManager[Console]:
        """See Driver."""
        if kind is not v1.ConsoleKind.SERIAL:
            raise NotSupportedError(f"the libvirt provider has no {kind.name} console yet")
        return consoles.serial(self.hypervisor, uid, self._config.owner, force=force)

    async def inventory(self) -> v1.GetInventoryResponse:
        """See Driver."""
        found = await self._measure()
        return await self.hypervisor.call("take the inventory", lambda c: inventory.take(c, found), timeout=60.0)

    # -- images ----------------------------------------------------------------------------------------------------

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        """See Driver."""
        await self.hypervisor.call("find the storage pool", lambda c: making.ensure_default_pool(c, self._config))
        return await self._images.prepare(request, progress)

    async def image_id(self, request: v1.PrepareImageRequest) -> str:
        """See Driver."""
        return self._images.check(request)

    async def get_image(self, image_id: str) -> v1.Image | None:
        """See Driver."""
        return await self._images.get(image_id)

    async def list_images(self) -> list[v1.Image]:
        """See Driver."""
        return await self._images.all()

    async def delete_image(self, image_id: str) -> None:
        """See Driver."""
        await self._images.delete(image_id)
