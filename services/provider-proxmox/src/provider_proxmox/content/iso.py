"""The first-boot ISO of a machine: found by its name, which says whose it is and what is in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from providerkit import nocloud

_NAME = re.compile(r"virtrigaud-(?P<vmid>[0-9]{3,9})-(?P<uid>[0-9a-f-]{36})-(?P<digest>[0-9a-f]{16})\.iso")


def name(vmid: int, uid: str, content: Mapping[str, str]) -> str:
    """File name of the ISO with this content. Only letters, digits, "-" and ".": Proxmox VE changes others."""
    digest = hashlib.sha256(json.dumps([uid, sorted(content.items())]).encode()).hexdigest()[:16]
    return f"virtrigaud-{vmid}-{uid}-{digest}.iso"


def made(content: Mapping[str, str]) -> bytes:
    """The image. It tells when it was made, so that two of the same content differ; they are equally long."""
    return nocloud.iso(content)


def of(uid: str, volumes: Iterable[str]) -> list[str]:
    """Those of some volumes ("local:iso/x.iso") that are ISOs of this machine, whatever VMID they were made for."""
    found = []
    for volume in volumes:
        match = _NAME.fullmatch(volume.rpartition("/")[2])
        if match is not None and match["uid"] == uid:
            found.append(volume)
    return found


def vmid_of(volume: str) -> int:
    """The VMID that an ISO of ours was made for; 0 for any other volume."""
    match = _NAME.fullmatch(volume.rpartition("/")[2])
    return int(match["vmid"]) if match is not None else 0


def is_one(volume: str) -> bool:
    """Whether a volume is an ISO of ours, of whatever machine."""
    return _NAME.fullmatch(volume.rpartition("/")[2]) is not None
