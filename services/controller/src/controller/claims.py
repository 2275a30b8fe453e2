"""Which installation serves which namespaces: no object is ever acted on by two.

All installations of a cluster share one ConfigMap with an entry for each: "NAMESPACE.NAME" of its Lease, and what it
serves. An entry is written on the condition that nobody wrote meanwhile, so two never get what overlaps. It stays while
its installation is down, since another one may have another owner id and would make its machines once more; it is
void when the Lease, which is made and removed with the installation, has been gone for a while.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from common import logging
from common.clock import Clock

from .api import Api, ApiError, ConflictError
from .core import CONFIG_MAPS, LEASES, ConfigMap

log = logging.get(__name__)

NAMESPACE, NAME = "default", "virtrigaud-installations"
"""A namespace that every cluster has and every administrator may write to; kube-system is closed on some."""
ALL = "*"
LOOK = 15.0
"""Seconds between two looks of one that serves, and for how long a Lease must be gone."""


class TakenError(Exception):
    """Another installation serves our namespaces, although we did; the process should end."""


@dataclass(frozen=True)
class Installation:
    """Who asks: the place of its Lease, and the namespace that it serves; empty: all of them."""

    lease_namespace: str
    lease_name: str
    namespace: str = ""

    @property
    def key(self) -> str:
        return f"{self.lease_namespace}.{self.lease_name}"

    @property
    def scope(self) -> str:
        return self.namespace or ALL


class Claim:
    """Of one installation, while it leads."""

    def __init__(
        self, api: Api, clock: Clock, rng: random.Random, mine: Installation, *, retry: float = 2.0, look: float = LOOK
    ) -> None:
        """Args: retry: seconds until a refused claim is made again."""
        self._api, self._clock, self._rng, self._mine = api, clock, rng, mine
        self._retry, self._look = retry, look
        self._missing: dict[str, float] = {}
        """Since when the Lease of another is not there, by key."""
        self.refused = ""
        """What keeps us from serving; empty while nothing does."""

    async def obtain(self) -> None:
        """Wait until the namespaces are ours; `refused` says why they are not yet."""
        while True:
            try:
                refused = await self._try()
            except ApiError as error:
                refused = _unknown(error)
            if refused != self.refused:
                self.refused = refused
                if refused:
                    log.error("installation.refused", installation=self._mine.key, message=refused)
            if not refused:
                log.info("installation.serves", installation=self._mine.key, namespaces=self._mine.scope)
                return
            await self._clock.sleep(self._retry * (1 + self._rng.random() / 5))

    async def blocked(self) -> str:
        """Who serves our namespaces now; empty: nobody else. For one that has no Lease, and so enters nothing."""
        try:
            found = await self._api.get(CONFIG_MAPS, NAMESPACE, NAME)
            entries = (found.data or {}) if found is not None else {}
            for key in self._rivals(entries):
                if await self._there(key):
                    return self._why(key, entries[key])
        except ApiError as error:
            return _unknown(error)
        return ""

    async def keep(self) -> None:
        """Look now and then whether they still are: somebody may remove the entry. Raises: TakenError."""
        while True:
            await self._clock.sleep(self._look)
            try:
                refused = await self._try()
            except ApiError as error:
                log.warning("installation.unknown", error=str(error))
                continue
            if refused:
                raise TakenError(refused)

    async def _try(self) -> str:
        """Enter ourselves; answers with what is in the way."""
        while True:
            found = await self._api.get(CONFIG_MAPS, NAMESPACE, NAME)
            entries = (found.data or {}) if found is not None else {}
            rivals = self._rivals(entries)
            void = [key for key in rivals if await self._void(key)]
            if standing := [key for key in rivals if key not in void]:
                return self._why(standing[0], entries[standing[0]])
            if not void and entries.get(self._mine.key) == self._mine.scope:
                return ""
            try:
                await self._write(found, {self._mine.key: self._mine.scope, **dict.fromkeys(void)})
            except ConflictError:
                continue
            return ""

    def _rivals(self, entries: dict[str, str]) -> list[str]:
        """Keys of others that serve something of ours, or did."""
        return [key for key in entries if key != self._mine.key and overlap(entries[key], self._mine.scope)]

    async def _void(self, key: str) -> bool:
        """Whether an installation was removed: its Lease is gone, and does not come back."""
        if await self._there(key):
            self._missing.pop(key, None)
            return False
        now = self._clock.monotonic()
        return now - self._missing.setdefault(key, now) >= self._look

    async def _there(self, key: str) -> bool:
        """Whether there is the Lease that an entry names; one that somebody wrote by hand may name none."""
        namespace, _, name = key.partition(".")
        return bool(namespace and name) and await self._api.get(LEASES, namespace, name) is not None

    async def _write(self, found: ConfigMap | None, entries: dict[str, str | None]) -> None:
        if found is None:
            labels = {"app.kubernetes.io/part-of": "virtrigaud"}
            meta = {"name": NAME, "namespace": NAMESPACE, "labels": labels}
            given = {key: scope for key, scope in entries.items() if scope is not None}
            await self._api.create(CONFIG_MAPS, NAMESPACE, {"metadata": meta, "data": given})
            return
        patch = {"metadata": {"resourceVersion": found.metadata.resource_version}, "data": entries}
        await self._api.patch(CONFIG_MAPS, NAMESPACE, NAME, patch)

    def _why(self, key: str, scope: str) -> str:
        place, _, name = key.partition(".")
        mine = f"namespace {self._mine.namespace}" if self._mine.namespace else "all namespaces"
        theirs = "all namespaces" if scope == ALL else f"namespace {scope}"
        return (
            f"the installation with Lease {place}/{name} serves {theirs}, so this one, which is to serve {mine}, does "
            f"nothing: remove one of them, or let each watch a namespace of its own (ConfigMap {NAMESPACE}/{NAME})"
        )


def _unknown(error: ApiError) -> str:
    return f"which installation serves which namespaces is not known: {error}"


def overlap(one: str, other: str) -> bool:
    """Whether two entries have a namespace in common."""
    return ALL in (one, other) or one == other
