"""A private libvirtd with real QEMU machines, and a pool on a small file system of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
from e2e.stack import Object
from libvirtd.fixtures import CACHE
from libvirtd.private import PrivateLibvirtd
from provider_libvirt import stamp

from .site import IMAGE, OWNER, SYSTEM, Found, Site

POOL_MIB = 256
_OF_MACHINE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-")
_OF_IMAGE = re.compile(r"(virtrigaud-image-.*)\.(?:qcow2|raw)")
_THEIRS = """\
<domain type='qemu'><name>{name}</name><uuid>{uid}</uuid><memory unit='MiB'>16</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{disk}'/><target dev='vda'/></disk></devices></domain>"""


class LibvirtSite(Site):
    """Machines are QEMU processes; libvirtd may die as it likes."""

    kind, module = "libvirt", "provider_libvirt"
    root_mib = 1024  # as the system image has it
    killable = pausable = fillable = boots = True
    points = ("libvirt.create.begun", "libvirt.create.files", "libvirt.create.defined", "libvirt.destroy.done")

    def __init__(self) -> None:
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; printing them besides says nothing new
        self._daemon = PrivateLibvirtd(CACHE / "libvirt-capabilities")
        self._home = Path()
        self._theirs: list[str] = []

    def open(self, home: Path) -> None:
        self._home = home
        blank = ["qemu-img", "create", "-q", "-f", "qcow2", str(home / "blank.qcow2"), "1M"]
        subprocess.run(blank, check=True, timeout=60)
        shutil.copyfile(CACHE / "images" / "virtrigaud-guest.qcow2", home / "system.qcow2")
        self._daemon.__enter__()
        options = f"size={POOL_MIB}m,mode=0755"
        self._daemon.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._daemon.pool_path))
        self._make_theirs()

    def _make_theirs(self) -> None:
        for name, runs in (("theirs-on", True), ("theirs-off", False)):
            disk = f"{self._daemon.pool_path}/{name}.img"
            self._daemon.run("dd", "if=/dev/urandom", f"of={disk}", "bs=64k", "count=4", "status=none")
            with self._connection() as connection:
                uid = str(uuid.uuid4())
                domain = connection.defineXML(_THEIRS.format(name=name, uid=uid, disk=disk))
                connection.storagePoolLookupByName(self._daemon.pool).refresh()
                if runs:
                    domain.create()
            self._theirs.append(uid)

    def close(self) -> None:
        self._daemon.close()

    @contextmanager
    def _connection(self) -> Iterator[libvirt.virConnect]:
        connection = libvirt.open(self._daemon.uri)
        try:
            yield connection
        finally:
            connection.close()

    def flags(self) -> list[str]:
        return ["--endpoint", self._daemon.uri, f"--image-directory={self._home}", "--spool-directory", str(self._home)]

    def spec(self) -> Object:
        return {"endpoint": self._daemon.uri}

    def images(self) -> dict[str, Object]:
        return {name: {"libvirt": {"path": f"{name}.qcow2"}} for name in (IMAGE, SYSTEM)}

    def unseen_image(self) -> Object:
        content = self._home / "unseen.raw"
        content.write_bytes(os.urandom(4 << 20))
        convert = ["qemu-img", "convert", "-q", "-O", "qcow2", str(content), str(self._home / "unseen.qcow2")]
        subprocess.run(convert, check=True, timeout=60)
        return {"libvirt": {"path": "unseen.qcow2"}}

    def network(self) -> Object:
        return {"libvirt": {"networkName": self._daemon.network}}

    # -- what is there -------------------------------------------------------------------------------------------------

    def found(self) -> list[Found]:
        with self._connection() as connection:
            domains = [each for each in connection.listAllDomains(0) if each.UUIDString() not in self._theirs]
            machines = [self._found(connection, domain) for domain in domains]
        return [machine for machine in machines if machine is not None]

    def _found(self, connection: libvirt.virConnect, domain: libvirt.virDomain) -> Found | None:
        try:
            root, state = ET.fromstring(domain.XMLDesc(0)), domain.state()[0]
            mark = stamp.read(ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
            disks = [
                connection.storageVolLookupByPath(source.get("file")).info()[1] >> 20
                for source in root.iterfind("devices/disk[@device='disk']/source")
            ]
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_VOL):
                return None  # it went since it was listed
            raise
        vcpu = root.find("vcpu")
        assert vcpu is not None
        return Found(
            uid=domain.UUIDString(),
            name=domain.name(),
            ours=mark is not None and mark.owner == OWNER,
            on=state == libvirt.VIR_DOMAIN_RUNNING,
            cpus=int(vcpu.get("current") or vcpu.text or 0),
            memory_mib=int(root.findtext("currentMemory") or 0) >> 10,
            disks_mib=tuple(sorted(disks)),
        )

    def orphans(self, living: Collection[str]) -> list[str]:
        """Images among them whose marker is missing: what is left of an upload."""
        with self._connection() as connection:
            pool = connection.storagePoolLookupByName(self._daemon.pool)
            pool.refresh()
            volumes = pool.listVolumes()
            running = {domain.name() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
        files = [name for name in volumes if (of := _OF_MACHINE.match(name)) and of[1] not in living]
        marked = {name.removesuffix(".json") for name in volumes if name.endswith(".json")}
        files += [name for name in volumes if (of := _OF_IMAGE.fullmatch(name)) and of[1] not in marked]
        return files + [f"QEMU of {guest.name}" for guest in self._daemon.guests() if guest.name not in running]

    def theirs(self) -> str:
        with self._connection() as connection:
            told = []
            for uid in self._theirs:
                domain = connection.lookupByUUIDString(uid)
                told.append(f"{domain.state()} {domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)}")
        return "".join(told) + self._daemon.run("sh", "-c", f"sha256sum {self._daemon.pool_path}/theirs-*")

    # -- what may be done to it ----------------------------------------------------------------------------------------

    def kill(self) -> None:
        self._daemon.kill()

    def start(self) -> None:
        self._daemon.start()

    def pause(self) -> None:
        self._daemon.pause()

    def resume(self) -> None:
        self._daemon.resume()

    def fill(self, spare_bytes: int) -> None:
        filler, pages = f"{self._daemon.pool_path}/filler", spare_bytes >> 12
        self._daemon.run(
            "sh", "-c", f"dd if=/dev/zero of={filler} bs=4k 2>/dev/null; truncate -s -{pages * 4}K {filler}"
        )

    def make_room(self) -> None:
        self._daemon.run("rm", "-f", f"{self._daemon.pool_path}/filler")

    def said(self) -> str:
        lines = [line for line in self._daemon.log.splitlines() if "virArpTableGet" not in line]  # once per look
        return "\n".join(["--- libvirtd", *lines[-12:]])
