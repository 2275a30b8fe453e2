"""The cluster's log: the one place that tells of a configuration that somebody changed synchronously.

Such a change leaves no task, and in the lists of guests only what they show of it. Seeing the lines of others takes
`Sys.Syslog` on `/`; without it, and without the log, the rotation finds such changes later.

Source: qemu-server, PVE::API2::Qemu (update_vm_api), and pve-cluster's clusterlog; no recording has it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from common import logging
from common.errors import NotSupportedError, PermissionMissingError

from provider_proxmox.session.reading import Ask
from provider_proxmox.session.rows import Rows, text

log = logging.get(__name__)

LINES = 100
_UPDATE = re.compile(r"update VM ([1-9][0-9]{2,8}): ")


class ClusterLog:
    """Reads what is new in it."""

    def __init__(self, get: Ask, check: Callable[[int], Awaitable[None]]) -> None:
        """Args: check: looks whether the configuration of a guest is still the one that is known."""
        self._get = get
        self._rows = Rows()
        self._check = check
        self._seen: set[tuple[str, ...]] | None = None
        self._again: set[int] = set()
        """A line may be written a moment before the change itself: those of the last look are looked at once more."""
        self._refused = False

    async def look(self) -> None:
        """Have the guests looked at whose configuration was changed since the last look.

        Raises:
            HypervisorUnavailableError: the cluster does not answer.
        """
        if self._refused:
            return
        try:
            rows = self._rows.take(await self._get("look at the log", "cluster/log", max=LINES), "look at the log")
        except (NotSupportedError, PermissionMissingError) as error:
            log.info("pve.log.refused", error=str(error))
            self._refused = True
            return
        lines = {tuple(text(row.get(key)) for key in ("node", "uid", "time", "msg")) for row in rows}
        new = lines - self._seen if self._seen is not None else set()
        self._seen = lines
        told = (_UPDATE.match(line[-1]) for line in new)
        changed = {int(found[1]) for found in told if found is not None}
        checked, self._again = changed | self._again, changed
        for vmid in checked:
            await self._check(vmid)
