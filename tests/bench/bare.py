"""The same machine made without us: by libvirt's calls alone, and by virt-install.

    python -m bench.bare URI PATTERN NAME        the calls as a script, the way a person would run them

The calls do what our provider does and no more, as somebody writes them down who knows that all will go well: an
overlay on the image, the drive with first-boot data (its content is given), the definition, the start. They check
nothing, stamp nothing, wait for nothing. Nothing of ours is imported: that would be a cost of theirs.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import libvirt


@dataclass(frozen=True)
class Pattern:
    """What a machine of ours came to on the hypervisor: what the others are made after."""

    uid: str
    name: str
    definition: str
    pool: str
    image: str
    capacity: int
    memory_mib: int
    network: str
    drive: str
    """Path of a file with the content of the drive."""

    def write(self, file: Path) -> None:
        """For the script."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Self:
        """In the script."""
        return cls(**json.loads(file.read_text()))


def make(connection: libvirt.virConnect, like: Pattern, name: str) -> None:
    """Make the machine, and start it."""
    uid, drive = str(uuid.uuid4()), Path(like.drive).read_bytes()
    pool = connection.storagePoolLookupByName(like.pool)
    pool.createXML(
        f"<volume><name>{uid}-root.qcow2</name><capacity>{like.capacity}</capacity><allocation>0</allocation>"
        "<target><format type='qcow2'/><compat>1.1</compat></target>"
        f"<backingStore><path>{like.image}</path><format type='qcow2'/></backingStore></volume>"
    )
    volume = pool.createXML(
        f"<volume><name>{uid}-boot-data.iso</name><capacity>{len(drive)}</capacity>"
        "<target><format type='raw'/></target></volume>"
    )
    stream = connection.newStream(0)
    volume.upload(stream, 0, len(drive), 0)
    left = memoryview(drive)
    while left:
        left = left[stream.send(bytes(left[:262_000])) :]
    stream.finish()
    text = like.definition.replace(like.uid, uid).replace(f"<name>{like.name}</name>", f"<name>{name}</name>")
    connection.defineXML(text).create()


def remove(connection: libvirt.virConnect, name: str) -> None:
    """A machine that was made so or by virt-install, with its volumes."""
    domain = connection.lookupByName(name)
    uid = domain.UUIDString()
    if domain.isActive():
        domain.destroy()
    domain.undefine()
    for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        pool.refresh(0)
        for volume in pool.listAllVolumes(0):
            if volume.name().startswith(uid):
                volume.delete(0)


def virt_install(uri: str, like: Pattern, name: str, directory: Path) -> list[str]:
    """The command that makes a machine as large, on the same image; the drive is there before."""
    uid = str(uuid.uuid4())
    disk, size = directory / f"{uid}-root.qcow2", like.capacity / (1 << 30)
    return [
        "virt-install", "--connect", uri, "--import", "--noautoconsole", "--name", name, "--uuid", uid,
        "--virt-type", "qemu", "--machine", "q35", "--cpu", "mode=maximum", "--vcpus", "1",
        "--memory", str(like.memory_mib), "--osinfo", "detect=off,require=off", "--graphics", "none",
        "--network", f"network={like.network},model=virtio", "--controller", "scsi,model=virtio-scsi",
        "--disk", f"path={disk},size={size:g},format=qcow2,backing_store={like.image},backing_format=qcow2,bus=scsi",
        "--disk", f"path={like.drive},device=cdrom,bus=scsi",
    ]  # fmt: skip


def main(argv: list[str]) -> int:
    """The script."""
    uri, file, name = argv
    connection = libvirt.open(uri)
    make(connection, Pattern.read(Path(file)), name)
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
