"""Proxmox VE: descriptions with our records, property strings, guests, task logs, refusals, images, first-boot data."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common import v1
from common.clock import ManualClock
from common.errors import BrokenImageError, HypervisorUnavailableError, NotSupportedError, ProviderError
from provider_proxmox import comment, console, keeping, observed, rfb, snapshot_tree, stamp
from provider_proxmox.config import disks, nics, properties, sizes
from provider_proxmox.config.properties import Property
from provider_proxmox.content import native, nbd, ssh
from provider_proxmox.images import imagestamp, references, vmdk
from provider_proxmox.session import agents, index, line, pve_errors, reading, tasks
from provider_proxmox.session.clusterlog import ClusterLog
from provider_proxmox.session.details import Details
from provider_proxmox.session.index import Index, Node, Storage
from provider_proxmox.session.leases import Leases
from provider_proxmox.session.rows import GarbledError
from provider_proxmox.session.ticker import Ticker
from provider_proxmox.stamp import DiskStamp, NicStamp, Stamp

from fuzz.libvirt import on_wire
from fuzz.registry import CANARY, target, utf8
from fuzz.shapes import of_type

UID = "7a1e2f30-0000-4000-8000-000000000001"
OWNER = "home"
IDENTITY = v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner=OWNER)
STAMP = replace(
    stamp.of(IDENTITY, 101, created=1_753_000_000),
    made=True,
    disks=(DiskStamp("root", "scsi0", "local-lvm:vm-101-disk-0", image_id="debian"), DiskStamp("data", "scsi1")),
    nics=(NicStamp("lan", "net0", "NAT"),),
    cdroms={"setup": "ide0"},
    tags=("Blue",),
    settings={"memory.reservation_bytes": "1073741824", "cpu.shares": "100", "gpus": "1xa100"},
)
MARK = snapshot_tree.Mark(uid=UID, name="before", owner=OWNER, vmid=101)
IMAGE = imagestamp.ImageStamp(id=f"{UID}.0123456789abcdef", uid=UID, namespace="n", name="d", owner=OWNER, vmid=101)


# -- records in descriptions -------------------------------------------------------------------------------------------


@target(
    "proxmox.description",
    [stamp.written("for people", STAMP), stamp.written("", STAMP) + "\nafter", "<!-- virtrigaud {} -->", "plain"],
    inputs=600,
)
def description(data: bytes, read: Callable[[str], tuple[str, Stamp | None]] = stamp.read) -> None:
    """A stamp is whole or none, no word of people is lost, and what is written again reads the same."""
    given = utf8(data)
    words, found = read(given)
    if found is None:
        assert words == given
        return
    assert found.uid
    assert found.owner
    before, _, rest = given.rpartition(f"<!-- {stamp.TAG} ")
    assert words.startswith(before.rstrip())
    assert words.rstrip().endswith(rest.partition(" -->")[2].rstrip())
    if len(given) < comment.LIMIT // 8:
        assert read(comment.written(words, stamp.TAG, found)) == (words, found)


@target(
    "proxmox.records",
    [snapshot_tree.description("for people", MARK), imagestamp.written(IMAGE)],
    inputs=400,
)
def records(data: bytes) -> None:
    """The same of snapshots, images and guests that hold disks: garbled is none."""
    given = utf8(data)
    _, mark = snapshot_tree.read(given, 101)
    assert mark is None or mark.vmid == 101
    image = imagestamp.read(given, 101)
    assert image is None or (image.vmid == 101 and image.owner)
    keeping.held_by(index.Guest(101, "pve1", config={"description": given}))


@target("proxmox.image-id", [references.Reference(UID, "n", "d", "template", "debian", "pve1", linked=True).id()])
def image_id(data: bytes) -> None:
    """One image has one id."""
    found = references.parse(utf8(data))
    assert found is None or found.id() == utf8(data)


# -- property strings --------------------------------------------------------------------------------------------------


@target(
    "proxmox.property-string",
    [
        "local-lvm:vm-101-disk-0,size=8G,iops=100,ssd=1",
        "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,rate=10,mtu=1400,tag=7,trunks=1;2-4",
        "host,flags=+aes;-pcid,hidden=1",
        "a,a=,=a,,b=c=d",
    ],
)
def property_string(data: bytes, parse: Callable[[object], Property] = properties.parse) -> None:
    """What is not understood stays as it is, in its place, whatever is changed beside it."""
    given = parse(utf8(data))
    items = [part.partition("=") for part in utf8(data).split(",") if part.strip()]
    kept = [f"{k.strip()}={v}" if equals and k.strip() else (k + equals + v).strip() for k, equals, v in items]
    assert str(given) == ",".join(kept)
    again = parse(str(given))
    assert str(again) == str(given)
    changed = given.having({"zz": "1"})
    assert [item for item in changed.items if item[0] != "zz"] == [item for item in given.items if item[0] != "zz"]
    assert changed.get("zz") == "1"
    assert parse(str(changed)).get("zz") == "1"


@target("proxmox.device", ["local-lvm:vm-101-disk-0,size=8G", "virtio=BC:24:11:00:00:01,rate=1.5,mtu=1", "8T", "1.5G"])
def device(data: bytes) -> None:
    """Numbers in devices that people wrote by hand are numbers, or 0."""
    given = utf8(data)
    drive, nic = disks.Drive("scsi0", properties.parse(given)), nics.Nic("net0", properties.parse(given))
    for number, most in (
        (drive.size_bytes, 1 << 63), (sizes.parse(given), 1 << 63), (nic.vlan, 1 << 32), (nic.mtu, 1 << 32),
        (nic.rate_limit_bytes, 1 << 64), (disks.owner_of(given), 1 << 63),
    ):  # fmt: skip
        assert 0 <= number < most
    assert isinstance(nic.model + nic.mac + drive.medium, str)


# -- guests ------------------------------------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "name": "shop.web", "sockets": 1, "cores": 4, "vcpus": 2, "memory": "2048", "balloon": 1024, "cpuunits": 100,
    "scsi0": "local-lvm:vm-101-disk-0,size=8G,iops=100", "scsi1": "local-lvm:vm-101-disk-1,size=1G",
    "ide0": "local:iso/debian.iso,media=cdrom", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,rate=10",
    "net1": "model=e1000,macaddr=bc:24:11:00:00:02,bridge=vmbr1,tag=7", "tags": "blue;others;virtrigaud",
    "boot": "order=scsi0;ide0", "serial0": "socket", "digest": "d1", "description": stamp.written("text", STAMP),
    "meta": "creation-qemu=10.0.2,ctime=1753000000", "bios": "ovmf", "scsihw": "virtio-scsi-single",
    "tpmstate0": "local:vm-101-disk-3,version=v2.0", "smbios1": f"uuid={UID}", "machine": "q35,viommu=intel",
    "cpu": "host,flags=+nested-virt", "hotplug": "disk,network", "unused0": "local:vm-101-disk-9", "lock": "backup",
    "hostpci0": "mapping=a100,pcie=1", "efidisk0": "local:vm-101-disk-2,pre-enrolled-keys=1",
}  # fmt: skip
SNAPSHOTS = [
    {"name": "s1", "snaptime": 1_753_000_000, "vmstate": 1, "description": snapshot_tree.description("t", MARK)},
    {"name": "s2", "parent": "s1", "snaptime": 1_753_000_001, "snapstate": "prepare"},
    {"name": "current", "parent": "s2", "description": "You are here!"},
]
GUEST = {
    "config": CONFIG,
    "pending": {"cores": 2, "net0": None},
    "agent": {
        "hostname": "web",
        "osinfo": {"pretty-name": "Debian"},
        "interfaces": [
            {"name": "eth0", "hardware-address": "bc:24:11:00:00:01", "ip-addresses": [{"ip-address": "192.0.2.9"}]}
        ],
    },
    "snapshots": SNAPSHOTS,
}
_AGENT = {
    "hostname": str,
    "osinfo": {"pretty-name": str},
    "interfaces": [{"name": str, "hardware-address": str, "ip-addresses": [{"ip-address": str}]}],
}
_SNAPSHOT = [{"name": str, "parent": str, "snaptime": int, "vmstate": int, "description": str, "snapstate": str}]


@target("proxmox.guest", [json.dumps(GUEST)], refuses=(GarbledError,), inputs=1500)
def guest(data: bytes, machine: Callable[..., v1.Machine] = observed.machine) -> None:
    """Whatever people wrote into a configuration can be told on the wire, and is ours only by a whole stamp."""
    given = line.decoded(data)
    given = given if isinstance(given, dict) else {}
    config = {
        key: each for key, each in of_type(given.get("config"), {str: Any}).items() if isinstance(each, str | int)
    }
    pending = of_type(given.get("pending"), {str: Any})
    rows = [{"key": key, "value": each} for key, each in config.items()]
    rows += [
        {"key": key, "delete": 1} if each is None else {"key": key, "pending": each} for key, each in pending.items()
    ]
    one = reading.parsed(101, "pve1", {"status": "running", "name": "web"}, rows, "read a guest")
    one = replace(one, agent=of_type(given.get("agent"), _AGENT))
    known = Index()
    known.nodes["pve1"] = Node("pve1")
    known.storages["pve1", "local-lvm"] = Storage("local-lvm", "pve1", "lvmthin")
    known.put(one)
    for each in (one, replace(one, status="stopped", agent={})):
        seen = machine(each, known, OWNER)
        mark = each.stamp
        assert seen.owned is (mark is not None and mark.owner == OWNER and mark.vmid == 101)
        assert seen.owned or not any(disk.owned or disk.name for disk in seen.disks)
        on_wire(seen)
    snapshots = [row for row in of_type(given.get("snapshots"), _SNAPSHOT) if "name" in row]
    for node in snapshot_tree.nodes(snapshots, 101):
        on_wire(snapshot_tree.told(node, OWNER))
    known.drop(101)
    assert not known.with_uid(UID)


# -- lists of a cluster ------------------------------------------------------------------------------------------------

LISTS = {
    "cluster/resources": [
        {"type": "node", "node": "pve1", "status": "online", "maxcpu": 8, "cpu": 0.1, "maxmem": 1 << 34, "mem": 1},
        {"type": "storage", "node": "pve1", "storage": "local", "status": "available", "maxdisk": 9, "shared": 0},
        {"type": "qemu", "vmid": 101, "node": "pve1", "name": "web", "tags": "a", "lock": "", "pool": "p"},
        {"type": "sdn", "sdn": "zone"},
    ],
    "cluster/tasks": [{"upid": "UPID:pve1:0003A2D4:0051E1F8:66B1C0DE:qmstart:101:root@pam:", "status": "OK"}],
    "cluster/log": [{"node": "pve1", "uid": 1, "time": 1_753_000_000, "msg": "update VM 101: -memory 512"}],
    "cluster/sdn/ipams/pve/status": [{"mac": "BC:24:11:00:00:01", "ip": "192.0.2.9", "gateway": 0}],
    "nodes/pve1/qemu": [{"vmid": 101, "status": "running", "name": "web", "qmpstatus": "running"}],
    "nodes/pve1/network": [{"iface": "vmbr0", "type": "bridge"}, {"iface": "net1", "type": "vnet"}],
    "nodes/pve1/qemu/101/status/current": {"status": "running", "name": "web", "ha": {"managed": 0}},
    "nodes/pve1/qemu/101/pending": [{"key": "memory", "value": "512"}, {"key": "digest", "value": "d2"}],
    "nodes/pve1/qemu/101/snapshot": [{"name": "s1", "snaptime": 1}, {"name": "current"}],
}  # fmt: skip
GARBLED = [
    json.dumps(LISTS | {path: [{}, None, {"vmid": "x", "type": "qemu"}, *rows]})
    for path, rows in LISTS.items()
    if isinstance(rows, list)
]


class _Hasty(ManualClock):
    """Nobody waits."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@target("proxmox.lists", [json.dumps(LISTS), *GARBLED], inputs=600)
def lists(data: bytes, parsed: Callable[..., index.Guest] = reading.parsed) -> None:
    """No answer ends the looks at a cluster, and no garbled one has a guest gone of which the cluster knows."""
    given = line.decoded(data)
    given = given if isinstance(given, dict) else {}

    async def get(_doing: str, path: str, /, **_params: object) -> Any:
        if path == "cluster/nextid":
            raise pve_errors.VmidTakenError("taken")
        return given.get(path)

    async def look() -> Index:
        known, clock = Index(), _Hasty()
        reader = reading.Reader(get, known, clock=clock)
        one = parsed(
            101, "pve1", {"status": "running"}, [{"key": "description", "value": stamp.written("", STAMP)}], ""
        )
        reader.put(reader.begin(), one)
        details = Details(known, reader, clock=clock, concurrency=2)
        ticker = Ticker(get, known, reader, details, clock=clock, tick=1.0)
        await ticker._tried(ticker._first_look)
        ticker.known.set()
        log = ClusterLog(get, details.check)
        for look in (
            ticker._look_at_tasks, ticker._look_at_resources, lambda: ticker._look_at_node("pve1"),
            log.look, log.look, Leases(get, known).look, details.rotate, lambda: details.check(101),
            lambda: reader.refresh(101, "read"),
        ):  # fmt: skip
            await ticker._tried(look)
        return known

    containers = any(
        isinstance(row, dict) and row.get("type") == "lxc" for row in _rows(given.get("cluster/resources"))
    )
    known = asyncio.run(look())
    assert containers or known.with_uid(UID) or 101 in known.guests
    for each in known.guests.values():
        on_wire(observed.machine(each, known, OWNER))


def _rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


AGENT = {"result": [{"name": "eth0", "hardware-address": "bc:24:11:00:00:01", "ip-addresses": [{"ip-address": "::1"}]}]}


@target("proxmox.agent", [json.dumps(AGENT), json.dumps({"result": {"pretty-name": "Debian"}})])
def agent(data: bytes) -> None:
    """Whatever a guest says of itself can be told."""
    said = line.decoded(data)
    one = index.Guest(101, "pve1", status="running", config={"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"})
    answers = {"interfaces": agents.interfaces_of(said), "hostname": said, "osinfo": agents._result(said)}
    on_wire(observed.machine(replace(one, agent=answers), Index(), OWNER))
    for interface in answers["interfaces"]:
        for address in interface["ip-addresses"]:
            address.get("ip-address")


# -- tasks and refusals ------------------------------------------------------------------------------------------------

LOG = (
    "transferred 1.5 GiB of 8.0 GiB (18.75%)\ncreate full clone of drive scsi0 (local-lvm:base-9000-disk-0)\n"
    "drive-scsi0: transferred 0.0 B of 2.2 GiB (0.00%) in 0s\n  Logical volume created.\n 55% complete\nTASK OK\n"
)
UPID = "UPID:pve1:0003A2D4:0051E1F8:66B1C0DE:qmclone:101:root@pam!virtrigaud:"


@target("proxmox.task-log", [LOG, UPID, "progress 99% (read 2.0 GiB, duration 3 sec)", "1.5 GiB of 2 GB"], inputs=800)
def task_log(data: bytes, part_done: Callable[[str], float | None] = tasks.part_done) -> None:
    """A line of a log says a part between 0 and 1, or nothing."""
    given = utf8(data)
    for each in (given, *given.splitlines()):
        part = part_done(each)
        assert part is None or 0.0 <= part <= 1.0
        upid = tasks.parse_upid(each)
        assert upid is None or upid.text == each
        assert upid is None or upid.vmid is None or upid.vmid >= 0
    assert tasks.ended_well(given) in (True, False)


REFUSALS = (
    "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout", "zfs error: out of space",
    "Permission check failed (/vms/101, VM.Audit)", "unable to create VM 101 - VM 101 already exists",
    "VM is locked (snapshot-delete)",
    f"cipassword: {CANARY} is too short", f"set -cipassword={CANARY}", f"ssh-ed25519 {CANARY} me@home: invalid key",
    f"--sshkeys ssh-rsa%20{CANARY}%20me",
)  # fmt: skip


@target("proxmox.refusal", REFUSALS)
def refusal(data: bytes, from_text: Callable[[str, str], ProviderError] = pve_errors.from_text) -> None:
    """Any text becomes an error of ours, in one line, without what stands behind the name of a secret."""
    given = utf8(data)
    found = [from_text(given, "start m-1"), pve_errors.from_reply(400, given, {"cipassword": given}, "start m-1")]
    found += [pve_errors.from_reply(status, given, None, "start m-1") for status in (401, 403, 500, 501, 595, 596, 502)]
    for error in found:
        assert isinstance(error, ProviderError)
        assert len(str(error).splitlines()) <= 1
    for secret in (f"cipassword: {CANARY} ", f"cipassword={CANARY}", f"ssh-ed25519 {CANARY} ", f"sshkeys={CANARY}"):
        assert CANARY not in str(from_text(f"{given.replace(CANARY, '')} {secret}", "start m-1"))


# -- images and disks --------------------------------------------------------------------------------------------------

DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicSparse"
# Extent description
RW 2048 SPARSE "disk.vmdk"
"""


def _vmdk() -> bytes:
    head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 2048, 128, 1, 2)
    return head.ljust(512, b"\0") + DESCRIPTOR.ljust(1024, b"\0")


@target("proxmox.vmdk", [_vmdk()], refuses=(BrokenImageError,))
def vmdk_head(data: bytes) -> None:
    """A disk is told only of a file that stands alone."""
    found = vmdk.examine(data, "")
    assert found.name == "vmdk"
    assert 0 < found.capacity < 1 << 60


CLOUD = """#cloud-config
user: debian
password: kanarienvogel-4711
chpasswd: {expire: false}
ssh_authorized_keys: ["ssh-ed25519 AAAA me"]
package_upgrade: true
"""


@target("proxmox.cloud-config", [CLOUD], refuses=(NotSupportedError,), secret=True)
def cloud_config(data: bytes) -> None:
    """What has no field is refused; nothing is left out."""
    found = native._user(v1.MachineSpec(boot_data=v1.BootData(user_data=utf8(data))))
    assert set(found) <= {"ciuser", "cipassword", "sshkeys", "ciupgrade"}


# -- consoles and the disk plane ---------------------------------------------------------------------------------------


class _Line:
    """A peer that has said all of this, and then went."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def readexactly(self, count: int, /) -> bytes:
        if len(self._data) < count:
            raise asyncio.IncompleteReadError(self._data, count)
        found, self._data = self._data[:count], self._data[count:]
        return found

    async def read(self) -> bytes:
        found, self._data = self._data[:7], self._data[7:]
        return found

    def write(self, data: bytes, /) -> None:
        pass

    async def drain(self) -> None:
        pass

    async def swallow(self, data: bytes) -> None:
        pass


def _nbd() -> bytes:
    def reply(option: int, kind: int, data: bytes = b"") -> bytes:
        return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data

    def chunk(handle: int, kind: int, data: bytes, flags: int = 1) -> bytes:
        return struct.pack(">IHHQI", 0x668E33EF, flags, kind, handle, len(data)) + data

    hello = struct.pack(">8sQH", b"NBDMAGIC", 0x49484156454F5054, 3)
    options = reply(8, 1) + reply(10, 4, struct.pack(">I", 1) + b"base:allocation") + reply(10, 1)
    options += reply(7, 3, struct.pack(">HQH", 0, 1 << 20, 1)) + reply(7, 1)
    extents = chunk(1, 5, struct.pack(">IIIII", 1, 4096, 0, (1 << 20) - 4096, 3))
    return hello + options + extents + chunk(2, 1, struct.pack(">Q", 0) + b"x" * 4096)


@target("proxmox.nbd", [_nbd()], refuses=(HypervisorUnavailableError,), inputs=400)
def nbd_server(data: bytes) -> None:
    """A server of disks that sends nonsense is refused; what it sends never lies outside of the disk."""

    async def read() -> None:
        peer = _Line(data)
        disk = nbd.Disk(peer, peer, "read disk root")
        await disk.open()
        async for offset, content in disk.read(0):
            assert 0 <= offset <= offset + len(content) <= disk.size

    asyncio.run(read())


DISPLAYS = [rfb.VERSION + bytes([1, 2]) + bytes(20), rfb.VERSION + bytes([2, 1, 2, 2]) + bytes(20)]


@target("proxmox.rfb", DISPLAYS, refuses=(HypervisorUnavailableError, NotSupportedError))
def display(data: bytes) -> None:
    """Neither a display nor a client of it can keep us waiting for what never comes."""
    doorman, peer = rfb.Doorman(), _Line(data)
    sent = b""
    for start in range(0, len(data), 5):
        _, rest = doorman.take(data[start : start + 5])
        sent += rest
    assert data.endswith(sent)
    asyncio.run(rfb.log_in(rfb.Buffer(peer.read, "console"), peer.swallow, "password", "console"))


OPENED = {"port": "5900", "ticket": "PVEVNC:66B1C0DE::kanarienvogel", "user": "root@pam", "upid": "UPID:", "cert": ""}


@target("proxmox.console", [json.dumps(OPENED), json.dumps({**OPENED, "password": CANARY})],
        refuses=(GarbledError,), secret=True)  # fmt: skip
def console_answer(data: bytes) -> None:
    """A port and a ticket, which shows nowhere and stays one line."""
    opened = console.Opened.of(line.decoded(data), "open the console")
    assert 0 < opened.port < 1 << 16
    assert opened.ticket
    assert "\n" not in f"{opened.user}:{opened.ticket}"
    assert repr(opened) == f"Opened(port={opened.port}, user={opened.user!r})"


@target("proxmox.ssh-complaint", ["no snapshots within thin volumes", "disk\x1b[2J not found", "", " \n"])
def ssh_complaint(data: bytes) -> None:
    """What a command on a node says becomes one line, or nothing."""
    error = ssh.refusal(utf8(data), "pve1", "read disk root")
    assert error is None or str(error).isprintable()
