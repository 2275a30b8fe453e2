"""Settings of the libvirt provider."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from common.settings import Seconds
from providerkit.imagesettings import ImageSettings

SYSTEM_POOL = "/var/lib/libvirt/images"
DRIVERS = ("qemu", "test")


@dataclass(frozen=True)
class LibvirtSettings(ImageSettings):
    """What this provider is told, besides what every provider is."""

    endpoint: Annotated[str, "libvirt URI: qemu:///system, qemu:///session, qemu+ssh://user@host/system, ..."] = (
        "qemu:///system"
    )
    virtualization: Annotated[
        Literal["auto", "kvm", "qemu"], "auto takes KVM where the host really has it, else software emulation"
    ] = "auto"
    pool: Annotated[str, "storage pool for disks and images; made only when libvirt has none of this name"] = "default"
    pool_path: Annotated[str, "directory of the pool, on the hypervisor, should it have to be made"] = ""
    spool_directory: Annotated[Path, "where downloads wait until their checksum is known to be right"] = field(
        default_factory=lambda: Path(tempfile.gettempdir())
    )
    serial_log: Annotated[bool, "keep what each machine says on its serial console, in its pool"] = True
    call_timeout: Annotated[Seconds, "how long libvirt may take for an answer"] = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.endpoint)
        if parts.scheme.partition("+")[0] not in DRIVERS:
            raise ValueError(f"endpoint: {parts.scheme or 'no'} driver given; {' and '.join(DRIVERS)} are supported")
        if parts.password is not None:
            raise ValueError("endpoint: holds a password; put it into the file `password` of the credentials directory")
        if not self.pool or "/" in self.pool:
            raise ValueError("pool: is no name of a storage pool")
        if self.pool_path and not self.pool_path.startswith("/"):
            raise ValueError("pool_path: must be absolute")
        if self.call_timeout < 1:
            raise ValueError("call_timeout: at least 1s")

    @property
    def session(self) -> bool:
        """The endpoint is a per-user daemon."""
        return urlsplit(self.endpoint).path.rstrip("/").endswith("/session")

    def default_pool_path(self) -> str:
        """Where the pool is made if there is none."""
        if self.pool_path:
            return self.pool_path
        if urlsplit(self.endpoint).scheme == "test":
            return ""
        return str(user_data() / "libvirt" / "images") if self.session else SYSTEM_POOL


def user_data() -> Path:
    """XDG data directory of this user."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
