"""Settings of providers that fetch images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from .fetch import Policy
from .runner import ProviderSettings

SYSTEM_IMAGES = Path("/var/lib/virtrigaud/images")


@dataclass(frozen=True)
class ImageSettings(ProviderSettings):
    """Where images may come from, and how large they may be."""

    image_directory: Annotated[
        list[Path], "directories that image files may come from; the first takes relative paths"
    ] = field(default_factory=lambda: [SYSTEM_IMAGES, state_images()])
    image_url_allow: Annotated[
        list[str],
        "hosts that images may come from, as patterns (*.example.org); empty allows every host but this one",
    ] = field(default_factory=list)
    image_url_forbid_private: Annotated[bool, "refuse image hosts with private addresses"] = False
    image_max_gib: Annotated[int, "largest image file that is taken, in GiB"] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_max_gib < 1:
            raise ValueError("image_max_gib: at least 1")

    def image_policy(self) -> Policy:
        """Which hosts images may come from."""
        return Policy(self.image_url_allow, forbid_private=self.image_url_forbid_private)

    @property
    def image_limit(self) -> int:
        """Most bytes of one image file."""
        return self.image_max_gib << 30


def state_images() -> Path:
    """Images of the embedded stack."""
    home = os.environ.get("VIRTRIGAUD_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state" / "virtrigaud") / "images"
