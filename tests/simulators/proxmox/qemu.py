"""Real QEMU processes behind the guests, emulated in software: what is installed on a disk boots, and says so.

Disks and NICs, firmware settings in part (BIOS only), serial lines and the guest agent's port are those of the config.
What needs the memory of a process is not kept: a guest that hibernates, goes back to a snapshot or moves boots anew.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import disks, guests
from .board import cpus
from .errors import refused
from .property_strings import NIC, parse
from .strings import NET, drives, is_cdrom, number
from .world import Guest, Running, World

BINARY = "qemu-system-x86_64"
MODELS = {"virtio": "virtio-net-pci"}  # others have the names that QEMU gives them
READY_SECONDS = 30.0
ANSWER_SECONDS = 10.0
CHUNK = 65536


@dataclass
class Machine:
    """One process."""

    run: Running
    folder: Path
    process: asyncio.subprocess.Process
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """At once, as a hard stop does."""
        if self.process.returncode is None:
            self.process.kill()


class Line:
    """A serial port of a guest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class Qemu:
    """The processes of a cluster."""

    def __init__(self, world: World) -> None:
        """The world's guests are backed from now on.

        Raises:
            RuntimeError: QEMU is not installed.
        """
        if shutil.which(BINARY) is None:
            raise RuntimeError(f"{BINARY} is not installed")
        self._world = world
        self._machines: dict[int, Machine] = {}
        world.hypervisor = self

    async def start(self, guest: Guest) -> None:
        """Start the process of a guest that has just been marked as running.

        Raises:
            PveError: QEMU does not take it; the guest is off again.
        """
        run, former = guest.run, self._machines.get(guest.vmid)
        assert run is not None, "the guest is marked as running"
        assert self._world.home is not None, "guests run while the cluster answers"
        if former is not None:
            await former.gone.wait()  # its locks on the disks end with it
        folder = self._world.home / "qemu" / str(guest.vmid)
        shutil.rmtree(folder, ignore_errors=True)  # sockets of the process before
        folder.mkdir(parents=True)
        with (folder / "log").open("wb") as log:
            arguments = command_line(self._world, guest, folder)
            process = await asyncio.create_subprocess_exec(
                BINARY, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        machine = Machine(run, folder, process)
        self._machines[guest.vmid] = machine
        guest.obeys = guest.agent = False  # the world must not answer for what really runs
        self._world.tasks.spawn(self._watch(guest, machine), f"qemu {guest.vmid}")
        if not await self._answers(guest, machine):
            guest.run = None
            raise refused(f"start failed: QEMU exited with code 1: {(folder / 'log').read_text().strip()[-500:]}")

    async def _answers(self, guest: Guest, machine: Machine) -> bool:
        """Wait until its monitor does, which it does once all devices are there; whether the process lived so long."""
        async with asyncio.timeout(READY_SECONDS):
            while machine.process.returncode is None:
                try:
                    await self.command(guest, "query-status")
                except OSError:  # no socket yet, or no process any more
                    await asyncio.sleep(0.02)
                else:
                    return True
        return False

    async def _watch(self, guest: Guest, machine: Machine) -> None:
        """Until the process ends, which may be the guest's own wish."""
        try:
            await machine.process.wait()
        finally:
            machine.end()
            machine.gone.set()
        if guest.run is machine.run:
            guests.crash(self._world, guest)

    def ended(self, guest: Guest) -> None:
        """The guest is off; its process goes with it."""
        machine = self._machines.get(guest.vmid)
        if machine is not None:
            machine.end()

    async def close(self) -> None:
        """End every process, and wait for it."""
        for machine in self._machines.values():
            machine.end()
            await machine.process.wait()

    async def command(self, guest: Guest, name: str) -> Any:
        """One command to the monitor: stop, cont, system_reset, system_powerdown.

        Raises:
            PveError: it was refused.
        """
        reader, writer = await self._connected(guest, "qmp")
        try:
            for asked in ("qmp_capabilities", name):
                writer.write(json.dumps({"execute": asked}).encode())
                told = await answer(reader)
            if "error" in told:
                raise refused(f"VM {guest.vmid} qmp command '{name}' failed - {told['error']['desc']}")
            return told["return"]
        finally:
            writer.close()

    async def agent(self, guest: Guest, name: str) -> Any:
        """One question to the guest agent.

        Raises:
            PveError: none answers.
        """
        reader, writer = await self._connected(guest, "agent")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(json.dumps({"execute": f"guest-{name}"}).encode())
                told = await answer(reader)
        except (TimeoutError, ConnectionError) as error:
            raise refused("QEMU guest agent is not running") from error
        finally:
            writer.close()
        if "error" in told:
            raise refused(f"Agent error: {told['error']['desc']}")
        return told["return"]

    async def line(self, guest: Guest, serial: str) -> Line:
        """A serial port."""
        return Line(*await self._connected(guest, serial))

    async def _connected(self, guest: Guest, socket: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        machine = self._machines[guest.vmid]
        return await asyncio.open_unix_connection(machine.folder / socket)


async def answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next answer; greetings and events are none.

    Raises:
        ConnectionError: the other end is gone.
    """
    while line := await reader.readline():
        told: dict[str, Any] = json.loads(line)
        if "return" in told or "error" in told:
            return told
    raise ConnectionError("the process is gone")


def command_line(world: World, guest: Guest, folder: Path) -> Iterator[str]:
    """QEMU's arguments for a guest's config."""
    config = guest.config
    machine = "q35" if "q35" in config.get("machine", "") else "pc"
    memory = number(config.get("memory", "512"))
    yield from ("-accel", "tcg", "-machine", machine, "-cpu", "max", "-smp", str(cpus(config)), "-m", str(memory))
    yield from ("-nodefaults", "-no-user-config", "-display", "none", "-name", guest.name.replace(",", ""))
    yield from ("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    if uuid := parse(config.get("smbios1", "")).get("uuid"):
        yield from ("-smbios", f"type=1,uuid={uuid}", "-uuid", uuid)
    yield from ("-device", "virtio-scsi-pci,id=scsi", "-device", "ahci,id=ahci")
    for key in sorted(key for key, value in config.items() if key.startswith("serial") and value == "socket"):
        yield from ("-chardev", f"socket,id={key},path={folder}/{key},server=on,wait=off", "-serial", f"chardev:{key}")
    if guests.agent_enabled(guest):
        yield from ("-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off")
        yield from ("-device", "virtio-serial-pci")
        yield from ("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")
    yield from drive_arguments(world, guest)
    for key in sorted(key for key in config if NET.fullmatch(key)):
        nic = parse(config[key], NIC)
        model = MODELS.get(nic["model"], nic["model"])
        yield from ("-netdev", f"user,id={key}", "-device", f"{model},netdev={key},mac={nic['macaddr']},id=dev-{key}")


def drive_arguments(world: World, guest: Guest) -> Iterator[str]:
    """The drives, each on its bus, in the order in which they boot."""
    order = parse(guest.config.get("boot", "")).get("order", "").split(";")
    for key, drive in drives(guest.config).items():
        bus, place = key.rstrip("0123456789"), number(key)
        if bus not in ("ide", "sata", "scsi", "virtio"):
            continue  # firmware's own
        media = "cd" if is_cdrom(drive) else "hd"
        if drive["file"] in disks.NO_VOLUME:
            if media == "cd" and bus != "virtio":
                yield from ("-device", device(bus, media, place))
            continue
        volume = world.volume(drive["file"], guest.node)
        assert volume is not None, "a start looks for the volumes first"
        file = disks.bytes_of_volume(world, guest.node, drive["file"])
        format = volume.format if volume.content == "images" else "raw"
        only = ",readonly=on" if media == "cd" else ""
        yield from ("-drive", f"file={file},format={format},if=none,id={key}{only}")
        boots = f",bootindex={order.index(key) + 1}" if key in order else ""
        yield from ("-device", f"{device(bus, media, place)},drive={key}{boots}")


def device(bus: str, media: str, place: int) -> str:
    """The drive's front end."""
    if bus == "virtio":
        return "virtio-blk-pci"
    if bus == "scsi":
        return f"scsi-{media},bus=scsi.0,scsi-id={place % 32},lun={place // 32}"
    if bus == "sata":
        return f"ide-{media},bus=ahci.{place}"
    return f"ide-{media},bus=ide.{place // 2},unit={place % 2}"
