"""How long things take in the simulated cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Every duration in seconds of the simulated world; `scale` is what one of them lasts here.

    Measured on a real installation without hardware acceleration, where it was recorded.
    """

    scale: float = 1 / 50
    refresh: float = 10.0  # a round of pvestatd, after which cluster/resources shows what has changed
    lock_create: float = 5.0  # how long create waits for a file lock
    lock_wait: float = 10.0  # and everything else
    failed_auth: float = 3.0
    sync_task: float = 5.0  # POST config answers null if done in this time
    create: float = 0.4
    allocate: float = 0.2  # per disk
    import_disk: float = 3.0  # per disk
    destroy: float = 0.3
    start: float = 1.0
    stop: float = 0.3
    power_down: float = 2.0  # what a guest that obeys needs to go off
    unseen: float = 0.1  # a task is not yet in the list that overruling a shutdown looks at
    clean_up: float = 0.5  # qmeventd, after a guest went off; it holds the file lock
    reset: float = 0.1
    suspend: float = 0.1
    hibernate: float = 2.0
    clone_full: float = 3.6  # per disk
    clone_linked: float = 0.3  # per disk
    snapshot: float = 0.3
    vmstate: float = 1.5
    rollback: float = 0.5
    drop_snapshot: float = 0.3
    resize: float = 0.2
    move_disk: float = 3.0
    template: float = 0.2
    transfer: float = 3.0  # upload, download
    migrate: float = 4.0
    ha: float = 3.0  # a round of the HA managers
    agent: float = 3.0  # how long a call waits for a guest agent that does not answer
    restart_manager: float = 1.0
    ticket: float = 7200.0  # life of a ticket; not scaled, since clients measure it with their own clock

    @classmethod
    def real(cls) -> Pace:
        """As slow as the real one."""
        return cls(scale=1.0)

    def here(self, seconds: float) -> float:
        """What `seconds` over there last here."""
        return seconds * self.scale

    async def spend(self, seconds: float) -> None:
        """Wait `seconds` of the simulated world."""
        await asyncio.sleep(seconds * self.scale)
