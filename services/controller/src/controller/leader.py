"""Leader election by a Lease: at most one controller acts.

A leader that cannot renew in time stops its work before the Lease can pass to another: `renew_deadline` is counted on
the monotonic clock from the last renewal that surely arrived, and is shorter than `duration`. Tasks end some turns of
the loop after they were cancelled, so each write asks `holds`, too. A follower measures the silence of the leader on
its own clock, from when it saw the Lease change; the times in the Lease are for people.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common import logging
from common.clock import Clock

from .api import Api, ApiError, ConflictError
from .core import LEASES, Lease, LeaseSpec

log = logging.get(__name__)

LABELS = {"app.kubernetes.io/name": "virtrigaud-controller", "app.kubernetes.io/part-of": "virtrigaud"}
"""Of a Lease that was not made with the installation."""


@dataclass(frozen=True)
class LeaseSettings:
    """Seconds. duration > renew_deadline > retry, or two could lead at once."""

    namespace: str
    name: str
    identity: str
    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry > 0:
            raise ValueError(
                f"leader election: lease duration {self.duration:g} s must be longer than the renew deadline "
                f"{self.renew_deadline:g} s, and that longer than the retry period {self.retry:g} s"
            )


class LostError(Exception):
    """We lead no more; the process should end and be started anew."""


class Leader:
    """One candidate."""

    def __init__(self, api: Api, clock: Clock, rng: random.Random, settings: LeaseSettings) -> None:
        self._api, self._clock, self._rng, self._settings = api, clock, rng, settings
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._until = 0.0
        """Monotonic: when we stop, unless the Lease is renewed."""
        self.leading = False
        self.on_change: Callable[[bool], None] = lambda leading: None
        """Told of each change of `leading`."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then run `lead` until it ends or the Lease is lost; release the Lease at the end.

        Raises:
            LostError: another may lead now; `lead` was cancelled first.
        """
        renewed = await self._acquire()
        self._turn(True)
        log.info("leader.acquired", identity=self._settings.identity)
        self._until = renewed + self._settings.renew_deadline
        lost = False
        try:
            async with asyncio.TaskGroup() as group:
                renewer = group.create_task(self._renew(renewed), name="lease renewal")
                work = group.create_task(self._work(lead), name="leader's work")
                done, _ = await asyncio.wait((renewer, work), return_when=asyncio.FIRST_COMPLETED)
                lost = renewer in done
                renewer.cancel()
                work.cancel()
        finally:
            self._turn(False)
            if not lost:
                await self._release()
        if lost:
            raise LostError(f"the Lease {self._settings.namespace}/{self._settings.name} was not renewed in time")

    def holds(self) -> bool:
        """Whether the Lease is ours at this very moment: one that slept knows it before any of its tasks runs on."""
        return self.leading and self._clock.monotonic() < self._until

    def _turn(self, leading: bool) -> None:
        self.leading = leading
        self.on_change(leading)

    async def _work(self, lead: Callable[[], Awaitable[None]]) -> None:
        await lead()

    async def _acquire(self) -> float:
        """When it was asked for: from then on it counts for others, however late we hear that it is ours."""
        settings = self._settings
        while True:
            begun = self._clock.monotonic()
            try:
                async with asyncio.timeout(settings.renew_deadline):
                    lease = await self._api.get(LEASES, settings.namespace, settings.name)
                    if await self._try(lease):
                        return begun
            except (ApiError, TimeoutError) as error:
                log.warning("leader.lease.unreadable", error=str(error) or "no answer in time")
            await self._clock.sleep(settings.retry * (1 + self._rng.random() / 5))

    async def _renew(self, renewed: float) -> None:
        """Renew until it fails for `renew_deadline` seconds in all; then return at once."""
        settings = self._settings
        while (left := renewed + settings.renew_deadline - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(settings.retry, left))
            begun = self._clock.monotonic()
            left = renewed + settings.renew_deadline - begun
            try:
                async with asyncio.timeout(max(left, 0.0)):
                    lease = await self._api.get(LEASES, settings.namespace, settings.name)
                    if lease is None:  # it goes with the installation: made anew by one that ends, it would stay
                        log.error("leader.lost", identity=settings.identity, lease="gone")
                        return
                    if self._holder(lease) not in ("", settings.identity):
                        log.error("leader.lost", identity=settings.identity, holder=self._holder(lease))
                        return
                    if await self._write(lease, settings.identity):
                        self._until = begun + settings.renew_deadline
                        renewed = begun  # the Lease counts from when it was asked for, not from when that was heard
            except (ApiError, TimeoutError) as error:
                log.warning("leader.renewal.failed", error=str(error) or "no answer in time")
        log.error("leader.lost", identity=settings.identity)

    async def _release(self) -> None:
        """Leave the Lease to the next one at once; if that fails it simply expires."""
        settings = self._settings
        try:
            async with asyncio.timeout(settings.retry):
                lease = await self._api.get(LEASES, settings.namespace, settings.name)
                if lease is not None and self._holder(lease) == settings.identity:
                    await self._write(lease, "")
        except (ApiError, TimeoutError) as error:
            log.warning("leader.release.failed", error=str(error) or "no answer in time")

    async def _try(self, lease: Lease | None) -> bool:
        """Take the Lease if it is free, ours, or silent for longer than its duration."""
        holder = self._holder(lease) if lease is not None else ""
        if lease is not None and holder not in ("", self._settings.identity):
            seen = (holder, lease.metadata.resource_version)
            if seen != self._seen:
                self._seen, self._seen_at = seen, self._clock.monotonic()
            told = lease.spec.lease_duration_seconds if lease.spec is not None else None
            if self._clock.monotonic() - self._seen_at < max(self._settings.duration, told or 0):
                return False
        return await self._write(lease, self._settings.identity)

    def _holder(self, lease: Lease) -> str:
        return (lease.spec.holder_identity if lease.spec is not None else None) or ""

    async def _write(self, lease: Lease | None, holder: str) -> bool:
        """Create or replace; False when somebody was faster."""
        settings = self._settings
        now = self._clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = (lease.spec if lease is not None else None) or LeaseSpec()
        changed = before.holder_identity != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(settings.duration)) if holder else 1,
            "acquireTime": now if changed or before.acquire_time is None else before.acquire_time,
            "renewTime": now,
            "leaseTransitions": (before.lease_transitions or 0) + (1 if changed and holder else 0),
        }
        try:
            if lease is None:
                meta = {"name": settings.name, "namespace": settings.namespace, "labels": LABELS}
                manifest = {"metadata": meta, "spec": spec}
                await self._api.create(LEASES, settings.namespace, manifest)
            else:
                # A patch: labels and annotations are of whoever made it. 409 when somebody was faster.
                patch = {"metadata": {"resourceVersion": lease.metadata.resource_version}, "spec": spec}
                await self._api.patch(LEASES, settings.namespace, settings.name, patch)
        except ConflictError:
            return False
        return True
