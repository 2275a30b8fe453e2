"""First-boot data as a drive: exactly what the spec says, and no credential of anybody's.

Sources: cloud-init, "NoCloud" (label `cidata`, files user-data, meta-data, network-config) and "Networking config
version 2"; Ignition, platform `proxmoxve`, which takes the user-data of such a drive.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import pycdlib
from common import v1

from . import cloudinit

LABEL = "cidata"
PADDING = 150 * 2048
"""Zero bytes after the image, as mkisofs writes them: drives read ahead, and tools that look for labels (busybox) read
the first 68 KiB of a device and give up on a smaller one."""


def needed(spec: v1.MachineSpec) -> bool:
    """Whether there is anything to hand over."""
    return spec.boot_data not in (None, v1.BootData()) or cloudinit.addressed(spec)


def files(spec: v1.MachineSpec, macs: Mapping[str, str]) -> dict[str, str]:
    """Content of the drive by name.

    Args:
        macs: MAC of each NIC by its name.
    Raises:
        InvalidSpecError: meta_data is no YAML mapping; the text itself is never repeated.
    """
    found = {"user-data": user_data(spec), "meta-data": cloudinit.meta_data(spec)}
    if cloudinit.addressed(spec):  # else the guest shall do as it likes (DHCP)
        found["network-config"] = network_config(spec, macs)
    return found


def network_config(spec: v1.MachineSpec, macs: Mapping[str, str]) -> str:
    """What the NICs say; those that say nothing ask for DHCP."""
    return cloudinit.text(cloudinit.network(spec, macs))


def user_data(spec: v1.MachineSpec) -> str:
    """What the spec says, as it stands; cloud-init wants the file even where there is nothing to say."""
    boot = spec.boot_data or v1.BootData()
    return boot.user_data or boot.ignition or "#cloud-config\n{}\n"


def iso(content: Mapping[str, str]) -> bytes:
    """The drive as an ISO image.

    Args:
        content: by name.
    """
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for name, text in content.items():
        data = text.encode()
        plain = "/" + name.upper().replace("-", "_") + ".;1"
        image.add_fp(io.BytesIO(data), len(data), plain, rr_name=name, joliet_path="/" + name)
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue() + bytes(PADDING)
