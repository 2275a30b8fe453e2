"""The guest as a whole: it boots on both firmwares, obeys NoCloud data, and can be stopped, under emulation."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pycdlib
import pytest

GUEST = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.real

SAYS = "virtrigaud-guest: "
FIRMWARE = [Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")]


def nocloud_iso(path: Path, files: dict[str, str]) -> Path:
    """Write a volume labelled cidata with these files."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()
    return path


async def ask(address: Path, *requests: dict[str, Any], greeting: bool = False) -> dict[str, Any]:
    """Send JSON requests, each after the reply to the one before; the last reply. Events are passed over."""
    reader, writer = await asyncio.open_unix_connection(str(address))
    try:
        reply: dict[str, Any] = json.loads(await reader.readline()) if greeting else {}
        for request in requests:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            while True:
                line = await reader.readline()
                if not line:
                    return reply  # the machine ended: its answer to a shutdown
                reply = json.loads(line)
                if "return" in reply or "error" in reply:
                    break
        return reply
    finally:
        writer.close()


class Machine:
    """A guest under QEMU's emulator, with no libvirt in between.

    Attributes:
        lines: what it reported on its serial console, without the prefix.
    """

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.lines: list[str] = []
        self.raw: list[str] = []

    async def wait_for(self, start: str) -> str:
        """The first line of the guest's reports, said by now or later, that starts so."""
        for line in self.lines:
            if line.startswith(start):
                return line
        assert self._process.stdout is not None
        while data := await self._process.stdout.readline():
            text = data.decode(errors="replace").strip()
            self.raw.append(text)
            if SAYS in text:
                self.lines.append(text.partition(SAYS)[2])
                if self.lines[-1].startswith(start):
                    return self.lines[-1]
        raise AssertionError(f"the guest ended without saying {start!r}; it said {self.raw}")

    async def wait_ended(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.readline():
            text = data.decode(errors="replace").strip()
            if SAYS in text:
                self.lines.append(text.partition(SAYS)[2])
        await self._process.wait()

    async def type(self, text: str) -> None:
        """Type into the shell on the serial line."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        await self._process.stdin.drain()

    async def agent(self, command: str) -> dict[str, Any]:
        return await ask(self._folder / "agent", {"execute": command})

    async def qmp(self, command: str, **arguments: Any) -> dict[str, Any]:
        request = {"execute": command, "arguments": arguments}
        return await ask(self._folder / "qmp", {"execute": "qmp_capabilities"}, request, greeting=True)


@asynccontextmanager
async def boot(
    folder: Path, image: Path, seed: Path | None = None, *, uefi: bool = False, nic: str = "user", machine: str = "q35"
) -> AsyncIterator[Machine]:
    """Start a guest on an overlay of the image; it is ended at the end."""
    disk = folder / "disk.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(disk)]
    assert await (await asyncio.create_subprocess_exec(*create)).wait() == 0
    argv = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", machine, "-m", "256", "-nodefaults", "-display", "none"),
        *("-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"),
        *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
        *("-device", "virtio-scsi-pci", "-drive", f"file={disk},if=none,id=root"),
        *("-device", "scsi-hd,drive=root,bootindex=1"),
        *("-nic", f"{nic},model=virtio-net-pci,mac=52:54:00:12:34:56"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
    ]
    if seed is not None:
        argv += ["-drive", f"file={seed},format=raw,if=none,id=seed,readonly=on", "-device", "scsi-cd,drive=seed"]
    if uefi:
        code, variables = FIRMWARE
        shutil.copy(variables, folder / "vars.fd")
        argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
        argv += ["-drive", f"if=pflash,format=raw,file={folder}/vars.fd"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    try:
        yield Machine(process, folder)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


META = "instance-id: i-1\nlocal-hostname: from-meta\n"
STATIC = """\
version: 2
ethernets:
  nic0:
    match: {macaddress: "52:54:00:12:34:56"}
    addresses: [192.0.2.5/24]
    routes: [{to: default, via: 192.0.2.1}]
    nameservers: {addresses: [192.0.2.53]}
"""
USER = """\
#cloud-config
hostname: web
users:
- name: ann
  ssh_authorized_keys: [ssh-ed25519 AAAA ann]
write_files:
- path: /etc/demo/note
  permissions: '0640'
  content: |
    first
    second
packages: [vim]
runcmd:
- test "$(stat -c %a /etc/demo/note)" = 640 && grep -qx second /etc/demo/note
- [sh, -c, 'exit 3']
- ip route | grep -q 'via 192.0.2.1' && grep -q 192.0.2.53 /etc/resolv.conf
- grep -q ann /home/ann/.ssh/authorized_keys
"""


def real_part(there: object, what: str) -> None:
    """Skip for want of a part, or fail where REQUIRE_REAL=1 says that all must be there."""
    if not there:
        (pytest.fail if os.environ.get("REQUIRE_REAL", "0") not in ("", "0") else pytest.skip)(what)


@pytest.fixture(scope="module")
def image() -> Path:
    real_part(shutil.which("qemu-system-x86_64"), "qemu-system-x86_64 is missing (apt-get install qemu-system-x86)")
    build = subprocess.run([str(GUEST / "build.sh")], capture_output=True, text=True, check=False, timeout=300)
    real_part(build.returncode == 0, build.stderr)
    return Path(build.stdout.splitlines()[-1])


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="vrtg-guest-") as name:
        yield Path(name)


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
async def test_boots_and_obeys_nocloud_data(image: Path, folder: Path, firmware: str) -> None:
    """One disk boots on both firmwares; each key of user-data is carried out, or named as ignored."""
    real_part(firmware == "bios" or FIRMWARE[0].exists(), "OVMF is missing (apt-get install ovmf)")
    seed = nocloud_iso(folder / "seed.iso", {"meta-data": META, "user-data": USER, "network-config": STATIC})
    async with asyncio.timeout(60), boot(folder, image, seed, uefi=firmware == "uefi") as machine:
        ready = await machine.wait_for("ready seconds=")
        print(firmware, ready)
        expected = [
            "seed /dev/sr0",
            "ignored cloud-config packages",
            "instance-id=i-1",
            "hostname=web",
            "ip eth0 192.0.2.5/24",
            "disk sda 1073741824",
            "runcmd 1 ok",
            "runcmd 2 failed status=3",
            "runcmd 3 ok",
            "runcmd 4 ok",
        ]
        assert [line for line in machine.lines if line in expected] == expected
        await machine.qmp("system_powerdown")
        async with asyncio.timeout(10):
            await machine.wait_ended()
        assert machine.lines[-1] == "poweroff"


async def test_dhcp_agent_and_shell(image: Path, folder: Path) -> None:
    """Without NoCloud data it asks DHCP; the agent tells the address; the serial line is a shell."""
    async with asyncio.timeout(60), boot(folder, image, machine="pc") as machine:
        assert await machine.wait_for("seed") == "seed none"
        assert await machine.wait_for("ip eth0") == "ip eth0 10.0.2.15/24"
        await machine.wait_for("ready")
        assert (await machine.agent("guest-ping"))["return"] == {}
        interfaces = (await machine.agent("guest-network-get-interfaces"))["return"]
        addresses = {item["name"]: [a["ip-address"] for a in item.get("ip-addresses", [])] for item in interfaces}
        assert "10.0.2.15" in addresses["eth0"]
        await machine.type("echo virtrigaud-guest: $((6 * 7)) as $(id -un)")
        assert await machine.wait_for("42") == "42 as root"
        await machine.agent("guest-shutdown")
        async with asyncio.timeout(10):
            await machine.wait_ended()


async def test_can_ignore_a_shutdown(image: Path, folder: Path) -> None:
    """A test can have a guest that hangs on a graceful stop."""
    user = "#cloud-config\nruncmd:\n- [touch, /run/ignore-shutdown]\n"
    seed = nocloud_iso(folder / "seed.iso", {"meta-data": META, "user-data": user})
    async with asyncio.timeout(60), boot(folder, image, seed) as machine:
        await machine.wait_for("ready")
        await machine.qmp("system_powerdown")
        await machine.wait_for("shutdown ignored")
        assert (await machine.qmp("query-status"))["return"]["status"] == "running"


async def test_reads_mime_parts_scripts_and_network_version_1(image: Path, folder: Path) -> None:
    """What cloud-init accepts and our tools produce: several parts, a script, the older network format, set-name."""
    user = """\
Content-Type: multipart/mixed; boundary="==B=="
MIME-Version: 1.0

--==B==
Content-Type: text/cloud-config

#cloud-config
hostname: first
runcmd: [false]
--==B==
Content-Type: text/cloud-config

#cloud-config
fqdn: second.example.org
runcmd: [touch /run/a]
--==B==
Content-Type: text/x-shellscript

#!/bin/sh
test -e /run/a && test "$(hostname)" = second
--==B==--
"""
    network = """\
network:
  version: 1
  config:
  - type: physical
    name: lan0
    mac_address: '52:54:00:12:34:56'
    subnets:
    - {type: static, address: 192.0.2.6, netmask: 255.255.255.128, gateway: 192.0.2.1}
"""
    seed = nocloud_iso(folder / "seed.iso", {"meta-data": META, "user-data": user, "network-config": network})
    async with asyncio.timeout(60), boot(folder, image, seed) as machine:
        await machine.wait_for("ready")
        for line in ("hostname=second.example.org", "ip lan0 192.0.2.6/25", "runcmd 1 ok", "script 1 ok"):
            assert line in machine.lines
        assert not [line for line in machine.lines if line.startswith("error")]


async def test_broken_data_is_reported_and_the_guest_gets_ready(image: Path, folder: Path) -> None:
    """A typo in user-data must not take the console away from who has to find it."""
    files = {"meta-data": META, "user-data": "#cloud-config\nruncmd: [\n", "network-config": "version: 7\n"}
    seed = nocloud_iso(folder / "seed.iso", files)
    async with asyncio.timeout(60), boot(folder, image, seed) as machine:
        await machine.wait_for("ready")
        errors = [line for line in machine.lines if line.startswith("error")]
        assert len(errors) == 2
        assert errors[0].startswith("error user-data part 1:")
        assert errors[1] == "error network-config: version 7 is neither 1 nor 2"
        assert "hostname=from-meta" in machine.lines


async def test_reports_a_disk_that_grows(image: Path, folder: Path) -> None:
    """An online resize is seen from inside."""
    async with asyncio.timeout(60), boot(folder, image) as machine:
        await machine.wait_for("ready")
        reply = await machine.qmp("block_resize", device="root", size=2 << 30)
        assert reply == {"return": {}}
        await machine.wait_for(f"disk sda {2 << 30}")


def test_building_again_changes_nothing(image: Path) -> None:
    """The image is addressed by its inputs; equal inputs are no work."""
    before = image.stat()
    again = subprocess.run([str(GUEST / "build.sh")], capture_output=True, text=True, check=True, timeout=60)
    assert Path(again.stdout.splitlines()[-1]) == image
    assert "up to date" in again.stdout
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    digest = image.with_name(image.name + ".sha256").read_text().split()[0]
    assert (
        subprocess.run(["sha256sum", str(image)], capture_output=True, text=True, check=True).stdout.split()[0]
        == digest
    )
