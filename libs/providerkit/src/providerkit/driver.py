"""What a provider brings: small verbs over one hypervisor, in the words of `common.v1`.

The kit keeps every promise of the contract (once and only once, one change at a time per machine, operations, watch,
tokens); a driver only does what it is told. Promises of every driver:

- A machine is found by the UID stamped on the hypervisor object, never by its name.
- `create` stamps in the very call that makes the machine. Interrupted anywhere and called again, it goes on from, or
  clears away, what it left behind. `destroy` removes all that is ours, with or without a machine.
- A verb whose outcome is already there succeeds. Verbs do not wait for the guest; what they ask for shows in `observe`.
- Foreign exceptions end in the driver: only `common.errors` leave it. A caller that stops waiting (cancellation) leaves
  the hypervisor to finish; the next `observe` finds what became of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from common import v1
from common.errors import NotSupportedError

from .extents import Incoming

Progress = Callable[[float, str], None]
"""Called with the part done (0..1) and the step for people; cheap, from the event loop only."""


class Console(Protocol):
    """A connected console; leaving its context disconnects."""

    async def read(self) -> bytes:
        """Wait for output; empty bytes mean that the other side ended it."""
        ...

    async def write(self, data: bytes) -> None:
        """Send input."""
        ...


@dataclass(frozen=True, slots=True)
class ConsoleTicket:
    """Leave to open a console once. Whoever has the URL has the console: it is in no log and in no repr."""

    url: str = field(repr=False)
    expires: datetime
    """With a time zone."""


class Driver:
    """Base of every driver. Verbs that a hypervisor lacks keep their refusal, and its capabilities say so."""

    type: str = ""
    """Kind of provider: "libvirt", "vsphere", "proxmox", "fake"."""

    joins_changes: bool = False
    """`together` does what it says."""

    unique_names: bool = True
    """A name belongs to one machine of the whole hypervisor. Where it is unique in a folder only, the driver alone can
    tell a conflict."""

    # -- session ---------------------------------------------------------------------------------------------------

    def session(self) -> AbstractAsyncContextManager[None]:
        """Hold the connection to the hypervisor: connect, keep alive, reconnect, until the context is left.

        Enters even when the hypervisor is away; verbs then raise HypervisorUnavailableError until it is back.
        """
        raise self._lacks("a session")

    async def describe(self) -> v1.GetProviderResponse:
        """Hypervisor, endpoint, limits and capabilities as measured here; the kit fills in type, version, owner.

        Raises:
            HypervisorUnavailableError: there was no session yet.
        """
        raise self._lacks("describe")

    async def check(self) -> str:
        """Make one real round trip and answer with the hypervisor's product and version."""
        raise self._lacks("check")

    # -- observation -----------------------------------------------------------------------------------------------

    async def observe(self, uid: str) -> v1.Machine | None:
        """The machine with this UID, or None when there is definitely none; the kit sets `token`, `operation_id`."""
        raise self._lacks("observe")

    async def rule_out(self, identity: v1.MachineIdentity) -> None:
        """Asked when `observe` found no machine, before that is believed: that there is definitely none.

        A driver whose `observe` is always certain has nothing to add.

        Args:
            identity: of the machine; without a name where only its UID is known.
        Raises:
            HypervisorUnavailableError: something is there that cannot be read now and that may be this machine.
        """

    async def observe_all(self) -> list[v1.Machine]:
        """Every machine, foreign ones too, in a bounded number of hypervisor calls."""
        raise self._lacks("observe_all")

    def changes(self) -> AsyncIterator[str | None]:
        """UIDs of machines that changed, as it happens; None means that anything may have (after a reconnect)."""
        raise self._lacks("changes")

    # -- life ------------------------------------------------------------------------------------------------------

    async def create(self, spec: v1.MachineSpec, progress: Progress) -> None:
        """Make the machine, complete and powered off.

        When it is cancelled, no call of it may go on behind: wait for a thread that cannot be stopped before the
        cancellation leaves, or the clean-up that follows would be overtaken.

        Raises:
            HypervisorUnavailableError: no answer; also instead of the cancellation, when that is how the wait ended.
            NameConflictError: a foreign machine has the hypervisor name.
            ResourceNotFoundError, ImageNotFoundError, HostFullError: nothing is left behind.
        """
        raise self._lacks("create")

    async def destroy(self, uid: str, progress: Progress) -> None:
        """Remove the machine (cutting its power) and every file that we made for it; absent is success.

        Raises:
            ForeignMachineError: a machine with this UID does not carry our stamp.
        """
        raise self._lacks("destroy")

    async def release(self, uid: str) -> None:
        """Take our stamp off and leave the machine as it is; absent or foreign is success."""
        raise self._lacks("release")

    async def adopt(self, machine_id: str, identity: v1.MachineIdentity) -> None:
        """Put our stamp with this identity on a foreign machine, and name its disks and NICs; nothing else changes.

        Its disks stay foreign, and `observe` tells ADOPTED_SETTING of the planner. One that carries this very identity
        already is success.

        Args:
            machine_id: `Machine.id` of it.
        Raises:
            MachineNotFoundError: there is none with this id.
            ForeignMachineError: it carries somebody's stamp already.
            NameConflictError: another machine carries this identity.
        """
        raise self._lacks("adopt")

    # -- power -----------------------------------------------------------------------------------------------------

    async def power_on(self, uid: str) -> None:
        """Start it, from off or from a saved state."""
        raise self._lacks("power_on")

    async def power_off(self, uid: str) -> None:
        """Cut the power now."""
        raise self._lacks("power_off")

    async def ask_shutdown(self, uid: str) -> None:
        """Ask the guest to power off; the kit waits and decides what follows.

        Raises:
            WrongPowerStateError: it cannot be asked now, and perhaps a moment later: it is just booting.
            NotSupportedError: there is nobody in the guest who could ever hear it, so that waiting makes no sense.
        """
        raise self._lacks("ask_shutdown")

    async def ask_reboot(self, uid: str) -> None:
        """Ask the guest to restart."""
        raise self._lacks("ask_reboot")

    async def reset(self, uid: str) -> None:
        """Press the reset button."""
        raise self._lacks("reset")

    async def suspend(self, uid: str) -> None:
        """Stop the guest and keep its memory."""
        raise self._lacks("suspend")

    async def resume(self, uid: str) -> None:
        """Go on from suspended or paused."""
        raise self._lacks("resume")

    # -- shape: `live` changes the running machine and its configuration, else the configuration alone ---------------

    def together(self, uid: str) -> AbstractAsyncContextManager[None]:
        """Verbs of shape that are called inside of this context take effect at its end, all of them or none.

        A hypervisor that changes a machine in one piece costs its guest and its host one change and not many. Others
        leave it as it is: each verb takes effect by itself. What can never be done is refused by its verb at once.
        """
        return nullcontext()

    async def set_cpu(self, uid: str, cpu: v1.CpuSpec, *, live: bool) -> None:
        """Give it this many CPUs and the rest of CpuSpec."""
        raise self._lacks("set_cpu")

    async def set_memory(self, uid: str, memory: v1.MemorySpec, *, live: bool) -> None:
        """Give it this much memory and the rest of MemorySpec."""
        raise self._lacks("set_memory")

    async def set_firmware(self, uid: str, firmware: v1.FirmwareSpec) -> None:
        """Change what can be changed of the firmware while it is off."""
        raise self._lacks("set_firmware")

    async def attach_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """Make the disk (or take the existing one) and plug it in; a disk of this name that is there is success."""
        raise self._lacks("attach_disk")

    async def grow_disk(self, uid: str, name: str, size_bytes: int, *, live: bool) -> None:
        """Grow a disk; a size already reached is success, a disk is never shrunk."""
        raise self._lacks("grow_disk")

    async def update_disk(self, uid: str, disk: v1.DiskSpec, *, live: bool) -> None:
        """Change limits and the like of a disk."""
        raise self._lacks("update_disk")

    async def move_disk(self, uid: str, name: str, storage: str, *, live: bool) -> None:
        """Bring a disk with its content to this storage; being there already is success."""
        raise self._lacks("move_disk")

    async def detach_disk(self, uid: str, name: str, *, live: bool) -> None:
        """Unplug a disk and keep its content."""
        raise self._lacks("detach_disk")

    async def attach_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """Plug a NIC in; one of this name that is there already is success."""
        raise self._lacks("attach_nic")

    async def update_nic(self, uid: str, nic: v1.NicSpec, *, live: bool) -> None:
        """Put a NIC on another network, or change its model or MAC."""
        raise self._lacks("update_nic")

    async def detach_nic(self, uid: str, name: str, *, live: bool) -> None:
        """Unplug a NIC."""
        raise self._lacks("detach_nic")

    async def set_cdrom(self, uid: str, cdrom: v1.CdromSpec, *, live: bool) -> None:
        """Put this medium into the drive of this name; a drive that is not there is added, which needs it to be off."""
        raise self._lacks("set_cdrom")

    async def detach_cdrom(self, uid: str, name: str) -> None:
        """Remove a drive of a machine that is off; absent is success."""
        raise self._lacks("detach_cdrom")

    async def set_boot_data(self, uid: str, spec: v1.MachineSpec) -> None:
        """Replace the first-boot payload; the guest reads it at its next boot, if ever."""
        raise self._lacks("set_boot_data")

    async def set_placement(self, uid: str, placement: v1.Placement) -> None:
        """Move the machine, running or not, to each place that is named; being there already is success.

        What `Capabilities.placement_moves` lists is all that is ever named here.
        """
        raise self._lacks("set_placement")

    async def set_tags(self, uid: str, tags: list[str]) -> None:
        """Replace the tags."""
        raise self._lacks("set_tags")

    async def set_description(self, uid: str, description: str) -> None:
        """Replace the text for people."""
        raise self._lacks("set_description")

    async def note(self, uid: str, key: str, value: str) -> None:
        """Keep a note of the kit's with the stamp, in any power state; `observe` tells it in `Machine.settings`.

        Args:
            value: empty takes the note away.
        """
        raise self._lacks("note")

    async def set_attributes(self, uid: str, attributes: dict[str, str]) -> None:
        """Write these facts for people; those that we wrote earlier and that are not among them go, others stay."""
        raise self._lacks("set_attributes")

    async def set_affinity(self, uid: str, rules: list[v1.AffinityRule]) -> None:
        """Make the machine a member of these rules and of no other rule of ours; one without members goes."""
        raise self._lacks("set_affinity")

    async def set_tuning(self, uid: str, spec: v1.MachineSpec) -> None:
        """Bring Tuning and extra_config to what the spec says, while it is off."""
        raise self._lacks("set_tuning")

    # -- images ----------------------------------------------------------------------------------------------------

    async def prepare_image(self, request: v1.PrepareImageRequest, progress: Progress) -> v1.Image:
        """Make the image ready; one that is ready answers at once. The kit never runs two of one id together."""
        raise self._lacks("prepare_image")

    async def image_id(self, request: v1.PrepareImageRequest) -> str:
        """The id that prepare_image would give: a function of uid and source alone.

        Raises:
            InvalidSpecError: the source can never work; every fault is named.
        """
        raise self._lacks("image_id")

    async def get_image(self, image_id: str) -> v1.Image | None:
        """The prepared image, or None."""
        raise self._lacks("get_image")

    async def list_images(self) -> list[v1.Image]:
        """Every image that we prepared."""
        raise self._lacks("list_images")

    async def delete_image(self, image_id: str) -> None:
        """Remove a prepared image; absent is success.

        Raises:
            ImageInUseError: names every machine that stands on it.
        """
        raise self._lacks("delete_image")

    # -- the rest --------------------------------------------------------------------------------------------------

    def console(self, uid: str, kind: v1.ConsoleKind, *, force: bool) -> AbstractAsyncContextManager[Console]:
        """Connect to a console; `force` takes it from whoever holds it."""
        raise self._lacks("console")

    async def console_ticket(self, uid: str) -> ConsoleTicket:
        """A URL that a browser opens the console with, once and until it expires.

        Raises:
            WrongPowerStateError: it is off.
        """
        raise self._lacks("console_ticket")

    async def screenshot(self, uid: str) -> bytes:
        """What the machine's display shows now, as PNG.

        Raises:
            WrongPowerStateError: it is off.
        """
        raise self._lacks("screenshot")

    async def inventory(self) -> v1.GetInventoryResponse:
        """Hosts, storages and networks, in a bounded number of calls."""
        raise self._lacks("inventory")

    async def create_snapshot(self, request: v1.CreateSnapshotRequest, progress: Progress) -> v1.Snapshot:
        """Take a snapshot; one with this UID that is there already is the answer."""
        raise self._lacks("create_snapshot")

    async def delete_snapshot(self, request: v1.DeleteSnapshotRequest, progress: Progress) -> None:
        """Remove a snapshot; absent is success."""
        raise self._lacks("delete_snapshot")

    async def revert_snapshot(self, request: v1.RevertSnapshotRequest, progress: Progress) -> None:
        """Put the machine back to a snapshot."""
        raise self._lacks("revert_snapshot")

    async def list_snapshots(self, uid: str) -> list[v1.Snapshot]:
        """The snapshot tree, parents before children."""
        raise self._lacks("list_snapshots")

    async def clone(self, request: v1.CloneMachineRequest, progress: Progress) -> None:
        """Copy a machine of ours under the target's identity, stamped in the very call; off, unless it is forked.

        Args:
            request: `target` holds the identity and what shall differ from the source, without what we lack.
        Raises:
            WrongPowerStateError: an instant clone of a machine that does not run.
            SnapshotNotFoundError: the source has no such snapshot.
        """
        raise self._lacks("clone")

    async def disk_info(self, disk: v1.DiskRef) -> v1.GetDiskResponse:
        """Size, format and change handle of a disk.

        Raises:
            MachineNotFoundError, ResourceNotFoundError, SnapshotNotFoundError: the one that is not there.
        """
        raise self._lacks("disk_info")

    def read_disk(self, request: v1.ReadDiskRequest) -> AsyncGenerator[v1.Extent]:
        """Extents from `offset` to the disk's end without a gap; with `changed_since` what changed, and nothing else.

        A generator that is closed early lets go at once whatever it holds.

        Raises:
            WrongPowerStateError: the machine runs and no snapshot was named.
            StalePreconditionError: nobody knows any more what changed since then: read all of it.
        """
        raise self._lacks("read_disk")

    async def write_disk(self, target: v1.WriteDiskTarget, incoming: Incoming) -> int:
        """Write what comes; what nothing comes for stays as it is, or is refused. The kit holds the machine meanwhile.

        When `incoming.extents()` ends with `incoming.promised`, the content is complete: hand its sha256 to `check`,
        and let the disk change hands only after that where it can be so. A write that begins at 0 forgets an unfinished
        one. When nothing comes at all, nothing is changed and the answer counts.

        Returns:
            The offset up to which everything is kept, so that a later call may resume there.
        Raises:
            WrongPowerStateError: the machine is not off.
            StalePreconditionError: `resume_offset` lies behind what is kept.
        """
        raise self._lacks("write_disk")

    def _lacks(self, verb: str) -> NotSupportedError:
        return NotSupportedError(f"the {self.type} provider does not support {verb.replace('_', ' ')} yet")
