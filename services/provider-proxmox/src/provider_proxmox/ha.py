"""High availability: who is a member, and which machines it keeps together or apart.

The stamps are what is wanted: the members of a rule are all our machines whose stamps name it, so a machine joins by
its own stamp, whoever comes first or second, and the rule is then brought to what the stamps say. That is safe to
repeat. Proxmox VE takes no rule with fewer than two members, and none with a guest that HA does not manage: the first
machine waits for the second in its stamp alone, and both are made members of HA.

HA knows no wish: a machine that would break a rule does not start. So only rules that are required are handed to it;
the others are considered when a machine gets its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from common import logging, v1
from common.errors import (
    InvalidSpecError,
    OperationInProgressError,
    ResourceNotFoundError,
    StalePreconditionError,
)
from providerkit.planner import affinity_words

from provider_proxmox.config import hardware
from provider_proxmox.guests import Guests
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.session.index import Guest
from provider_proxmox.session.pve import Pve
from provider_proxmox.stamp import Stamp

log = logging.get(__name__)

JOINED: Final = "ha-joined"
"""Setting of the stamp, "true" while HA manages the machine only because one of its rules needs that."""
_FIELD: Final = "placement.affinity["
_ATTEMPTS: Final = 3
"""So often a rule is brought up to date upon what somebody else has changed meanwhile."""
_FEWEST: Final = 2
"""Members of a rule that Proxmox VE accepts."""


@dataclass(frozen=True, order=True)
class Rule:
    """One rule of one namespace."""

    owner: str
    namespace: str
    name: str
    words: str
    """What it asks for: "apart", "together required"."""

    @property
    def id(self) -> str:
        """Its name in the cluster, which has few letters to choose from."""
        digest = hashlib.sha256(f"{self.owner}/{self.namespace}/{self.name} {self.words}".encode()).hexdigest()
        return f"virtrigaud-{digest[:16]}"

    @property
    def comment(self) -> str:
        """For people."""
        return f"virtrigaud {self.owner}: {self.namespace}/{self.name} {self.words}"

    @property
    def affinity(self) -> str:
        """In Proxmox VE's words."""
        return "negative" if self.words.startswith("apart") else "positive"

    @property
    def field(self) -> str:
        """Its key in the stamp's settings."""
        return f"{_FIELD}{self.name}]"


def asked(record: Stamp) -> list[Rule]:
    """The required rules that a machine wants to be in."""
    found = {key[len(_FIELD) : -1]: words for key, words in record.settings.items() if key.startswith(_FIELD)}
    return [
        Rule(record.owner, record.namespace, name, words)
        for name, words in sorted(found.items())
        if words.endswith("required")
    ]


def wanted_state(guest: Guest, record: Stamp) -> str:
    """State of the member that a machine shall be; empty when HA shall not manage it.

    A member that is off stays off until it is started: that is when HA learns that it shall run.
    """
    wish = record.settings.get(hardware.HA, "") or ("started" if asked(record) else "")
    return "stopped" if wish == "started" and guest.status != "running" else wish


class Ha:
    """Members and rules of one owner's machines."""

    def __init__(self, pve: Pve, guests: Guests, change: Reconfiguring) -> None:
        self._pve = pve
        self._guests = guests
        self._change = change
        self._lock = asyncio.Lock()

    async def set_affinity(self, uid: str, rules: list[v1.AffinityRule]) -> None:
        """Make the machine a member of these rules and of no other rule of ours."""
        doing = f"set affinity of machine {uid}"
        before = asked(self._record(await self._guests.get(uid, doing), doing))
        settings = {f"{_FIELD}{rule.name}]": affinity_words(rule) for rule in rules}
        await self._change.record(uid, "set affinity", settings, without=_FIELD)
        await self.settle(uid, doing, also=before)

    async def settle(self, uid: str, doing: str, *, also: Iterable[Rule] = ()) -> None:
        """Bring membership and rules of a machine to what its stamp says.

        Args:
            also: rules that it was in before.
        """
        guest = await self._guests.get(uid, doing)
        record = self._record(guest, doing)
        mine = asked(record)
        if mine:
            await self._join(guest, record, uid, doing)
        for rule in sorted({*also, *mine}):
            await self._settle(rule, doing)
        if not mine:
            await self._part(guest, record, uid, doing)

    async def _join(self, guest: Guest, record: Stamp, uid: str, doing: str) -> None:
        if hardware.HA not in record.settings and JOINED not in record.settings and not guest.ha:
            await self._change.record(uid, "join HA", {JOINED: "true"}, without=JOINED)
        await self._member(guest, wanted_state(guest, record), doing)

    async def _part(self, guest: Guest, record: Stamp, uid: str, doing: str) -> None:
        """HA keeps those that somebody else, or the spec itself, has given to it."""
        if JOINED in record.settings:
            if hardware.HA not in record.settings:
                await self._member(guest, "", doing)
            await self._change.record(uid, "leave HA", {}, without=JOINED)

    async def set_member(self, uid: str, before: str) -> None:
        """Have HA manage it as extra_config says; if it says nothing, what others told HA stays.

        Args:
            before: what extra_config said until now: HA may not have heard of it.
        """
        doing = f"set HA of machine {uid}"
        guest = await self._guests.get(uid, doing)
        record = self._record(guest, doing)
        wish = record.settings.get(hardware.HA, "")
        if wish != before or (wish and not guest.ha):
            await self._member(guest, wanted_state(guest, record), doing)

    async def leave(self, guest: Guest, doing: str) -> None:
        """It goes, or is ours no longer: rules that would be left with one member must not outlive it."""
        record = self._record(guest, doing)
        for rule in asked(record):
            await self._settle(rule, doing, without=guest.vmid)
        if JOINED in record.settings:
            await self._member(guest, "", doing)

    def _record(self, guest: Guest, doing: str) -> Stamp:
        if guest.stamp is None:
            raise OperationInProgressError(f"{doing}: it lost our stamp meanwhile", retry_after=1.0)
        return guest.stamp

    # -- members ---------------------------------------------------------------------------------------------------

    async def _members(self, doing: str) -> dict[str, dict[str, Any]]:
        rows = await self._pve.get(doing, "cluster/ha/resources", type="vm")
        return {str(row["sid"]): row for row in rows}

    async def _member(self, guest: Guest, state: str, doing: str) -> None:
        """Args: state: empty takes it out of HA."""
        sid = f"vm:{guest.vmid}"
        present = (await self._members(doing)).get(sid)
        if present is None and state:
            await self._pve.post(doing, "cluster/ha/resources", sid=sid, state=state, comment="virtrigaud")
        elif present is not None and not state:
            with contextlib.suppress(ResourceNotFoundError):  # somebody was faster
                await self._pve.delete(doing, f"cluster/ha/resources/{sid}")
        elif present is not None and state not in ("started", str(present.get("state"))):
            await self._pve.put(doing, f"cluster/ha/resources/{sid}", state=state)
        else:
            return
        log.info("proxmox.ha.member", vmid=guest.vmid, state=state or "none")
        await self._pve.refresh(guest.vmid, doing)

    # -- rules -----------------------------------------------------------------------------------------------------

    async def _settle(self, rule: Rule, doing: str, *, without: int = 0) -> None:
        async with self._lock:
            for attempt in range(_ATTEMPTS):
                try:
                    await self._bring(rule, doing, without)
                # Somebody else made, changed or removed the same rule meanwhile.
                except (StalePreconditionError, ResourceNotFoundError, InvalidSpecError):
                    if attempt + 1 == _ATTEMPTS:
                        raise
                else:
                    return

    async def _bring(self, rule: Rule, doing: str, without: int) -> None:
        managed = await self._members(doing)
        wanted = sorted(
            sid
            for guest in self._pve.known(doing).guests.values()
            if guest.vmid != without and self._names(guest, rule) and (sid := f"vm:{guest.vmid}") in managed
        )
        rows = await self._pve.get(doing, "cluster/ha/rules", type="resource-affinity")
        present = next((row for row in rows if row.get("rule") == rule.id), None)
        have = sorted(str(present.get("resources", "")).split(",")) if present is not None else []
        if have == wanted or (present is None and len(wanted) < _FEWEST):
            return
        said = {"type": "resource-affinity", "resources": ",".join(wanted)}
        if present is None:
            said |= {"rule": rule.id, "affinity": rule.affinity, "comment": rule.comment}
            await self._pve.post(doing, "cluster/ha/rules", **said)
        elif len(wanted) < _FEWEST:
            await self._pve.delete(doing, f"cluster/ha/rules/{rule.id}")
        else:
            await self._pve.put(doing, f"cluster/ha/rules/{rule.id}", **said, digest=present.get("digest"))
        log.info("proxmox.ha.rule", rule=rule.comment, members=len(wanted))

    def _names(self, guest: Guest, rule: Rule) -> bool:
        mark = guest.stamp
        return mark is not None and self._guests.is_ours(guest) and rule in asked(mark)
