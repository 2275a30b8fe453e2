"""Certificates are changed for those of another authority: on one side first, while connections break."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from common.tls import TlsFiles

from .certificates import secret, write
from .kubernetes import Cluster
from .people import SPACE
from .schedule import Schedule
from .wires import Network

SECRETS = "/api/v1/secrets"
MOST_APART = 30.0
"""Seconds between the two sides."""


class Rotation:
    """What each site's server serves with, and what controllers dial it with: files, and a Secret."""

    def __init__(
        self, schedule: Schedule, cluster: Cluster, network: Network, sites: Mapping[str, str], place: Path
    ) -> None:
        self._schedule, self._cluster, self._network, self._sites = schedule, cluster, network, sites
        self.place = place
        self._generations = dict.fromkeys(sites, 0)

    def prepare(self) -> None:
        """The first ones."""
        for site in self._sites:
            self._cluster.add(SECRETS, SPACE, site, {"data": secret(0)})
            self._serve_with(site)

    def files(self, site: str) -> TlsFiles:
        """Where a site's server finds its own."""
        place = self.place / site
        return TlsFiles(place / "tls.crt", place / "tls.key", place / "ca.crt")

    async def rotate(self, site: str, turn: int) -> None:
        """Give both sides new ones, one before the other; until then no new handshake succeeds."""
        self._generations[site] += 1
        choose = self._schedule.fraction
        steps = [self._serve_with, self._dial_with]
        if choose("rotation", turn, "first") < 0.5:
            steps.reverse()
        for step, apart in zip(steps, (choose("rotation", turn) * MOST_APART, 0.0), strict=True):
            step(site)
            self._network.cut(self._sites[site])
            await asyncio.sleep(apart)

    def finish(self) -> None:
        """Both sides have the newest, wherever it was interrupted."""
        for site in self._sites:
            self._serve_with(site)
            self._dial_with(site)

    def _serve_with(self, site: str) -> None:
        write(self.place / site, self._generations[site], site)

    def _dial_with(self, site: str) -> None:
        self._cluster.edit(SECRETS, SPACE, site, {"data": secret(self._generations[site])})
