"""First-boot data: a NoCloud ISO with exactly what the spec says, and no credential of anybody's.

Sources: cloud-init, "NoCloud" (label `cidata`, files user-data, meta-data, network-config) and "Networking config
version 2".
"""

from __future__ import annotations

import io

import pycdlib
from common import v1
from providerkit import cloudinit

LABEL = "cidata"
PADDING = 150 * 2048
"""Zero bytes after the image, as mkisofs writes them: drives read ahead, and tools that look for labels (busybox) read
the first 68 KiB of a device and give up on a smaller one."""


def needed(spec: v1.MachineSpec) -> bool:
    """Whether there is anything to hand over."""
    return spec.boot_data not in (None, v1.BootData()) or cloudinit.addressed(spec)


def iso(spec: v1.MachineSpec, macs: dict[str, str]) -> bytes:
    """The ISO image.

    Args:
        macs: MAC of each NIC by its name.
    Raises:
        InvalidSpecError: meta_data is no YAML mapping; the text itself is never repeated.
    """
    files = {
        "user-data": user_data(spec),
        "meta-data": cloudinit.meta_data(spec),
        # Empty where the guest shall do as it likes (DHCP).
        "network-config": cloudinit.text(cloudinit.network(spec, macs)) if cloudinit.addressed(spec) else "",
    }
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for name, text in files.items():
        if text:
            data = text.encode()
            plain = "/" + name.upper().replace("-", "_") + ".;1"
            image.add_fp(io.BytesIO(data), len(data), plain, rr_name=name, joliet_path="/" + name)
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue() + bytes(PADDING)


def user_data(spec: v1.MachineSpec) -> str:
    """What the spec says, as it stands; cloud-init wants the file even where there is nothing to say."""
    given = spec.boot_data.user_data if spec.boot_data else ""
    return given or "#cloud-config\n{}\n"
