"""What every provider owes those who watch its machines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from common import v1
from common.errors import HypervisorUnavailableError

from .subject import OFF, ON, Subject


class View:
    """What a client knows from watching: the latest state of each machine."""

    def __init__(self, subject: Subject, revision: str = "") -> None:
        self.machines: dict[str, v1.Machine] = {}
        self.revision = revision
        self.snapshots = 0
        self.events = 0
        self.empty = 0
        self._subject = subject
        self._in_snapshot: set[str] | None = None
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def following(self, heartbeat: float = 30.0) -> AsyncIterator[View]:
        """Watch while the context is open."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._follow(heartbeat))
            yield self
            task.cancel()

    async def wait(self, what: str, ready: object) -> None:
        """Wait until `ready()` holds of this view."""
        assert callable(ready)
        try:
            async with asyncio.timeout(self._subject.pace.settle):
                while not ready():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"the watch did not show: {what}; it knows {self.machines}") from None

    async def wait_snapshot(self) -> None:
        """Wait until a snapshot is complete."""
        await self.wait("a snapshot", lambda: self.snapshots > 0)

    async def _follow(self, heartbeat: float) -> None:
        request = v1.WatchMachinesRequest(resume_revision=self.revision, heartbeat=timedelta(seconds=heartbeat))
        async for message in self._subject.machines.watch_machines(request):
            self._take(message)
            self._changed.set()

    async def take_one(self) -> None:
        """Connect, take messages until one moves the position, and break off."""
        before = self.revision
        request = v1.WatchMachinesRequest(resume_revision=before, heartbeat=timedelta(seconds=0.2))
        async with self._subject.machines.watch_machines(request) as messages:
            async for message in messages:
                self._take(message)
                if self._in_snapshot is None and (message.events or self.revision != before):
                    return

    def _take(self, message: v1.WatchMachinesResponse) -> None:
        if message.snapshot_start:
            self._in_snapshot = set()
        if not message.events:
            self.empty += 1
        for event in message.events:
            self.events += 1
            if event.changed is not None:
                uid = event.changed.identity.uid
                self.machines[uid] = event.changed
                if self._in_snapshot is not None:
                    self._in_snapshot.add(uid)
            else:
                self.machines.pop(event.removed, None)
        if message.snapshot_complete:
            assert self._in_snapshot is not None
            self.machines = {uid: self.machines[uid] for uid in self._in_snapshot}
            self._in_snapshot = None
            self.snapshots += 1
        self.revision = message.revision or self.revision


class WatchContract:
    """Snapshot, changes, reconnects."""

    async def test_a_watch_begins_with_all_machines(self, subject: Subject) -> None:
        specs = [subject.spec() for _ in range(3)]
        for spec in specs:
            await subject.settle(spec)
        async with View(subject).following() as view:
            await view.wait_snapshot()
            assert set(view.machines) >= {spec.identity.uid for spec in specs}
            for spec in specs:
                assert view.machines[spec.identity.uid] == await subject.get(spec.identity.uid)

    async def test_P37_every_change_shows(self, subject: Subject) -> None:
        async with View(subject).following() as view:
            await view.wait_snapshot()
            spec = subject.spec(power=ON)
            uid = spec.identity.uid
            await subject.settle(spec)
            await view.wait("power on", lambda: uid in view.machines and view.machines[uid].power is ON)
            await subject.world.power_off(uid)
            await view.wait("power off from outside", lambda: view.machines[uid].power is OFF)
            await subject.delete(spec.identity)
            await view.wait("removal", lambda: uid not in view.machines)
            assert view.snapshots == 1

    async def test_foreign_machines_do_not_show(self, subject: Subject) -> None:
        await subject.world.make_foreign("not-ours")
        async with View(subject).following() as view:
            await view.wait_snapshot()
            await subject.world.make_foreign("not-ours-either")
            spec = subject.spec()
            await subject.settle(spec)
            await view.wait("our machine", lambda: spec.identity.uid in view.machines)
            names = {machine.hypervisor_name for machine in view.machines.values()}
            assert not names & {"not-ours", "not-ours-either"}

    async def test_a_reconnect_misses_nothing_and_repeats_nothing(self, subject: Subject) -> None:
        kept, changed, removed = subject.spec(), subject.spec(), subject.spec()
        for spec in (kept, changed, removed):
            await subject.settle(spec)
        async with View(subject).following() as view:
            await view.wait_snapshot()
        changed.power.state = ON
        await subject.settle(changed)
        await subject.delete(removed.identity)
        again = View(subject, view.revision)
        again.machines = dict(view.machines)
        async with again.following():
            await again.wait("removal", lambda: removed.identity.uid not in again.machines)
            await again.wait("power on", lambda: again.machines[changed.identity.uid].power is ON)
            assert again.snapshots == 0
            assert kept.identity.uid in again.machines
            assert again.events <= 2

    async def test_reconnecting_all_the_time_misses_nothing(self, subject: Subject) -> None:
        """A client that breaks off after each message knows in the end what a list tells."""
        view = View(subject)
        specs = [subject.spec() for _ in range(6)]

        async def life() -> None:
            for spec in specs:
                await subject.settle(spec)
            for spec in specs[::2]:
                await subject.delete(spec.identity)
            for spec in specs[1::2]:
                spec.power.state = ON
                await subject.settle(spec)

        def complete() -> bool:
            known = {spec.identity.uid: view.machines.get(spec.identity.uid) for spec in specs}
            powers = {uid: machine.power for uid, machine in known.items() if machine is not None}
            return powers == {spec.identity.uid: ON for spec in specs[1::2]}

        async with asyncio.timeout(6 * subject.pace.settle), asyncio.TaskGroup() as group:
            group.create_task(life())
            while not complete():
                await view.take_one()
        assert set(view.machines) == {machine.identity.uid for machine in await subject.every()}

    @pytest.mark.parametrize("revision", ["gone-1", "-", "0", "\u00b2-\u00b2", "x" * 5000, "a-99999999999999999999"])
    async def test_a_revision_of_nowhere_gets_a_fresh_snapshot(self, subject: Subject, revision: str) -> None:
        spec = subject.spec()
        await subject.settle(spec)
        async with View(subject, revision).following() as view:
            await view.wait_snapshot()
            assert spec.identity.uid in view.machines

    async def test_a_restarted_server_sends_a_fresh_snapshot(self, subject: Subject) -> None:
        """Removals of the meantime show, because what is not in a snapshot is gone."""
        kept, removed = subject.spec(), subject.spec()
        for spec in (kept, removed):
            await subject.settle(spec)
        async with View(subject).following() as view:
            await view.wait_snapshot()
        await subject.restart()
        await subject.delete(removed.identity)
        again = View(subject, view.revision)
        again.machines = dict(view.machines)
        async with again.following():
            await again.wait_snapshot()
            assert kept.identity.uid in again.machines
            assert removed.identity.uid not in again.machines

    async def test_silence_is_broken_by_a_heartbeat(self, subject: Subject) -> None:
        async with View(subject).following(heartbeat=0.1) as view:
            await view.wait_snapshot()
            before = view.empty
            await view.wait("two heartbeats", lambda: view.empty >= before + 2)
            assert view.revision

    async def test_an_operation_shows_on_its_machine(self, subject: Subject) -> None:
        spec = subject.spec(power=ON)
        uid = spec.identity.uid
        await subject.settle(spec)
        subject.world.deaf(uid)
        async with View(subject).following() as view:
            await view.wait_snapshot()
            spec.power = v1.PowerSpec(state=OFF, graceful=True, graceful_timeout=timedelta(seconds=2))
            answer = await subject.apply(spec)
            assert answer.operation is not None
            await view.wait("the operation", lambda: view.machines[uid].operation_id == answer.operation.id)
            await view.wait(
                "its end", lambda: view.machines[uid].operation_id == "" and view.machines[uid].power is OFF
            )

    async def test_an_outage_ends_the_stream_and_hides_nothing(self, subject: Subject) -> None:
        """The stream says UNAVAILABLE, so that the client knows that it knows nothing; afterwards all is seen again."""
        kept, removed = subject.spec(), subject.spec()
        for spec in (kept, removed):
            await subject.settle(spec)
        view = View(subject)
        with pytest.raises(BaseExceptionGroup) as group:
            await _watch_through_an_outage(subject, view)
        assert group.group_contains(HypervisorUnavailableError)
        await _answers(subject)
        await subject.world.remove(removed.identity.uid)
        again = View(subject, view.revision)
        again.machines = dict(view.machines)
        async with again.following():
            await again.wait("removal", lambda: removed.identity.uid not in again.machines)
            assert kept.identity.uid in again.machines


async def _watch_through_an_outage(subject: Subject, view: View) -> None:
    async with view.following():
        await view.wait_snapshot()
        async with subject.world.outage():
            await asyncio.Event().wait()  # until the broken stream ends it


async def _answers(subject: Subject) -> None:
    """Wait until a watch is served again."""
    async with asyncio.timeout(subject.pace.settle):
        while True:
            try:
                async with View(subject).following() as view:
                    await view.wait_snapshot()
                    return
            except* HypervisorUnavailableError:
                await asyncio.sleep(0.05)
