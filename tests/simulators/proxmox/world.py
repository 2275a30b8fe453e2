"""What there is in the simulated cluster: plain state, changed by the routes and by tests."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .access import ROOT, Access, Grant, Token, User
from .pace import Pace

if TYPE_CHECKING:
    from .backups import Archive
    from .board import Board
    from .consoles import Consoles, Pipe
    from .ha import Managers
    from .locks import FileLocks
    from .tasks import Tasks

GIB = 1 << 30
ROOT_PASSWORD = "secret"
USER = "virtrigaud@pve"
TOKEN = "provider"


@dataclass
class Node:
    """A host of the cluster. One that is not `online` answers nothing, and its guests are unknown."""

    name: str
    address: str
    online: bool = True
    cpus: int = 32
    memory: int = 256 * GIB
    disk: int = 64 * GIB  # of its root file system
    started: float = field(default_factory=time.time)
    bridges: set[str] = field(default_factory=lambda: {"vmbr0", "vmbr1"})
    cpu_load: float = 0.05
    memory_taken: int = 4 * GIB  # by the host itself


@dataclass
class Volume:
    """One volume of a storage."""

    volid: str
    content: str  # images, iso, import, snippets, backup, vztmpl
    format: str
    size: int
    used: int = 0
    vmid: int | None = None
    parent: str | None = None  # the base a linked clone lies on
    ctime: int = field(default_factory=lambda: int(time.time()))
    file: Path | None = None  # its bytes, where somebody may want them
    snapshots: dict[str, int] = field(default_factory=dict)  # name -> size then
    notes: str = ""


@dataclass
class Storage:
    """One storage of the cluster. Volumes of one that is not shared belong to a node.

    Attributes:
        kind: dir, nfs, lvmthin, zfspool, rbd, ...
    """

    name: str
    kind: str
    content: set[str]
    shared: bool = False
    nodes: set[str] | None = None  # where there is one; None: everywhere
    total: int = 1 << 40
    enabled: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    root: Path | None = None  # the directory that it is, for who mounts it; of one that is not shared, one per node
    volumes: dict[str, dict[str, Volume]] = field(default_factory=dict)  # node, or "" when shared -> volid -> volume

    @property
    def files(self) -> bool:
        """Whether volumes are files in directories, with formats to choose from."""
        return self.kind in ("dir", "nfs", "cifs", "cephfs", "btrfs")

    def on(self, node: str) -> dict[str, Volume]:
        """The volumes as `node` sees them; snippets that somebody wrote into the directory are among them."""
        volumes = self.volumes.setdefault("" if self.shared else node, {})
        if self.root is not None and "snippets" in self.content:
            self._adopt(volumes, self.folder(node) / "snippets")
        return volumes

    def folder(self, node: str) -> Path:
        """Where the files of a node lie, for a storage with a `root`."""
        assert self.root is not None
        return self.root if self.shared else self.root / node

    def _adopt(self, volumes: dict[str, Volume], folder: Path) -> None:
        found = {file.name: file for file in folder.iterdir()} if folder.is_dir() else {}
        for volid in [v.volid for v in volumes.values() if v.content == "snippets" and v.file is not None]:
            if volid.rpartition("/")[2] not in found:
                del volumes[volid]
        for name, file in found.items():
            volid = f"{self.name}:snippets/{name}"
            size = file.stat().st_size
            volumes[volid] = Volume(volid, "snippets", "snippet", size, used=size, file=file)

    def there(self, node: str) -> bool:
        """Whether `node` has it."""
        return self.nodes is None or node in self.nodes

    def used(self, node: str) -> int:
        return sum(volume.used for volume in self.on(node).values())


@dataclass
class Snapshot:
    """A state of a guest that it can go back to. The config is as it was, without bookkeeping."""

    name: str
    config: dict[str, str]
    parent: str = ""
    time: int = field(default_factory=lambda: int(time.time()))
    description: str = ""
    vmstate: str = ""  # the volume with the memory
    state: str = ""  # `prepare` or `delete` while a task works on it


@dataclass
class Running:
    """A QEMU process."""

    pid: int
    machine: str
    since: float = field(default_factory=time.time)
    status: str = "running"  # as QMP tells it: running, paused, prelaunch, ...


@dataclass
class Guest:
    """A virtual machine.

    Attributes:
        config: as the file has it, and as it runs: what has to wait for a start is pending. Numbers are text here.
        pending: values that wait for the next start.
        dropped: keys that will be deleted by the next start.
        obeys: whether what runs inside reacts to the power button.
        agent: whether a guest agent answers inside, given that the config allows one.
    """

    vmid: int
    node: str
    config: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    parent: str = ""  # the snapshot that the present state descends from
    lock: str = ""
    vmstate: str = ""  # the volume with the memory of a hibernated guest
    generated: dict[str, str] = field(default_factory=dict)  # what the cloud-init drive was made from
    reboot: bool = False  # start again once it is off
    run: Running | None = None
    obeys: bool = True
    agent: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # what the agent tells: host name, interfaces, ...

    @property
    def status(self) -> str:
        return "running" if self.run else "stopped"

    @property
    def name(self) -> str:
        return self.config.get("name", f"VM {self.vmid}")

    @property
    def template(self) -> bool:
        return self.config.get("template") == "1"

    @property
    def protected(self) -> bool:
        return self.config.get("protection") == "1"

    def text(self) -> str:
        """The config file; what the digest is made of."""
        lines = [f"#{line}" for line in self.config.get("description", "").splitlines()]
        lines += [f"{key}: {value}" for key, value in sorted(self.bookkept.items()) if key != "description"]
        if self.pending or self.dropped:
            lines += ["[PENDING]", f"delete: {','.join(sorted(self.dropped))}"]
            lines += [f"{key}: {value}" for key, value in sorted(self.pending.items())]
        for snapshot in self.snapshots.values():
            lines += [f"[{snapshot.name}]", f"{snapshot}"]
        return "\n".join(lines)

    @property
    def bookkept(self) -> dict[str, str]:
        """The config with the keys that Proxmox VE keeps for itself."""
        own = {"lock": self.lock, "parent": self.parent, "vmstate": self.vmstate}
        return self.config | {key: value for key, value in own.items() if value}

    @property
    def digest(self) -> str:
        """SHA-1 of the config file."""
        return hashlib.sha1(self.text().encode()).hexdigest()


@dataclass
class Pool:
    poolid: str
    comment: str = ""
    storages: set[str] = field(default_factory=set)


@dataclass
class Vnet:
    """A virtual network of the cluster; every node has it."""

    zone: str
    tag: int = 0


LOCAL_ZONE = "localnetwork"  # of the bridges that nodes have by themselves


class Hypervisor(Protocol):
    """Something real behind the guests."""

    async def start(self, guest: Guest) -> None: ...

    def ended(self, guest: Guest) -> None: ...

    async def command(self, guest: Guest, name: str) -> Any: ...  # what QMP answers

    async def agent(self, guest: Guest, name: str) -> Any: ...  # what the agent answers

    async def line(self, guest: Guest, serial: str) -> Pipe: ...


class World:
    """A cluster: `local` and `local-lvm` on every node, `shared` everywhere, `vmbr0` and `vmbr1`."""

    tasks: Tasks
    locks: FileLocks
    board: Board
    managers: Managers
    consoles: Consoles

    def __init__(
        self, nodes: tuple[str, ...] = ("pve1", "pve2", "pve3"), pace: Pace | None = None, seed: int = 0
    ) -> None:
        # Here, since all of these know the world.
        from .board import Board
        from .consoles import Consoles
        from .ha import Managers
        from .locks import FileLocks
        from .tasks import Tasks

        self.pace = pace or Pace()
        self.random = random.Random(seed)
        self.obeys = True  # whether guests that come into being react to the power button
        self.name = "sim"
        self.nodes = {name: Node(name, f"192.0.2.{place}") for place, name in enumerate(nodes, 1)}
        self.guests: dict[int, Guest] = {}
        self.storages = {storage.name: storage for storage in default_storages()}
        self.archives: dict[str, Archive] = {}  # what is in volumes of backups
        self.pools: dict[str, Pool] = {}
        self.ha: dict[str, dict[str, Any]] = {}  # sid (vm:101) -> its options
        self.ha_rules: dict[str, dict[str, Any]] = {}
        self.vnets: dict[str, Vnet] = {}
        self.log: list[dict[str, Any]] = []  # of the cluster, oldest first
        self.leases: dict[str, tuple[str, str]] = {}  # MAC in upper case -> vnet and address that the IPAM gave out
        self.mappings: dict[str, dict[str, dict[str, Any]]] = {}  # kind (pci, usb) -> id -> its options
        self.access = Access(self.pace.ticket)
        self.access.users[ROOT] = User(password=ROOT_PASSWORD)
        token = Token(secret="00000000-0000-4000-8000-000000000000", privsep=False)
        self.access.users[USER] = User(password=ROOT_PASSWORD, tokens={TOKEN: token})
        self.access.grants.add(Grant("/", "Administrator", "user", USER))
        self.hypervisor: Hypervisor | None = None
        self.locks = FileLocks(self.pace)
        self.home: Path | None = None  # where bytes of volumes are, while the cluster answers
        self.tasks = Tasks(self)
        self.board = Board(self)
        self.managers = Managers(self)
        self.consoles = Consoles(self)

    def on(self, node: str) -> Iterator[Guest]:
        """The guests of a node."""
        return (guest for guest in list(self.guests.values()) if guest.node == node)

    def storage(self, name: str) -> Storage:
        """A storage by name; the text is what every caller of a missing one reads."""
        from .errors import refused

        if name not in self.storages:
            raise refused(f"storage '{name}' does not exist")
        return self.storages[name]

    def volume(self, volid: str, node: str) -> Volume | None:
        """A volume as `node` sees it."""
        storage = self.storages.get(volid.partition(":")[0])
        return storage.on(node).get(volid) if storage else None

    def change_pace(self, pace: Pace) -> None:
        """From now on; what has begun goes on as fast as it began."""
        self.pace = pace
        self.locks.pace = pace

    def networks(self, node: str) -> set[str]:
        """What a NIC can be plugged into on a node."""
        return self.nodes[node].bridges | self.vnets.keys()

    def network_path(self, name: str) -> str:
        """Where rights on a network are granted."""
        return f"/sdn/zones/{self.vnets[name].zone if name in self.vnets else LOCAL_ZONE}/{name}"

    def note(self, user: str, node: str, text: str) -> None:
        """Write a line into the cluster's log."""
        line = {"uid": len(self.log) + 1, "time": int(time.time()), "pri": 6, "tag": "pvedaemon", "pid": 1000}
        self.log.append(line | {"node": node, "user": user, "msg": text})

    def uuid(self) -> str:
        """A random UUID of this world."""
        text = f"{self.random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def mac(self) -> str:
        """A MAC address with the prefix of Proxmox Server Solutions."""
        return "BC:24:11:" + ":".join(f"{self.random.randrange(256):02X}" for _ in range(3))

    def today(self) -> str:
        """The date, as names of volumes have it."""
        return time.strftime("%Y-%m-%d")

    def pool_of(self, vmid: int) -> str:
        return self.access.pool_of.get(vmid, "")

    def add_guest(self, vmid: int, node: str, config: Mapping[str, str] | None = None) -> Guest:
        """A guest that is simply there, as one made long ago; no disks unless the config names them."""
        made = Guest(
            vmid, node, {"smbios1": f"uuid={self.uuid()}", "memory": "512", **(config or {})}, obeys=self.obeys
        )
        self.guests[vmid] = made
        return made


def default_storages() -> list[Storage]:
    """As an installation sets them up, plus one that all nodes share."""
    files = {"iso", "vztmpl", "backup", "snippets", "import"}
    return [
        Storage("local", "dir", set(files), options={"path": "/var/lib/vz"}),
        Storage("local-lvm", "lvmthin", {"images", "rootdir"}, options={"vgname": "pve", "thinpool": "data"}),
        Storage("shared", "nfs", files | {"images", "rootdir"}, shared=True, options={"path": "/mnt/pve/shared"}),
    ]
