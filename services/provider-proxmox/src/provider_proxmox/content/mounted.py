"""Disks read from a storage of files that is mounted here as well, by a qemu-nbd of our own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from common.errors import HypervisorUnavailableError, NotSupportedError, ResourceNotFoundError

from provider_proxmox.config import disks
from provider_proxmox.content.nbd import Disk

TOOL = "qemu-nbd"
_START_SECONDS, _END_SECONDS = 30.0, 2.0


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
            socket = f"{directory}/nbd"
            await self._serve(path, kind, snapshot, socket, doing)
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                disk = Disk(reader, writer, doing)
                await disk.open()
                yield disk
                await disk.close()
            finally:  # qemu-nbd ends with its only client
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def path(self, volume: str) -> Path:
        """Source: get_subdir and path of PVE::Storage::Plugin; a linked clone is named with its base before it."""
        parts = volume.partition(":")[2].split("/")[-2:]
        return self._directories[disks.storage_of(volume)] / "images" / parts[0] / parts[-1]

    async def _serve(self, path: Path, kind: str, snapshot: str, socket: str, doing: str) -> None:
        """Have it listen: it returns when it does."""
        quoted = str(path).replace(",", ",,")
        source = f"driver={kind},force-share=on,file.driver=file,file.filename={quoted}"
        more = [f"--load-snapshot={snapshot}"] if snapshot else []
        command = [TOOL, "--read-only", "--fork", f"--socket={socket}", *more, "--image-opts", source]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                _, said = await process.communicate()
        except TimeoutError:
            raise HypervisorUnavailableError(f"{doing}: {TOOL} does not open {path}; does the mount answer?") from None
        finally:
            if process.returncode is None:
                process.kill()
                with contextlib.suppress(TimeoutError):  # not even that ends one that waits for a server
                    async with asyncio.timeout(_END_SECONDS):
                        await process.wait()
        if process.returncode:
            raise HypervisorUnavailableError(
                f"{doing}: {TOOL}: {' '.join(said.decode(errors='replace').split())[:300]}"
            )
