"""First-boot data as `cicustom` snippets: files in a directory that a storage of the nodes is, mounted here as well.

Proxmox VE takes no snippets through its API. It reads them when the guest starts, and puts them on its own drive.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from common.errors import HostFullError, HypervisorUnavailableError

_NAME = re.compile(r"\.?virtrigaud-[0-9]{3,9}-(?P<uid>[0-9a-f-]{36})-[0-9a-f]{16}-[a-z]+\.yaml(\.part)?")
_PARTS = {"user-data": "user", "meta-data": "meta", "network-config": "network"}
"""What `cicustom` calls the files of a NoCloud drive."""


class Snippets:
    """Of one storage."""

    def __init__(self, storage: str, directory: Path) -> None:
        """Args: directory: where the storage is mounted; its subdirectory `snippets` holds the files."""
        self.storage = storage
        self._directory = directory / "snippets"

    async def put(self, vmid: int, uid: str, content: Mapping[str, str], doing: str) -> tuple[str, list[str]]:
        """Write the files of a NoCloud drive.

        Returns:
            The value of `cicustom`, and the volumes.
        Raises:
            HostFullError, HypervisorUnavailableError: the directory does not take them.
        """
        digest = hashlib.sha256(json.dumps([uid, sorted(content.items())]).encode()).hexdigest()[:16]
        names = {_PARTS[file]: f"virtrigaud-{vmid}-{uid}-{digest}-{_PARTS[file]}.yaml" for file in content}
        texts = {name: content[file] for file, name in zip(content, names.values(), strict=True)}
        await asyncio.to_thread(self._write, texts, doing)
        volumes = {part: f"{self.storage}:snippets/{name}" for part, name in names.items()}
        return ",".join(f"{part}={volume}" for part, volume in volumes.items()), list(volumes.values())

    async def drop(self, uid: str, doing: str, keep: frozenset[str] = frozenset()) -> None:
        """Remove every snippet of this machine, besides the volumes to keep."""
        await asyncio.to_thread(self._drop, uid, {volume.rpartition("/")[2] for volume in keep}, doing)

    def _write(self, texts: Mapping[str, str], doing: str) -> None:
        try:
            for name, text in texts.items():
                part = self._directory / f".{name}.part"
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, self._directory / name)
        except OSError as error:
            raise self._translate(error, doing) from error

    def _drop(self, uid: str, keep: set[str], doing: str) -> None:
        try:
            for name in os.listdir(self._directory):
                match = _NAME.fullmatch(name)
                if match is not None and match["uid"] == uid and name not in keep:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._directory / name)
        except OSError as error:
            raise self._translate(error, doing) from error

    def _translate(self, error: OSError, doing: str) -> HostFullError | HypervisorUnavailableError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return HostFullError(f"{doing}: no room for its snippets in {self._directory}")
        return HypervisorUnavailableError(f"{doing}: snippets in {self._directory}: {error.strerror}")
