"""`virtrigaud-provider-fake`: the fake hypervisor as a provider of its own, for trying things and for tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.settings import Seconds

from providerkit.driver import Driver
from providerkit.runner import ProviderSettings, run_provider

from .driver import FakeDriver
from .world import FakeHypervisor


@dataclass(frozen=True)
class FakeSettings(ProviderSettings):
    """Settings of the fake provider."""

    world: Annotated[Path | None, "JSON file that keeps the machines; unset forgets them at the end"] = None
    create_seconds: Annotated[Seconds, "how long each disk of a new machine takes"] = 0.0
    shutdown_seconds: Annotated[Seconds, "how long a guest takes to shut down"] = 0.2
    image_seconds: Annotated[Seconds, "how long the preparation of an image takes"] = 0.0


def make_driver(settings: FakeSettings) -> Driver:
    """The driver over a world of its own."""
    world = FakeHypervisor(path=settings.world)
    world.misbehave.latency.update(copy_disk=settings.create_seconds, prepare_image=settings.image_seconds)
    return FakeDriver(world, owner=settings.owner, guest_shutdown_seconds=settings.shutdown_seconds)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command."""
    return run_provider(
        make_driver, FakeSettings, "virtrigaud-provider-fake", argv, distribution="virtrigaud-providerkit"
    )


if __name__ == "__main__":
    sys.exit(main())
