"""Machines in OVA archives: what their descriptor says, and the disks in them."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .contents import format_named
from .errors import refused
from .images import virtual_size
from .world import Volume, World

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
CPU, MEMORY, ETHERNET, DISK = "3", "4", "10", "17"  # resource types of CIM
MARK = ".ova/"


def metadata(volume: Volume) -> dict[str, Any]:
    """What a guest that is made from an archive would need.

    Raises:
        PveError: it is no archive of a machine.
    """
    if volume.file is None or not volume.volid.endswith(".ova"):
        raise refused(f"unable to extract metadata from '{volume.volid.rpartition('/')[2]}' - wrong format")
    tree = descriptor(volume.file)
    items = [fields(item) for item in tree.iter() if item.tag.rpartition("}")[2] == "Item"]
    create: dict[str, Any] = {"name": machine_name(tree)}
    for item in items:
        if item.get("ResourceType") == CPU:
            create["cores"] = int(item["VirtualQuantity"])
        elif item.get("ResourceType") == MEMORY:
            create["memory"] = int(item["VirtualQuantity"])
    disks = {f"scsi{place}": f"{volume.volid}/{name}" for place, name in enumerate(disk_files(tree, items))}
    models = [nic.get("ResourceSubType", "e1000").lower() for nic in items if nic.get("ResourceType") == ETHERNET]
    return {
        "type": "vm",
        "source": "ova",
        "create-args": create,
        "disks": disks,
        "net": {f"net{place}": {"model": model} for place, model in enumerate(models)},
        "warnings": [{"type": "ova-needs-extracting", "key": key, "value": value} for key, value in disks.items()],
    }


def descriptor(archive: Path) -> ElementTree.Element:
    """The description of the machine.

    Raises:
        PveError: there is none.
    """
    try:
        with tarfile.open(archive) as members:
            for member in members:
                if member.name.endswith(".ovf") and (content := members.extractfile(member)) is not None:
                    return ElementTree.fromstring(content.read())
    except (tarfile.TarError, ElementTree.ParseError) as error:
        raise refused(f"failed to parse OVF: {error}") from error
    raise refused("no .ovf file found in OVA")


def fields(item: ElementTree.Element) -> dict[str, str]:
    """A part of the virtual hardware."""
    return {child.tag.removeprefix(RASD): (child.text or "").strip() for child in item}


def machine_name(tree: ElementTree.Element) -> str:
    system = tree.find(f"{OVF}VirtualSystem")
    return "" if system is None else system.get(f"{OVF}id", "")


def disk_files(tree: ElementTree.Element, items: list[dict[str, str]]) -> Iterator[str]:
    """The files of the disks, in the order of the hardware."""
    files = {file.get(f"{OVF}id"): file.get(f"{OVF}href", "") for file in tree.iter(f"{OVF}File")}
    disks = {disk.get(f"{OVF}diskId"): files.get(disk.get(f"{OVF}fileRef"), "") for disk in tree.iter(f"{OVF}Disk")}
    for item in items:
        if item.get("ResourceType") == DISK:
            yield disks.get(item.get("HostResource", "").rpartition("/")[2], "")


def disk_in_archive(world: World, volid: str, node: str) -> Volume | None:
    """A disk of an archive, taken out of it: `local:import/a.ova/disk.vmdk`."""
    head, mark, name = volid.partition(MARK)
    archive = world.volume(f"{head}{mark.rstrip('/')}", node) if mark else None
    if archive is None or archive.file is None or world.home is None:
        return None
    with tarfile.open(archive.file) as members:
        found = next((member for member in members if member.name == name), None)
        content = members.extractfile(found) if found is not None else None
        if content is None:
            return None
        file = Path(tempfile.mkstemp(prefix="extracted-", dir=world.home)[1])
        with file.open("wb") as target:
            shutil.copyfileobj(content, target)
    return Volume(volid, "import", format_named(name), virtual_size(file), file=file)
