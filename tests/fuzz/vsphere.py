"""vSphere: OVF descriptors and manifests, disks on the wire, stamps in extra configuration, what vCenter says."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from types import SimpleNamespace

from common.errors import BrokenImageError, NotSupportedError, ProviderError
from provider_vsphere import observed
from provider_vsphere.config import devices, hardware
from provider_vsphere.content import vmdk
from provider_vsphere.images import ovf, references
from provider_vsphere.session import snapshot_tree, vapi
from provider_vsphere.session.tree import Tree
from provider_vsphere.session.watched import STAMP
from provider_vsphere.stamps import imagestamp, stamp, uploadstamp
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp
from pyVmomi import vim

from fuzz.libvirt import on_wire
from fuzz.registry import parts, target, text, utf8

UID = "5f7d9a1e-1c1f-4c2b-8a55-3f0f6f1d2c3b"
OWNER = "home"
MAC = "00:50:56:00:00:01"
MARK = Stamp(
    uid=UID, namespace="shop", name="web", owner=OWNER, created=1_753_000_000, boot_digest="d", tags=("a",),
    disks=(DiskStamp("root", "scsi0:0", image_id="i"),), nics=(NicStamp("lan", MAC, network="VM Network"),),
    settings={"memory.size_bytes": "1073741824", hardware.HARDWARE_VERSION_KEY: "vmx-19"}, cdroms={"cd": "sata0:0"},
    attributes={"cost": 7}, tag_ids={"a": "urn:1"},
)  # fmt: skip
IMAGE = imagestamp.ImageStamp(
    id=f"{UID}.0123456789abcdef", uid=UID, namespace="n", name="d", owner=OWNER, complete=True
)
UPLOAD = uploadstamp.UploadStamp(UID, "root", OWNER)


# -- packages ----------------------------------------------------------------------------------------------------------


@target(
    "vsphere.ovf",
    [ovf.of_disk("disk.vmdk", 1 << 20, 1 << 30).text],
    refuses=(BrokenImageError, NotSupportedError),
    inputs=600,
)
def descriptor(data: bytes, parse: Callable[[bytes], ovf.Descriptor] = ovf.parse) -> None:
    """Every file lies beside the descriptor, and its size is a number."""
    found = parse(data)
    assert len({file.href for file in found.files}) == len(found.files)
    for file in found.files:
        assert ovf.check_href(file.href) == file.href
        assert ".." not in file.href.split("/")
        assert file.size is None or file.size >= 0


MANIFEST = f"SHA256(image.ovf)= {'ab' * 32}\nSHA1 (disk.vmdk) = {'cd' * 20}\n"


@target("vsphere.ovf-manifest", [MANIFEST], refuses=(BrokenImageError,))
def manifest(data: bytes) -> None:
    """A digest is as long as its algorithm says."""
    for algorithm, digest in ovf.parse_manifest(data).values():
        assert len(digest) == {"sha1": 40, "sha256": 64, "sha512": 128}[algorithm]


def _disk() -> bytes:
    writer = vmdk.Writer(4 * vmdk.GRAIN)
    return writer.begin() + b"".join(writer.write(0, b"x" * vmdk.GRAIN)) + b"".join(writer.finish())


def _header(sector: int = 0) -> bytes:
    """The least that there is: one small grain of the one that the disk has room for, and its end."""
    head = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 3, 3 << 16, 8, 8, 0, 0, 512, 0, 0, 1, 0, b"\n \r\n", 1).ljust(
        512, b"\0"
    )
    packed = zlib.compress(b"y" * 4096)
    return head + (struct.pack("<QI", sector, len(packed)) + packed).ljust(512, b"\0") + bytes(512)


@target(
    "vsphere.vmdk",
    [_header(), _disk()[: 60 << 10]],
    bad=[_header(3), _header(80)],
    refuses=(BrokenImageError,),
    inputs=400,
)
def disk(data: bytes, reader: Callable[[str], vmdk.Reader] = vmdk.Reader) -> None:
    """Grains ascend within the capacity, and are the same however the bytes come."""
    told = []
    for piece in (len(data) or 1, 700):
        found, one = [], reader("disk root")
        end = 0
        try:
            for start in range(0, len(data), piece):
                for offset, content in one.feed(data[start : start + piece]):
                    assert end <= offset
                    end = offset + len(content)
                    assert end <= one.capacity
                    found.append((offset, content))
            one.close()
            told.append((found, ""))
        except BrokenImageError as error:
            told.append((found, str(error)))
    assert told[0] == told[1]


# -- stamps ------------------------------------------------------------------------------------------------------------


@target("vsphere.stamp", [MARK.text()], inputs=800)
def machine_stamp(data: bytes, read: Callable[[str | None], Stamp | None] = stamp.read) -> None:
    """A garbled stamp is none; whatever a whole one says can be told on the wire."""
    found = read(utf8(data))
    if found is None:
        return
    assert found.uid
    assert found.owner
    assert read(found.text()) == found
    tree = _tree()
    entity = tree.get("vm-1")
    assert entity is not None
    entity.facts[STAMP] = utf8(data)
    seen = observed.machine(entity, tree, OWNER)
    assert not seen.owned or (found.owner == OWNER and found.uid == UID)
    on_wire(seen)


def _tree() -> Tree:
    dev = vim.vm.device
    backing = dev.VirtualDisk.FlatVer2BackingInfo(fileName="[shared] web/web.vmdk", thinProvisioned=True)
    card = dev.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
    board = [
        dev.ParaVirtualSCSIController(key=1000, busNumber=0),
        dev.VirtualAHCIController(key=15000, busNumber=0),
        dev.VirtualCdrom(key=16000, controllerKey=15000, unitNumber=0),
        dev.VirtualDisk(key=2000, controllerKey=1000, unitNumber=0, capacityInBytes=1 << 30, backing=backing),
        dev.VirtualVmxnet3(key=4000, macAddress=MAC, backing=card),
    ]
    tree = Tree()
    tree.put("Folder", "group-v1", {"name": "vm"})
    facts = {
        "name": "web", "parent": "group-v1", "config.instanceUuid": UID, "config.hardware.device": board,
        "config.hardware.memoryMB": 1024, "config.hardware.numCPU": 2, "runtime.powerState": "poweredOn",
        "config.annotation": "text", "config.version": "vmx-19",
    }  # fmt: skip
    tree.put("VirtualMachine", "vm-1", facts)
    return tree


@target("vsphere.other-stamps", [IMAGE.text(), UPLOAD.text()], inputs=400)
def other_stamps(data: bytes) -> None:
    """The same of images and uploads."""
    image = imagestamp.read(utf8(data), imagestamp.instance_uuid(IMAGE.id))
    assert image is None or (image.id == IMAGE.id and image.owner)
    upload = uploadstamp.read(utf8(data), UPLOAD.instance_uuid())
    assert upload is None or (upload.uid == UID and upload.disk == "root")


@target("vsphere.image-id", [references.Reference(UID, "n", "d", "/DC0/vm/debian", "s").id()])
def image_id(data: bytes) -> None:
    """One image has one id."""
    found = references.parse(text(data))
    assert found is None or found.id() == text(data)


SNAPSHOT = f'for people\n[virtrigaud snapshot {UID} of {OWNER}]\n[virtrigaud reverts: {{"root": "[s] a.vmdk"}}]'


@target("vsphere.snapshot", [SNAPSHOT, f"[virtrigaud base of clone {UID} of {OWNER}]"])
def snapshot(data: bytes) -> None:
    """A line of ours is whole or text for people."""
    node = snapshot_tree.Node(
        "snapshot-1", "", "s", utf8(data), observed.datetime.datetime.now(), "poweredOff", False, True
    )
    assert node.uid("another") == "" or "of another]" in node.description
    assert node.kept is None or all(isinstance(path, str) for path in node.kept.values())
    assert isinstance(node.text, str)


# -- what vCenter and guests say ---------------------------------------------------------------------------------------

VAPI = {
    "error_type": "UNAUTHORIZED",
    "messages": [{"id": "vapi.x", "default_message": "no", "args": []}],
    "data": {"required_privileges": ["a", "b"]},
}
VAPI_OLD = {"type": "com.vmware.vapi.std.errors.not_found", "value": {"messages": [{"default_message": "gone"}]}}


@target("vsphere.refusal", [json.dumps(VAPI), json.dumps(VAPI_OLD), "<html>502</html>"], inputs=500)
def refusal(data: bytes, error: Callable[[int, bytes, str], ProviderError] = vapi._error) -> None:
    """Any body becomes an error of ours."""
    for status in (400, 401, 404, 500, 503):
        assert isinstance(error(status, data, "tag m-1"), ProviderError)


@target("vsphere.guest", ["web\0" + MAC + "\0" + "192.0.2.7%eth0\0why"])
def guest(data: bytes) -> None:
    """Names and addresses that a guest's tools tell are words and addresses, or left out."""
    name, mac, address, question = (utf8(part) for part in parts(data, 4))
    tree = _tree()
    entity = tree.get("vm-1")
    assert entity is not None
    entity.facts |= {
        "guest.toolsRunningStatus": "guestToolsRunning", "guest.hostName": name, "guest.guestFullName": name,
        "guest.ipAddress": address, "runtime.question": SimpleNamespace(text=question), "config.annotation": question,
        "guest.net": [SimpleNamespace(ipConfig=None, ipAddress=[address], macAddress=mac)], "config.version": name,
    }  # fmt: skip
    seen = observed.machine(entity, tree, OWNER)
    assert not seen.owned
    assert seen.guest is not None
    assert seen.guest.hostname.isprintable()
    on_wire(seen)
    assert devices.cdrom_at(entity.facts["config.hardware.device"], name) is None or name == "sata0:0"
    assert hardware.version_number(name) >= 0
