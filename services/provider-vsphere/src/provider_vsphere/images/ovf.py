"""OVF descriptors and manifests: what a package says of itself, read with suspicion; pure.

vCenter reads the descriptor by itself; we read it for the files that it lists. There is no document type in an OVF, and
entities need one: a descriptor with one is refused before anything in it is looked at, which ends entity bombs and
references to files outside. That takes a parser whose declarations can be watched: expat itself, since the one in
ElementTree hides them.

Sources: DMTF DSP0243 "Open Virtualization Format Specification"; govmomi vmdk/import.go for a disk without a package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from common.errors import BrokenImageError, NotSupportedError, ProviderError
from providerkit.violations import has_control, shown

MOST_DESCRIPTOR = 8 << 20
"""Bytes; the largest that products ship have a tenth of it."""
MOST_MANIFEST = 1 << 20
MOST_CAPACITY = 62 << 40
"""Bytes of a virtual disk. Source: VMware Configuration Maximums."""
MOST_FILES = 1000
_MOST_DEPTH = 100
_MOST_ELEMENTS = 200_000

STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_UNITS = re.compile(r"byte(?:\s*\*\s*(\d{1,4})(?:\s*\^\s*(\d{1,3}))?)?")
_ENTRY = re.compile(r"(SHA\d{1,3})\s?\((.{1,1024})\)\s?=\s?([0-9a-fA-F]{1,128})")
ALGORITHMS = {"SHA1": ("sha1", 40), "SHA256": ("sha256", 64), "SHA512": ("sha512", 128)}
"""What manifests may be made with: name in hashlib, hexadecimal digits."""


@dataclass(frozen=True)
class File:
    """A file that the package consists of, besides its descriptor."""

    href: str
    """Relative to the descriptor."""
    size: int | None
    """Bytes, where the descriptor says so."""


@dataclass(frozen=True)
class Descriptor:
    """What we need of a descriptor."""

    text: str
    files: tuple[File, ...]
    networks: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files, as far as they are known."""
        return sum(file.size or 0 for file in self.files)


# -- descriptors -------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Descriptor:
    """Read a descriptor.

    Raises:
        BrokenImageError: it is none, or one that contradicts itself or reaches out of its package.
        NotSupportedError: a package of a kind that becomes no template.
    """
    if len(data) > MOST_DESCRIPTOR:
        raise BrokenImageError(f"the OVF descriptor is larger than {MOST_DESCRIPTOR} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BrokenImageError("the OVF descriptor is not UTF-8") from None
    root = _tree(text)
    if _local(root.tag) != "Envelope":
        raise BrokenImageError(f"the OVF descriptor begins with {shown(_local(root.tag))}, not with an Envelope")
    systems = [each for each in root if _local(each.tag) in ("VirtualSystem", "VirtualSystemCollection")]
    if len(systems) != 1:
        raise BrokenImageError(f"the OVF descriptor describes {len(systems)} virtual systems, not one")
    if _local(systems[0].tag) == "VirtualSystemCollection":
        raise NotSupportedError("the OVF package holds several machines (VirtualSystemCollection); an image is one")
    files = _files(root)
    _check_disks(root, set(files))
    networks = [_attribute(each, "name") for each in _all(root, "NetworkSection", "Network")]
    return Descriptor(text, tuple(files.values()), tuple(dict.fromkeys(filter(None, networks))))


class _Tree:
    """Builds elements, and counts."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._depth = 0
        self._count = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._count += 1
        if self._depth > _MOST_DEPTH or self._count > _MOST_ELEMENTS:
            raise BrokenImageError("the OVF descriptor has more elements, or deeper ones, than any package needs")
        self._builder.start(tag, attributes)

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._builder.end(tag)

    def refuse(self, *_: Any) -> None:
        raise BrokenImageError("the OVF descriptor has a document type, which no OVF has; entities are not read")

    def close(self) -> Element:
        return self._builder.close()


def _tree(text: str) -> Element:
    parser, tree = expat.ParserCreate(encoding="utf-8", namespace_separator="}"), _Tree()
    parser.StartDoctypeDeclHandler = tree.refuse
    parser.EntityDeclHandler = tree.refuse
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise BrokenImageError(f"the OVF descriptor is not XML: {error}") from None
    return tree.close()


def _local(name: str) -> str:
    """Without its namespace: three versions of OVF differ in nothing that we read but that."""
    return name.rpartition("}")[2]


def _attribute(element: Element, name: str) -> str:
    return next((value for key, value in element.attrib.items() if _local(key) == name), "")


def _all(root: Element, section: str, name: str) -> list[Element]:
    """Elements of this name in the sections of that name."""
    return [each for part in root if _local(part.tag) == section for each in part if _local(each.tag) == name]


def _files(root: Element) -> dict[str, File]:
    """By id."""
    found: dict[str, File] = {}
    for each in _all(root, "References", "File"):
        key, href = _attribute(each, "id"), _attribute(each, "href")
        if (compression := _attribute(each, "compression")) and compression.lower() != "identity":
            raise NotSupportedError(f"file {shown(href)}: is compressed ({shown(compression)}); pack it plainly")
        if _attribute(each, "chunkSize"):
            raise NotSupportedError(f"file {shown(href)}: is cut into chunks; pack it whole")
        if not key or key in found or any(file.href == href for file in found.values()):
            raise BrokenImageError(f"file {shown(href)}: is listed twice, or without an id")
        size = _attribute(each, "size")
        found[key] = File(check_href(href), _number(size, f"the size of file {shown(href)}") if size else None)
        if len(found) > MOST_FILES:
            raise BrokenImageError(f"the OVF descriptor lists more than {MOST_FILES} files")
    return found


def check_href(href: str) -> str:
    """A file's name, if it stays beside its descriptor.

    Raises:
        BrokenImageError: it does not.
    """
    bad = not href or has_control(href) or "\\" in href or href.startswith("/") or ".." in href.split("/")
    try:
        bad = bad or bool(urlsplit(href).scheme or urlsplit(href).netloc or urlsplit(href).query or "#" in href)
    except ValueError:
        bad = True
    if bad:
        raise BrokenImageError(f"file {shown(href)}: is no plain name of a file beside the descriptor")
    return href


def _check_disks(root: Element, files: set[str]) -> None:
    for each in _all(root, "DiskSection", "Disk"):
        disk = shown(_attribute(each, "diskId"))
        if (file := _attribute(each, "fileRef")) and file not in files:
            raise BrokenImageError(f"disk {disk}: its file {shown(file)} is not listed")
        kind = _attribute(each, "format")
        if file and "vmdk" not in kind.lower():
            raise NotSupportedError(f"disk {disk}: has the format {shown(kind)}; vSphere takes streamOptimized VMDK")
        if _attribute(each, "parentRef"):
            raise NotSupportedError(f"disk {disk}: stands on another disk; flatten it")
        _check_capacity(each, disk)


def _check_capacity(element: Element, disk: str) -> None:
    text = _attribute(element, "capacity")
    if text.startswith("${"):
        return  # a property of the package tells: vCenter knows which value counts
    unit = _UNITS.fullmatch(" ".join(_attribute(element, "capacityAllocationUnits").split()) or "byte")
    if unit is None:
        raise BrokenImageError(f"disk {disk}: its capacity is given in no known unit")
    base, exponent = int(unit[1] or 1), int(unit[2] or 1)
    size = _number(text, f"the capacity of disk {disk}") * (base**exponent if exponent < 100 else MOST_CAPACITY)
    if size > MOST_CAPACITY:
        raise BrokenImageError(f"disk {disk}: no virtual disk holds {MOST_CAPACITY >> 40} TiB, it asks for more")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise BrokenImageError(f"{what} is {shown(text)}, which is no number")
    return int(text)


# -- manifests ---------------------------------------------------------------------------------------------------------


def parse_manifest(data: bytes) -> dict[str, tuple[str, str]]:
    """Digests of a package's files by name: algorithm as hashlib names it, and hexadecimal digits, lower case.

    Raises:
        BrokenImageError: it is no manifest, or names an algorithm that is not known.
    """
    if len(data) > MOST_MANIFEST:
        raise BrokenImageError(f"the manifest is larger than {MOST_MANIFEST} bytes")
    found: dict[str, tuple[str, str]] = {}
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BrokenImageError("the manifest is not UTF-8") from None
    for line in filter(None, map(str.strip, lines)):
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            raise BrokenImageError(f"the manifest has the line {shown(line)}, which is no digest")
        algorithm, digits = ALGORITHMS.get(entry[1], ("", 0))
        if len(entry[3]) != digits:
            raise BrokenImageError(f"the manifest's digest of {shown(entry[2])} is no {' or '.join(ALGORITHMS)}")
        if entry[2] in found:
            raise BrokenImageError(f"the manifest has two digests of {shown(entry[2])}")
        found[entry[2]] = (algorithm, entry[3].lower())
    return found


# -- a disk without a package ------------------------------------------------------------------------------------------


def of_disk(href: str, size: int | None, capacity: int) -> Descriptor:
    """The descriptor of a machine with this one disk, from which vCenter makes the template's configuration.

    Args:
        size: bytes of the file, if that is known.
        capacity: bytes of the disk in it.
    """
    told = f' ovf:size="{size}"' if size is not None else ""
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:href="{href}" ovf:id="file1"{told}/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1" ovf:fileRef="file1"
      ovf:format="{STREAM_OPTIMIZED}"/>
  </DiskSection>
  <VirtualSystem ovf:id="image">
    <Info>A machine</Info>
    <OperatingSystemSection ovf:id="101" vmw:osType="other3xLinux64Guest">
      <Info>Guest</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>image</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:ElementName>1 CPU</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>1</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>1024 MB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>1024</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:ElementName>SCSI controller 0</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Hard disk 1</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""
    return Descriptor(text, (File(href, size),), ())


# -- what vCenter says of it -------------------------------------------------------------------------------------------


def refusal(errors: list[ProviderError]) -> ProviderError:
    """Everything that vCenter holds against a package, as one error; of the kind of the first.

    Args:
        errors: at least one.
    """
    first = errors[0]
    texts = dict.fromkeys(str(error) for error in errors)
    return type(first)("; ".join(texts))
