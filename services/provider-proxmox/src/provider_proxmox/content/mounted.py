"""Disks read from a storage of files that is mounted here as well, by a qemu-nbd of our own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from common.errors import HypervisorUnavailableError, NotSupportedError, ResourceNotFoundError

from provider_proxmox.config import disks
from provider_proxmox.content.nbd import Disk

TOOL = "qemu-nbd"
_START_SECONDS, _END_SECONDS = 30.0, 2.0
_LOOK_SECONDS = 0.02
"""Between two looks for its socket."""
_MOST_COMPLAINT = 300


class Mounted:
    """Directories of storages."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        """Args: directories: where each storage is mounted, by its name."""
        self._directories = directories

    def is_set_up(self) -> bool:
        """There is a storage to read from, and something that reads its formats."""
        return bool(self._directories) and shutil.which(TOOL) is not None

    def has(self, volume: str) -> bool:
        """The storage of this volume is one of ours."""
        return disks.storage_of(volume) in self._directories

    @asynccontextmanager
    async def open(self, volume: str, snapshot: str, doing: str) -> AsyncIterator[Disk]:
        """A volume, for reading; see `Ssh.open`."""
        path = self.path(volume)
        if not await asyncio.to_thread(path.is_file):  # a mount whose server is away answers nobody
            raise ResourceNotFoundError(f"{doing}: there is no {path}; is the storage mounted there?")
        kind = path.suffix.removeprefix(".")
        kind = kind if kind in ("qcow2", "vmdk") else "raw"
        if snapshot and kind != "qcow2":
            raise NotSupportedError(f"{doing}: only a qcow2 file has its snapshots within; {volume} is {kind}")
        with tempfile.TemporaryDirectory(prefix="virtrigaud-") as directory:
            socket, said = Path(directory, "nbd"), Path(directory, "said")
            async with _serving(path, kind, snapshot, socket, said) as server, AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(_START_SECONDS):
                        reader, writer = await _connected(server, socket, doing)
                        stack.push_async_callback(_close, writer)
                        disk = Disk(reader, writer, doing)
                        await disk.open()
                except TimeoutError:
                    message = f"{doing}: {TOOL} does not open {path}; does the mount answer?"
                    raise HypervisorUnavailableError(message) from None
                except HypervisorUnavailableError as error:
                    if complaint := _first_words(said):
                        raise HypervisorUnavailableError(f"{doing}: {TOOL}: {complaint}") from error
                    raise
                yield disk
                await disk.close()

    def path(self, volume: str) -> Path:
        """Source: get_subdir and path of PVE::Storage::Plugin; a linked clone is named with its base before it."""
        parts = volume.partition(":")[2].split("/")[-2:]
        return self._directories[disks.storage_of(volume)] / "images" / parts[0] / parts[-1]


@asynccontextmanager
async def _serving(path: Path, kind: str, snapshot: str, socket: Path, said: Path) -> AsyncIterator[Process]:
    """A qemu-nbd that opens a file, and is gone afterwards.

    By itself it ends with its only client, but not with one that leaves before they have agreed on what is served.

    Args:
        said: a file for its complaints.
    """
    quoted = str(path).replace(",", ",,")
    source = f"driver={kind},force-share=on,file.driver=file,file.filename={quoted}"
    more = [f"--load-snapshot={snapshot}"] if snapshot else []
    nothing = asyncio.subprocess.DEVNULL
    with said.open("wb") as complaints:
        process = await asyncio.create_subprocess_exec(
            TOOL, "--read-only", f"--socket={socket}", *more, "--image-opts", source,
            stdin=nothing, stdout=nothing, stderr=complaints,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it only reads: there is nothing for it to finish
        with contextlib.suppress(TimeoutError):  # not even that ends one that waits for a server
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()


async def _connected(server: Process, socket: Path, doing: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """With a qemu-nbd that has just been started. Raises: HypervisorUnavailableError: it has ended."""
    while server.returncode is None:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(socket)
        await asyncio.sleep(_LOOK_SECONDS)
    raise HypervisorUnavailableError(f"{doing}: {TOOL} has ended")


def _first_words(said: Path) -> str:
    return " ".join(said.read_text(errors="replace").split())[:_MOST_COMPLAINT]


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
