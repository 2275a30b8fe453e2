"""SSH on the nodes of the simulated cluster: the one command that VirtRigaud is allowed, which is really run."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh

from .disks import bytes_of_volume
from .errors import PveError
from .images import keep_snapshot
from .server import Proxmox
from .world import World

COMMAND = Path(__file__).parents[3] / "deploy" / "proxmox" / "virtrigaud-disk"
USER = "virtrigaud"
END_SECONDS = 20.0


class Sshd:
    """One server, which is every node's.

    Attributes:
        key: that it takes, in OpenSSH's form.
        asked: commands that came.
        idle: set while no command runs.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._mine = asyncssh.generate_private_key("ssh-ed25519")
        self._theirs = asyncssh.generate_private_key("ssh-ed25519")
        self.key = self._theirs.export_private_key().decode()
        self.asked: list[str] = []
        self.idle = asyncio.Event()
        self.idle.set()
        self._sessions = 0
        self.port = 0

    def known_hosts(self, *nodes: str) -> str:
        """What a person who trusts these nodes has written down."""
        public = self._mine.export_public_key().decode().strip()
        return "".join(f"{node} {public}\n" for node in nodes or self._world.nodes)

    def credentials(self, directory: Path) -> Path:
        """The files that a provider wants."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ssh_user").write_text(USER)
        (directory / "ssh_privatekey").write_text(self.key)
        (directory / "known_hosts").write_text(self.known_hosts())
        return directory

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Sshd]:
        """Answer, at a port of its own choice."""
        with tempfile.TemporaryDirectory(prefix="sshd-") as directory:
            allowed = Path(directory) / "authorized_keys"
            allowed.write_bytes(b"restrict " + self._theirs.export_public_key())
            server = await asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[self._mine],
                authorized_client_keys=str(allowed),
                process_factory=self._run,
                encoding=None,
                allow_scp=False,
            )
            self.port = server.get_port()
            for node in self._world.nodes.values():
                node.address = "127.0.0.1"
            try:
                yield self
            finally:
                server.close()
                await server.wait_closed()
                async with asyncio.timeout(END_SECONDS):
                    await self.idle.wait()  # commands of those who have gone end by themselves

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """As a forced command does: it is told what was asked for."""
        command = process.command or ""
        self.asked.append(command)
        self._sessions += 1
        self.idle.clear()
        try:
            with tempfile.TemporaryDirectory(prefix="node-") as directory:
                await self._serve(process, command, Path(directory))
        finally:
            self._sessions -= 1
            if not self._sessions:
                self.idle.set()

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes], command: str, directory: Path) -> None:
        try:
            path = await self._path(command.split())
        except PveError as error:
            path = ""
            process.stderr.write(f"{error.reason}\n".encode())
        pvesm = directory / "pvesm"
        pvesm.write_text(f"#!/bin/sh\necho '{path}'\n" if path else "#!/bin/sh\nexit 2\n")
        pvesm.chmod(0o755)
        environment = {"PATH": f"{directory}:{os.environ['PATH']}", "SSH_ORIGINAL_COMMAND": command}
        pipe = asyncio.subprocess.PIPE
        running = await asyncio.create_subprocess_exec(
            str(COMMAND), stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=directory
        )
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_pump(process.stdin, running.stdin))
                group.create_task(_pump(running.stderr, process.stderr))
                await _pump(running.stdout, process.stdout)
                asking.cancel()
                running.stdin.close()
                while await running.stdout.read(1 << 18):  # its reader has gone, and it would wait to be read for ever
                    pass
        finally:
            running.stdin.close()
            if running.returncode is None and process.is_closing():
                running.kill()
            await running.communicate()
        process.exit(running.returncode or 0)

    async def _path(self, words: list[str]) -> str:
        """Where a volume is; a snapshot of it is there from now on. Nobody writes to it here, so it is as it was."""
        volume = words[1] if len(words) > 1 else ""
        node = next((node for node in self._world.nodes if self._world.volume(volume, node) is not None), "")
        if not node:
            return ""
        path = bytes_of_volume(self._world, node, volume)
        kept = self._world.volume(volume, node)
        if len(words) > 2 and kept is not None and words[2] in kept.snapshots:
            await keep_snapshot(path, words[2])
        return str(path)


async def _pump(source: Any, target: Any) -> None:
    """Until one side ends it. Streams of asyncio and of asyncssh, which look alike."""
    try:
        while data := await source.read(1 << 18):
            target.write(data)
            await target.drain()
    except (OSError, asyncssh.Error):
        return
    if target.can_write_eof():
        target.write_eof()


@asynccontextmanager
async def sshd(pve: Proxmox) -> AsyncIterator[Sshd]:
    """SSH on the nodes of this cluster."""
    async with Sshd(pve.world).listening() as server:
        yield server
