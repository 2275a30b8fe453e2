"""Disks read over SSH, by the one command that a node allows: `virtrigaud-disk`, see deploy/proxmox.

The node is known by its name in `known_hosts`, as Proxmox VE's own nodes know each other; an unknown key is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
from common import logging
from common.errors import (
    CredentialsRefusedError,
    HypervisorUnavailableError,
    NotSupportedError,
    PermissionMissingError,
    ProviderError,
)
from common.secrets import SecretError, read_plain, read_secret

from provider_proxmox.content.nbd import Disk
from provider_proxmox.session.pve import Pve
from provider_proxmox.session.rows import Rows, text, word

log = logging.get(__name__)

COMMAND = "virtrigaud-disk"
LOGIN_SECONDS = 20.0
ALIVE_SECONDS = 15
_MOST_COMPLAINT = 500


class Ssh:
    """Into the nodes."""

    def __init__(self, pve: Pve, *, user: str = "", credentials: Path | None = None, port: int = 22) -> None:
        """Args:
        user: empty takes the file `ssh_user`, if there is one.
        credentials: directory with the files `ssh_privatekey` and `known_hosts`.
        """
        self._pve = pve
        self._rows = Rows()
        self._user = user
        self._credentials = credentials
        self._port = port

    def is_set_up(self) -> bool:
        """Everything is there that a login takes."""
        return bool(self._user or self._has("ssh_user")) and self._has("ssh_privatekey") and self._has("known_hosts")

    def _has(self, name: str) -> bool:
        return self._credentials is not None and (self._credentials / name).is_file()

    @asynccontextmanager
    async def open(self, node: str, volume: str, snapshot: str, doing: str) -> AsyncIterator[Disk]:
        """A volume of a node, for reading.

        Args:
            snapshot: Proxmox VE's name of one; empty reads the volume as it is.
        Raises:
            CredentialsRefusedError: the node's key is unknown, or ours is.
            HypervisorUnavailableError, NotSupportedError: what the node says.
        """
        address = await self._address(node, doing)
        try:
            async with (
                asyncssh.connect(address, self._port, options=self._options(node)) as connection,
                connection.create_process(f"{COMMAND} {volume} {snapshot}".strip(), encoding=None) as process,
            ):
                disk = Disk(process.stdout, process.stdin, doing)
                try:
                    await disk.open()
                except HypervisorUnavailableError as error:
                    complaint = (await process.stderr.read(_MOST_COMPLAINT)).decode(errors="replace")
                    raise refusal(complaint, node, doing) or error from error
                yield disk
                await disk.close()
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
            raise CredentialsRefusedError(
                f"{doing}: the host key of node {node} is not what `known_hosts` has for this name: {error.reason}"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise CredentialsRefusedError(
                f"{doing}: node {node} does not accept our SSH key: {error.reason}"
            ) from error
        except (asyncssh.Error, OSError) as error:
            raise HypervisorUnavailableError(f"{doing}: SSH to node {node}: {error}", retry_after=5.0) from error

    def _options(self, node: str) -> asyncssh.SSHClientConnectionOptions:
        """Nothing of the environment counts: no configuration, no agent, no keys of whoever runs this."""
        assert self._credentials is not None  # is_set_up was asked
        try:
            key = asyncssh.import_private_key(read_secret(self._credentials / "ssh_privatekey") + "\n")
            user = self._user or read_plain(self._credentials / "ssh_user")
            hosts = asyncssh.read_known_hosts(str(self._credentials / "known_hosts"))
        except (SecretError, OSError, ValueError) as error:
            raise CredentialsRefusedError(f"credentials: SSH files cannot be used: {error}") from None
        return asyncssh.SSHClientConnectionOptions(
            host_key_alias=node,
            username=user,
            client_keys=[key],
            known_hosts=hosts,
            config=None,
            agent_path=None,
            preferred_auth="publickey",
            login_timeout=LOGIN_SECONDS,
            connect_timeout=LOGIN_SECONDS,
            keepalive_interval=ALIVE_SECONDS,
        )

    async def _address(self, node: str, doing: str) -> str:
        """As the cluster knows it; its name where we may not ask."""
        try:
            said = await self._pve.get(doing, "cluster/status")
        except PermissionMissingError:
            return node
        rows = self._rows.take(said, "look for the address of a node", type=word)
        found = (text(row.get("ip")) for row in rows if row["type"] == "node" and row.get("name") == node)
        return next(filter(None, found), node)


def refusal(complaint: str, node: str, doing: str) -> ProviderError | None:
    """What the command on the node says, in one line."""
    said = "".join(ch for ch in " ".join(complaint.split()) if ch.isprintable())
    if not said:
        return None
    message = f"{doing}: node {node} says: {said}"
    if "snapshots within" in said or "not found" in said:
        return NotSupportedError(message)
    return HypervisorUnavailableError(message)
