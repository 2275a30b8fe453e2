"""Small packages for tests: a real stream-optimised disk, the descriptor of a machine with it, all of it as OVA."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping

from provider_vsphere.content.vmdk import Writer

CAPACITY = 1 << 20
DESCRIPTOR, DISK, MANIFEST = "small.ovf", "small-disk1.vmdk", "small.mf"

_PROPERTY = '<Property ovf:key="{}" ovf:type="string" ovf:userConfigurable="true"/>'


def vmdk(content: bytes = b"virtrigaud", capacity: int = CAPACITY) -> bytes:
    """A disk that begins with this content."""
    writer = Writer(capacity)
    return b"".join([writer.begin(), *writer.write(0, content), *writer.finish()])


def descriptor(
    size: int, *, disk: str = DISK, capacity: int = CAPACITY, properties: tuple[str, ...] = (), extra: str = ""
) -> bytes:
    """An OVF descriptor of a machine with one disk and one NIC.

    Args:
        size: bytes of the disk's file.
        extra: XML in front of its items.
    """
    product = "".join(map(_PROPERTY.format, properties))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References><File ovf:href="{disk}" ovf:id="file1" ovf:size="{size}"/></References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1" ovf:fileRef="file1"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection><Info>Networks</Info><Network ovf:name="lan"><Description>lan</Description></Network></NetworkSection>
  <VirtualSystem ovf:id="small">
    <Info>A machine</Info>
    <ProductSection><Info>Properties</Info>{product}</ProductSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
      {extra}
      <Item>
        <rasd:ElementName>SCSI controller</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Disk</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>lan</rasd:Connection>
        <rasd:ElementName>NIC</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
""".encode()


def manifest(files: Mapping[str, bytes], algorithm: str = "sha256") -> bytes:
    """Digests of these files."""
    lines = (f"{algorithm.upper()}({name})= {hashlib.new(algorithm, data).hexdigest()}" for name, data in files.items())
    return "\n".join(lines).encode() + b"\n"


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files, in this order."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def package(
    disk: bytes | None = None, *, algorithm: str = "sha256", properties: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """The files of a sound package, in the order of an OVA."""
    content = vmdk() if disk is None else disk
    files = {DESCRIPTOR: descriptor(len(content), properties=properties), DISK: content}
    return {DESCRIPTOR: files[DESCRIPTOR], MANIFEST: manifest(files, algorithm), DISK: content}


def ova(disk: bytes | None = None, *, algorithm: str = "sha256", properties: tuple[str, ...] = ()) -> bytes:
    """A sound OVA."""
    return tar(package(disk, algorithm=algorithm, properties=properties))
