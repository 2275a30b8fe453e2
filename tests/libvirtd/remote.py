"""A private libvirtd as a distant host: behind SSH, and behind TLS.

The SSH server is a real one in this process, so that no daemon has to be installed; what it runs, it runs where
libvirtd lives. Both listen on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from .private import TLS_PORT, PrivateLibvirtd

USER = "operator"
_CLONE_NEWNET = 0x40000000


@dataclass
class SshHost:
    """An SSH server before a libvirtd.

    Attributes:
        port: on 127.0.0.1.
        key: private key that it accepts for USER.
        password: that it accepts too.
        known_hosts: file with its host key.
        commands: what it was asked to run.
        passwords: what it was given, right or wrong.
    """

    port: int
    key: Path
    password: str
    known_hosts: Path
    commands: list[str] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    _open: set[asyncssh.SSHServerConnection] = field(default_factory=set)

    def cut(self) -> None:
        """Lose every connection, as a network does."""
        for connection in list(self._open):
            connection.abort()


@asynccontextmanager
async def ssh_host(daemon: PrivateLibvirtd, directory: Path, password: str) -> AsyncIterator[SshHost]:
    """Serve until the context is left; keys go into the directory."""
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    key, known_hosts = directory / "id_ed25519", directory / "known_hosts"
    key.touch(mode=0o600)
    user_key.write_private_key(key)
    (directory / "authorized_keys").write_bytes(user_key.export_public_key())
    host = SshHost(0, key, password, known_hosts)

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._connection = conn
            host._open.add(conn)

        def connection_lost(self, exc: Exception | None) -> None:
            host._open.discard(self._connection)

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, given: str) -> bool:
            host.passwords.append(given)
            return (username, given) == (USER, password)

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        assert process.command is not None, "libvirt asks for a command, not for a shell"
        host.commands.append(process.command)
        child = await asyncio.create_subprocess_exec(
            *daemon.inside("sh", "-c", process.command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        await _relay((process.stdin, child.stdin), (child.stdout, process.stdout))
        await child.communicate()  # it ends with its input
        process.exit(0)

    async with asyncio.TaskGroup() as commands:

        def start(process: asyncssh.SSHServerProcess[bytes]) -> None:
            commands.create_task(run(process))

        async with await asyncssh.create_server(
            Server,
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(directory / "authorized_keys"),
            process_factory=start,
            encoding=None,
        ) as server:
            host.port = server.get_port()
            public = host_key.export_public_key().decode().strip()
            known_hosts.write_text(f"[127.0.0.1]:{host.port} {public}\n")
            yield host
            host.cut()


@asynccontextmanager
async def tls_port(daemon: PrivateLibvirtd) -> AsyncIterator[int]:
    """A port that leads to libvirtd's TLS port, which is in a network of its own."""
    open_now: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as connections:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection(sock=_connect_inside(daemon, TLS_PORT))
            await _relay((reader, inner_writer), (inner_reader, writer))

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = connections.create_task(serve(reader, writer))
            open_now.add(task)
            task.add_done_callback(open_now.discard)

        async with await asyncio.start_server(start, "127.0.0.1", 0) as server:
            yield server.sockets[0].getsockname()[1]
            for task in open_now:
                task.cancel()


async def _relay(*ways: tuple[Any, Any]) -> None:
    """Copy from each reader to its writer until one way ends; then all end."""

    async def copy(source: Any, sink: Any) -> None:
        with contextlib.suppress(ConnectionError, asyncssh.Error):  # either end may hang up at any time
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()

    copies = [asyncio.create_task(copy(*way)) for way in ways]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in copies:
            each.cancel()
        await asyncio.wait(copies)
        for _, sink in ways:
            sink.close()
            with contextlib.suppress(ConnectionError, asyncssh.Error):
                await sink.wait_closed()


def _connect_inside(daemon: PrivateLibvirtd, port: int) -> socket.socket:
    """A connection made by a thread that is in libvirtd's network; a socket stays in the network it was made in."""
    sockets: list[socket.socket] = []

    def connect() -> None:
        namespace = os.open(f"/proc/{daemon.pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            sockets.append(socket.create_connection(("127.0.0.1", port)))
        finally:
            os.close(namespace)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return sockets[0]
