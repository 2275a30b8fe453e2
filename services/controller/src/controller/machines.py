"""VirtualMachine: resolve, apply, report. What separates spec and machine is the provider's to find and to do."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from common import faults, v1, wire
from common.clock import Clock
from common.errors import (
    ImageNotFoundError,
    MachineNotFoundError,
    ProviderError,
)
from common.status import Action, action
from kinds.compose import BootSources, Defaults, compose
from kinds.provider import Provider
from kinds.reports import FieldReport
from kinds.virtualmachine import BoundProvider, VirtualMachine
from kinds.vmclass import VMClass
from kinds.vmimage import VMImage

from .conditions import is_true
from .connection import Connection
from .connections import Connections
from .events import NORMAL, WARNING, Recorder
from .holds import WAITING, Hold
from .images import Registry
from .informer import Name
from .objects import subject_of
from .references import Caches, References
from .secrets import Secrets, scrub
from .status import (
    DELETE_BLOCKED,
    MISSING,
    POWER,
    READY,
    Deletion,
    Happening,
    Outcome,
    Problem,
    deleting_status,
    happenings,
    status_of,
)
from .writer import Writer

FINALIZER = "virtualmachine.infra.virtrigaud.io/finalizer"
FORCE_DELETE = "virtrigaud.io/force-delete"
ORPHAN = "virtrigaud.io/orphan-on-delete"
ADOPTED = "virtrigaud.io/adopted"
APPLY = 60.0
"""Deadline of ApplyMachine and DeleteMachine, seconds: short steps finish in it, long ones are operations."""

REMOVALS = ("delete", "release")
"""Kinds of operation that a removal begins."""
FOLLOW_UP = 15.0
"""Seconds after which a machine with a running operation is looked at, should its end not have been heard."""
BLOCKED = 60.0
"""Seconds between two looks at what waits for its Provider."""

BEFORE_APPLY = faults.declare("controller.machine.before-apply", "the intent is stored, the provider was not asked yet")
AFTER_APPLY = faults.declare("controller.machine.after-apply", "the provider has acted, the status does not say so yet")
BEFORE_RELEASE = faults.declare("controller.machine.before-release", "the machine is gone, the object is not yet")


class MachineReconciler:
    """Brings machines closer to their specs; every method is safe to repeat at any point."""

    kind = "VirtualMachine"

    def __init__(
        self,
        caches: Caches,
        references: References,
        connections: Connections,
        registry: Registry,
        secrets: Secrets,
        writer: Writer,
        recorder: Recorder,
        clock: Clock,
        owner: Callable[[], str],
        wake_image: Callable[[Name], None],
    ) -> None:
        self._caches, self._references, self._connections, self._registry = caches, references, connections, registry
        self._secrets, self._writer, self._recorder, self._clock = secrets, writer, recorder, clock
        self._owner, self._wake_image = owner, wake_image

    async def reconcile(self, name: Name) -> float | None:
        """One machine; answers with seconds until the next look, or None to leave that to events and the resync."""
        vm = self._caches.machines.get(*name)
        if vm is None:
            return None
        if vm.metadata.deletion_timestamp:
            return await self._delete(vm)
        return await self._apply(vm)

    def stands(self, name: Name) -> bool:
        """Whether nothing differs from what was last reported of a machine, so that a look can be spared."""
        vm = self._caches.machines.get(*name)
        connection = self._connection_of(vm) if vm is not None else None
        if vm is None or connection is None or vm.metadata.deletion_timestamp:
            return False
        try:
            provider = self._references.provider(vm)
        except Hold:
            return False
        # What rests on Secrets is never noted as ground: of their changes nobody tells.
        return connection.known.stands(vm.metadata.uid, self._ground(vm, provider, BootSources()))

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """What stopped the reconcile, as conditions."""
        vm = self._caches.machines.get(*name)
        if vm is None:
            return
        if isinstance(error, Hold):
            problem = Problem(error.reason, str(error), "waiting")
        else:
            problem = Problem.of(error, stop=action(error) is Action.STOP)
        if vm.metadata.deletion_timestamp:
            await self._report_deletion(vm, Deletion(blocked=problem))
            return
        connection = self._connection_of(vm)
        machine = None
        if connection is not None and connection.synced.is_set():
            machine = connection.known.machines.get(vm.metadata.uid)
        await self._report(vm, Outcome(machine=machine, problem=problem))

    # -- apply -----------------------------------------------------------------------------------------------------

    async def _apply(self, vm: VirtualMachine) -> float | None:
        vm = await self._writer.add_finalizer(self._caches.machines, vm, FINALIZER)
        provider = await self._bound(vm)
        if vm.status.id and (wait := self._connections.unjudged(provider.metadata.uid)):
            message = "whether its Provider can be used is not known yet"
            raise Hold("ProviderUnavailable", message, again=wait, quiet=True)
        connection = self._connected(provider)
        boot = await self._secrets.boot_sources(vm)
        try:
            if failure := connection.known.take_failure(vm.metadata.uid):
                raise failure
            request, ignored = await self._request(vm, provider, connection, boot)
            asked = _asked(vm, request)
            if (answer := connection.known.settled(vm.metadata.uid, asked)) is None:
                vm = await self._announce(vm, provider, connection)
                answer = await self._ask(vm, connection, request, asked)
        except ProviderError as error:
            if (clean := _scrubbed(error, boot)) is error:
                raise
            raise clean from None  # its cause would show the secret
        if answer.operation is not None:
            connection.follow(answer.operation, vm.metadata.uid)
        outcome = Outcome(
            machine=answer.machine,
            operation=answer.operation,
            pending=answer.pending,
            applied=answer.applied,
            ignored=ignored,
            healed=_healed(vm, answer.applied),
        )
        written = await self._report(vm, outcome)
        connection.known.note(vm.metadata.uid, self._ground(written, provider, boot))
        return FOLLOW_UP if answer.operation is not None else None

    def _ground(self, vm: VirtualMachine, provider: Provider, boot: BootSources) -> object | None:
        """All that a look at a machine rests on, but for the machine; None where that is not known as a whole.

        While it is the same, so is what comes of the look: the slow resync of a large fleet costs next to nothing.
        """
        if boot != BootSources():
            return None  # of a Secret we are not told when it changes
        try:
            used = [provider, self._references.vmclass(vm), *self._references.networks(vm).values()]
            image = self._references.image(vm)
        except Hold:
            return None
        entry = self._registry.get(image, provider.metadata.uid) if image is not None else None
        return vm, image is None, entry, [(each.metadata.uid, each.metadata.generation) for each in used]

    async def _bound(self, vm: VirtualMachine) -> Provider:
        """The provider that has, or shall have, the machine. Raises: Hold: the spec names another than it is on."""
        bound = vm.status.bound_provider
        ref = vm.spec.provider_ref
        wanted = (ref.namespace or vm.metadata.namespace, ref.name)
        if bound is not None and wanted != (bound.namespace, bound.name):
            if vm.status.id:
                message = (
                    f"the machine is on Provider {bound.namespace}/{bound.name}; spec.providerRef cannot be changed to "
                    f"{'/'.join(wanted)}. Set it back, or migrate the machine"
                )
                raise Hold("ProviderRefMismatch", message)
            await self._withdraw(vm, bound)
        provider = self._references.provider(vm)
        if bound is not None and vm.status.id and bound.uid and bound.uid != provider.metadata.uid:
            message = (
                f"the machine was on a Provider {bound.namespace}/{bound.name} that is gone; the one of that name now "
                "is another. Restore it, or delete this object with the annotation virtrigaud.io/orphan-on-delete"
            )
            raise Hold("ProviderRefMismatch", message)
        if provider.metadata.deletion_timestamp and bound is None:
            raise Hold(WAITING, f"Provider {'/'.join(wanted)} is being deleted")
        return provider

    async def _withdraw(self, vm: VirtualMachine, bound: BoundProvider) -> None:
        """The provider was changed before a machine was seen: make sure that the former one made, and keeps, none."""
        former = self._caches.providers.get(bound.namespace, bound.name)
        if former is None and (bound.namespace, bound.name) in self._caches.providers.bad:
            message = f"Provider {bound.namespace}/{bound.name}, which may have begun the machine, cannot be read"
            raise Hold("ProviderRefMismatch", message, again=BLOCKED)
        if former is None or (bound.uid and former.metadata.uid != bound.uid):
            return
        answer = await self._remove(vm, self._connected(former), retain=False)
        if not answer.gone:
            message = (
                f"what Provider {bound.namespace}/{bound.name} began is being removed before the change to another"
            )
            raise Hold("ProviderRefMismatch", message, again=2.0)

    def _connected(self, provider: Provider) -> Connection:
        connection = self._connections.get(provider.metadata.uid)
        label = f"{provider.metadata.namespace}/{provider.metadata.name}"
        if connection is None:
            told = provider.status.runtime
            if told is not None and told.phase == "Failed" and told.message:
                raise Hold("ProviderUnavailable", f"Provider {label} is not ready: {told.message}")
            # Should it fail, nobody tells its machines, of which there may be thousands.
            raise Hold("ProviderUnavailable", f"Provider {label} is not ready: it is not running yet", again=BLOCKED)
        return connection

    def _connection_of(self, vm: VirtualMachine) -> Connection | None:
        bound = vm.status.bound_provider
        return self._connections.get(bound.uid) if bound is not None and bound.uid else None

    async def _request(
        self, vm: VirtualMachine, provider: Provider, connection: Connection, boot: BootSources
    ) -> tuple[v1.ApplyMachineRequest, list[FieldReport]]:
        vmclass: VMClass = self._references.vmclass(vm)
        networks = self._references.networks(vm)
        image_id, notes = await self._image(vm, provider, connection)
        composed = compose(vm, vmclass, image_id, networks, boot, self._owner(), Defaults.of(provider))
        adopted = vm.metadata.labels.get(ADOPTED) == "true"
        request = v1.ApplyMachineRequest(
            spec=composed.spec,
            must_exist=adopted or bool(vm.status.id and vm.spec.on_missing != "Recreate"),
            fence=connection.fence(vm.metadata.generation),
        )
        if vm.spec.restart_policy == "Automatic":
            request.restart_policy = v1.RestartPolicy.ALLOWED
        return request, [*composed.ignored, *notes]

    async def _image(
        self, vm: VirtualMachine, provider: Provider, connection: Connection
    ) -> tuple[str | None, list[FieldReport]]:
        """Id of the image to build from. A machine that exists is never held up by its image."""
        if vm.spec.image_ref is None:
            return None, []
        seen = await self._seen_image(vm, connection)
        try:
            image = self._references.image(vm)
            assert image is not None
            entry = self._registry.get(image, provider.metadata.uid)
            if entry is not None and entry.image is not None:
                if seen and seen != entry.image.id and await self._is_from(seen, image, connection):
                    return seen, []  # the image's source was edited since: a source is read once, at creation
                return entry.image.id, []
            if seen and (entry is None or entry.reason == "ProviderUnavailable"):
                return seen, []  # not looked for yet, since this controller started or the provider came back
            where = f"{provider.metadata.namespace}/{provider.metadata.name}"
            label = f"VMImage {image.metadata.namespace}/{image.metadata.name} on Provider {where}"
            if entry is not None and entry.problem:
                raise Hold(WAITING, f"{label}: {entry.problem}")
            raise Hold(WAITING, f"{label} is being prepared")
        except Hold as hold:
            if not seen:
                raise
            return seen, [FieldReport("spec.imageRef", hold.reason, f"left as it is: {hold}")]

    async def _seen_image(self, vm: VirtualMachine, connection: Connection) -> str:
        """Image that the existing machine's boot disk stands on; empty when there is no machine, or no image."""
        if not vm.status.id:
            return ""
        machine = connection.known.machines.get(vm.metadata.uid)
        if machine is None:
            try:
                answer = await connection.call(
                    "MachineService", "get_machine", v1.GetMachineRequest(uid=vm.metadata.uid)
                )
            except MachineNotFoundError:
                return ""
            machine = answer.machine
        return next((disk.image_id for disk in machine.disks if disk.image_id), "") if machine is not None else ""

    async def _is_from(self, image_id: str, image: VMImage, connection: Connection) -> bool:
        try:
            answer = await connection.call("ImageService", "get_image", v1.GetImageRequest(id=image_id))
        except ImageNotFoundError:
            return True  # its artefact is gone; nothing says that it was another image
        return answer.image is None or answer.image.uid in ("", image.metadata.uid)

    async def _announce(self, vm: VirtualMachine, provider: Provider, connection: Connection) -> VirtualMachine:
        """Before the provider is asked: store which one it is, and say what was seen to differ behind our back."""
        meta = provider.metadata
        bound = BoundProvider(namespace=meta.namespace, name=meta.name, uid=meta.uid)
        if vm.status.bound_provider != bound and not vm.status.id:
            making = v1.Operation(kind="create")
            return await self._report(vm, Outcome(operation=making, bound=bound))
        before = connection.known.machines.get(vm.metadata.uid)
        # What may be old is not told as news; the provider is about to be asked, and puts right what is true of it.
        if before is not None and not connection.known.doubted(vm.metadata.uid) and self._drifted(vm, before):
            return await self._report(vm, Outcome(machine=before, drifted=True))
        return vm

    def _drifted(self, vm: VirtualMachine, seen: v1.Machine) -> bool:
        """The power is not as last reported, though the machine was settled and nobody changed the spec."""
        wish = {"OffGraceful": "Off"}.get(vm.spec.power_state or "On", vm.spec.power_state or "On")
        now = POWER.get(seen.power, "Unknown")
        return _settled(vm) and vm.status.power_state == wish and now not in (wish, "Unknown") and not seen.operation_id

    async def _ask(
        self, vm: VirtualMachine, connection: Connection, request: v1.ApplyMachineRequest, asked: bytes
    ) -> v1.ApplyMachineResponse:
        uid = vm.metadata.uid
        await faults.point(BEFORE_APPLY)
        before = connection.known.machines.get(uid)
        answer = await self._call(vm, connection, request)
        await faults.point(AFTER_APPLY)
        connection.known.settle(uid, asked, answer, before)
        return answer

    async def _call(
        self, vm: VirtualMachine, connection: Connection, request: v1.ApplyMachineRequest
    ) -> v1.ApplyMachineResponse:
        try:
            answer: v1.ApplyMachineResponse = await connection.call("MachineService", "apply_machine", request, APPLY)
        except MachineNotFoundError as error:
            connection.known.remember(vm.metadata.uid, None)
            if not request.must_exist:
                raise  # somebody removed it while it was being changed: the next look makes it anew
            message = (
                f"machine {vm.status.hypervisor_name or vm.status.id} is not on the hypervisor any more. It is not "
                "made anew, because its data may be gone; set spec.onMissing: Recreate to have a new one, or delete "
                "this object"
            )
            if not vm.status.id:
                message = "there is no such machine to adopt; adopting machines is not supported yet"
            raise Hold(MISSING, message) from error
        except ImageNotFoundError:
            if vm.spec.image_ref is not None:
                ref = vm.spec.image_ref
                image = self._caches.images.get(ref.namespace or vm.metadata.namespace, ref.name)
                bound = vm.status.bound_provider
                if image is not None and bound is not None and bound.uid:
                    self._registry.put(image.metadata.uid, bound.uid, None)
                    self._wake_image((image.metadata.namespace, image.metadata.name))
            raise
        return answer

    async def _report(self, vm: VirtualMachine, outcome: Outcome) -> VirtualMachine:
        status = status_of(vm, outcome, self._clock.now())
        written: VirtualMachine = await self._writer.status(self._caches.machines, vm, status)
        if (connection := self._connection_of(written)) is not None:
            connection.known.reported(vm, status)
        self._tell(vm, happenings(vm.status, status, outcome))
        return written

    def _tell(self, vm: VirtualMachine, found: list[Happening]) -> None:
        for happening in found:
            self._recorder.record(subject_of(vm, self.kind), happening.kind, happening.reason, happening.message)

    # -- delete ----------------------------------------------------------------------------------------------------

    async def _delete(self, vm: VirtualMachine) -> float | None:
        if FINALIZER not in vm.metadata.finalizers:
            return None
        if vm.status.bound_provider is None:
            await self._release(vm)  # no provider was ever asked
            return None
        annotations = vm.metadata.annotations
        force, orphan = annotations.get(FORCE_DELETE) == "true", annotations.get(ORPHAN) == "true"
        policy = vm.spec.deletion_policy or ("Retain" if vm.metadata.labels.get(ADOPTED) == "true" else "Delete")
        try:
            connection = self._deleting_connection(vm)
            answer = await self._remove(vm, connection, retain=orphan or policy == "Retain")
        except (ProviderError, Hold) as error:
            if not force and not orphan:
                raise
            self._left(vm, f"the object was dropped while removal was not possible: {error}")
            await self._release(vm)
            return None
        if answer.operation is not None and not answer.gone:
            connection.follow(answer.operation, vm.metadata.uid)
        if not answer.gone:
            await self._report_deletion(vm, Deletion(operation=answer.operation))
            return FOLLOW_UP if answer.operation is not None else 2.0
        connection.known.remember(vm.metadata.uid, None)
        await faults.point(BEFORE_RELEASE)
        if orphan or policy == "Retain":
            self._left(vm, "it was kept, as the object asked for")
        elif vm.status.id:
            message = f"machine {vm.status.hypervisor_name or vm.status.id} was removed"
            self._recorder.record(subject_of(vm, self.kind), NORMAL, "Deleted", message)
        await self._release(vm)
        return None

    def _deleting_connection(self, vm: VirtualMachine) -> Connection:
        bound = vm.status.bound_provider
        assert bound is not None
        label = f"{bound.namespace}/{bound.name}"
        provider = self._caches.providers.get(bound.namespace, bound.name)
        cure = f'bring it back, or set the annotation {ORPHAN}: "true" to keep the machine and drop this object'
        if provider is None or (bound.uid and provider.metadata.uid != bound.uid):
            raise Hold(
                "ProviderUnavailable", f"Provider {label}, which has the machine, does not exist; {cure}", again=BLOCKED
            )
        connection = self._connections.get(provider.metadata.uid)
        if connection is None:
            raise Hold("ProviderUnavailable", f"Provider {label} is not running; {cure}", again=BLOCKED)
        return connection

    async def _remove(self, vm: VirtualMachine, connection: Connection, *, retain: bool) -> Any:
        """As the provider answers. Raises: ProviderError: why it cannot, or how its last attempt ended."""
        try:
            if failure := connection.known.take_failure(
                vm.metadata.uid, REMOVALS
            ):  # an edit that failed is no obstacle
                raise failure
            return await self._call_delete(vm, connection, retain=retain)
        except ProviderError as error:
            try:
                boot = await self._secrets.boot_sources(vm)
            except Hold:
                boot = BootSources()  # a Secret that went before its machine must not stop the removal
            if (clean := _scrubbed(error, boot)) is error:
                raise
            raise clean from None

    async def _call_delete(self, vm: VirtualMachine, connection: Connection, *, retain: bool) -> Any:
        meta = vm.metadata
        identity = v1.MachineIdentity(uid=meta.uid, namespace=meta.namespace, name=meta.name, owner=self._owner())
        # What is withdrawn was asked for by an earlier spec; this one may yet be sent to the same server.
        generation = meta.generation if meta.deletion_timestamp else meta.generation - 1
        request = v1.DeleteMachineRequest(identity=identity, retain=retain, fence=connection.fence(generation))
        return await connection.call("MachineService", "delete_machine", request, APPLY)

    def _left(self, vm: VirtualMachine, why: str) -> None:
        if vm.status.id or vm.status.bound_provider is not None:
            name = vm.status.hypervisor_name or vm.status.id or f"{vm.metadata.namespace}.{vm.metadata.name}"
            bound = vm.status.bound_provider
            where = f"{bound.namespace}/{bound.name}" if bound is not None else "unknown"
            message = f"machine {name} may be left on Provider {where}: {why}"
            self._recorder.record(subject_of(vm, self.kind), WARNING, "VMLeftOnHypervisor", message)

    async def _release(self, vm: VirtualMachine) -> None:
        await self._writer.remove_finalizer(self._caches.machines, vm, FINALIZER)

    async def _report_deletion(self, vm: VirtualMachine, deletion: Deletion) -> None:
        blocked = deletion.blocked
        if blocked is not None and blocked.unreachable:
            cure = f'; it goes on when the provider answers, or set annotation {ORPHAN} or {FORCE_DELETE} to "true"'
            deletion = Deletion(blocked=dataclasses.replace(blocked, message=blocked.message + cure))
        status = deleting_status(vm, deletion, self._clock.now())
        await self._writer.status(self._caches.machines, vm, status)
        if deletion.blocked is not None and not is_true(vm.status.conditions, DELETE_BLOCKED):
            message = f"removal waits: {deletion.blocked.message}"
            self._recorder.record(subject_of(vm, self.kind), WARNING, DELETE_BLOCKED, message)


def _asked(vm: VirtualMachine, request: v1.ApplyMachineRequest) -> bytes:
    """Digest of what an apply's answer depends on, but for the machine; any edit of the object asks anew.

    Whether there must be a machine says nothing of one that is there.
    """
    meta, request = vm.metadata, dataclasses.replace(request, must_exist=False)
    edit = repr((meta.generation, sorted(meta.labels.items()), sorted(meta.annotations.items())))
    return hashlib.sha256(edit.encode() + wire.codec(v1.ApplyMachineRequest).dumps(request)).digest()


def _settled(vm: VirtualMachine) -> bool:
    """All was last reported to be as the spec says, and nobody changed that since."""
    return is_true(vm.status.conditions, READY) and vm.status.observed_generation == vm.metadata.generation


def _healed(vm: VirtualMachine, applied: Sequence[v1.Change]) -> str:
    """How an apply put the power right of a settled machine, which nothing had told before; empty if it did not.

    A restart, which what the spec refers to may ask for, switches a machine on as well.
    """
    if not _settled(vm) or any(change.kind is v1.ChangeKind.RESTART for change in applied):
        return ""
    return "; ".join(change.message for change in applied if change.kind is v1.ChangeKind.SET_POWER)


def _scrubbed(error: ProviderError, boot: BootSources) -> ProviderError:
    """The error without what the boot data hold; the same one where there is nothing of them."""
    message = scrub(str(error), boot)
    return error if message == str(error) else type(error)(message, retry_after=error.retry_after)
