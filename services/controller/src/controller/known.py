"""What is known of one provider: what it can, how its machines were last seen, and what it said that still holds.

Filled by the stream of machines and by what calls answer; nothing here speaks to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from common import v1
from common.clock import Clock
from common.errors import ProviderError
from kinds.virtualmachine import VirtualMachine, VirtualMachineStatus

from .metrics import Metrics
from .objects import created


@dataclass(slots=True)
class _Settled:
    """An apply that left nothing to do."""

    asked: bytes
    token: str
    info: v1.GetProviderResponse | None
    pending: list[v1.Change]
    """What it would not do, and why."""
    ground: object | None = None
    """What the look rested on that has been reported since; None where that is not known."""


class Known:
    """`wake` gets the UID of each machine that something happened to."""

    def __init__(self, clock: Clock, metrics: Metrics, wake: Callable[[str], None], well: Callable[[], bool]) -> None:
        """Args: well: the provider answers, and the stream of its machines, which would tell of a difference, is whole.

        A provider that hangs keeps its stream, and tells of nothing: that is not well.
        """
        self._clock, self._metrics, self._wake, self._well = clock, metrics, wake, well
        self.info: v1.GetProviderResponse | None = None
        """What the provider says of itself."""
        self.machines: dict[str, v1.Machine] = {}
        """Last seen state per UID; complete while the stream is whole."""
        self.failures: dict[str, tuple[str, ProviderError]] = {}
        """Kind and error of the last operation on a machine or image that failed; taken by the reconciler that acts."""
        self._settled: dict[str, _Settled] = {}
        self._echoes: dict[str, str] = {}
        """Token of what a call has answered with and the stream has not told of yet, by UID."""
        self._changed_at: dict[str, float] = {}
        """Since when a machine has been told to be another (monotonic), by UID, until its status says so."""
        self._addressless: set[str] = set()
        """Machines made in our sight that have had no address yet."""

    def inherit(self, before: Known) -> None:
        """Start from what another connection to the same provider saw: a new port must not look like a new fleet."""
        self.machines.update(before.machines)
        self.info = before.info

    # -- what calls answer -----------------------------------------------------------------------------------------

    def settle(self, uid: str, asked: bytes, answer: v1.ApplyMachineResponse, before: v1.Machine | None) -> None:
        """Take over what an apply answered; one that left nothing to do is good until something differs.

        Args:
            asked: digest of all that the answer depends on, but for the machine.
            before: what was known of the machine when the provider was asked. Where the stream has told of another
                state meanwhile, nobody knows which is newer: it is asked again.
        """
        machine, told = answer.machine, self.machines.get(uid)
        self.remember(uid, machine)
        certain = told is before or (told is not None and machine is not None and told.token == machine.token)
        done = answer.operation is None and all(change.effect is not v1.Effect.ONLINE for change in answer.pending)
        if certain and done and machine is not None and not machine.operation_id:
            self._settled[uid] = _Settled(asked, machine.token, self.info, list(answer.pending))
        else:
            self._settled.pop(uid, None)

    def settled(self, uid: str, asked: bytes) -> v1.ApplyMachineResponse | None:
        """What an apply would answer, without asking: the same was asked before, and nothing differs since."""
        known = self._good(uid)
        if known is None or known.asked != asked:
            return None
        return v1.ApplyMachineResponse(machine=self.machines[uid], pending=known.pending)

    def _good(self, uid: str) -> _Settled | None:
        """The answer that is kept of a machine, if the machine has not changed since."""
        known, machine = self._settled.get(uid), self.machines.get(uid)
        if known is None or machine is None or not self._well() or machine.operation_id:
            return None
        return known if known.token == machine.token and known.info is self.info else None

    def note(self, uid: str, ground: object | None) -> None:
        """What was just reported of a machine rested on this."""
        if (known := self._settled.get(uid)) is not None:
            known.ground = ground

    def stands(self, uid: str, ground: object | None) -> bool:
        """Nothing differs from what was last reported: neither the machine nor the ground of the report."""
        known = self._good(uid)
        return known is not None and ground is not None and known.ground == ground and uid not in self.failures

    def reported(self, before: VirtualMachine, after: VirtualMachineStatus) -> None:
        """The status of a machine here was written, or says already what it shall: how long that took is noted."""
        uid, kind = before.metadata.uid, self.info.type if self.info is not None else ""
        if (since := self._changed_at.pop(uid, None)) is not None:
            self._metrics.objects.drift(kind, self._clock.monotonic() - since)
        if after.id and not before.status.id:
            self._addressless.add(uid)
        if after.ips and uid in self._addressless:
            self._addressless.discard(uid)
            now = self._clock.now().timestamp()
            self._metrics.objects.first_address(kind, now - created(before, now))

    def remember(self, uid: str, machine: v1.Machine | None) -> None:
        """Take over what a call has just seen, so that the stream's echo of it wakes nobody."""
        if machine is None:
            self.machines.pop(uid, None)
            self._settled.pop(uid, None)
            self._echoes.pop(uid, None)
            self._changed_at.pop(uid, None)
            self._addressless.discard(uid)
            return
        told = self.machines.get(uid)
        if told is None or told.token != machine.token:
            self._echoes[uid] = machine.token
        elif self._echoes.get(uid) != machine.token:
            self._echoes.pop(uid, None)
        self.machines[uid] = machine

    def doubted(self, uid: str) -> bool:
        """What was last told of a machine may be older than what a call has answered since: it was on its way."""
        return uid in self._echoes

    def take_failure(self, uid: str, kinds: Collection[str] = ()) -> ProviderError | None:
        """The error that the last operation on this machine or image ended with, once.

        Args: kinds: operations that the caller is about; the failure of another one is dropped. Empty: all.
        """
        kind, error = self.failures.pop(uid, ("", None))
        return error if not kinds or kind in kinds else None

    # -- what the stream tells -------------------------------------------------------------------------------------

    def take(self, event: v1.MachineEvent, snapshot: set[str] | None) -> None:
        """Args: snapshot: UIDs of the snapshot that the event belongs to, to which it is added; None: it is news."""
        if event.removed is not None:
            self._removed(event.removed)
            return
        machine = event.changed
        if machine is None or machine.identity is None:
            return
        uid = machine.identity.uid
        if snapshot is not None:
            snapshot.add(uid)
        if self._echoes.get(uid) == machine.token:
            del self._echoes[uid]
        known = self.machines.get(uid)
        if known is None or (known.token, known.operation_id) != (machine.token, machine.operation_id):
            self.machines[uid] = machine
            if snapshot is None:  # when what a snapshot tells of has happened, nobody knows
                self._changed_at.setdefault(uid, self._clock.monotonic())
            self._wake(uid)

    def keep(self, snapshot: set[str]) -> None:
        """A snapshot is complete: what it did not tell of is gone."""
        for uid in [uid for uid in self.machines if uid not in snapshot]:
            self._removed(uid)

    def _removed(self, uid: str) -> None:
        self._settled.pop(uid, None)
        self._echoes.pop(uid, None)
        if self.machines.pop(uid, None) is not None:
            self._changed_at.setdefault(uid, self._clock.monotonic())
            self._wake(uid)
