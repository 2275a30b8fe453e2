"""Files of ours on storages: which storage takes them, what is there, what goes."""

from __future__ import annotations

from collections.abc import Collection

from common import logging
from common.errors import ResourceNotFoundError

from provider_proxmox.session.index import Storage
from provider_proxmox.session.pve import Pve

log = logging.get(__name__)


class Files:
    """Of one kind of content."""

    def __init__(self, pve: Pve, content: str, setting: str, named: str = "") -> None:
        """Args:
        content: "iso" or "import".
        setting: the setting that names the storage, for people.
        named: the storage that it names; empty takes whichever there is.
        """
        self._pve = pve
        self.content = content
        self._setting = setting
        self._named = named

    def storage_of(self, node: str, doing: str) -> Storage:
        """Where a new file goes that a guest of this node needs: a shared storage if there is one.

        Raises:
            ResourceNotFoundError: no storage of the node takes such files.
        """
        found = [storage for storage in self._taking() if storage.node == node and self._is_meant(storage)]
        if not found:
            named = f"storage {self._named}" if self._named else "no storage"
            raise ResourceNotFoundError(
                f"{doing}: {named} takes content `{self.content}` on node {node}; "
                f"let one take it, or set {self._setting}"
            )
        return max(found, key=lambda storage: (storage.shared, storage.free_bytes, storage.name))

    def is_taken(self, node: str) -> bool:
        """Whether any storage of this node takes such files."""
        return any(storage.node == node and self._is_meant(storage) for storage in self._taking())

    def everywhere(self, known: Collection[str] = ()) -> list[Storage]:
        """Wherever one of ours may be: a shared storage once, a local one for each node.

        Args:
            known: names of storages to look at besides: the settings may have been others.
        """
        found: dict[tuple[str, str], Storage] = {}
        for storage in self._taking():
            if storage.name in known or self._is_meant(storage):
                found.setdefault((storage.name, "" if storage.shared else storage.node), storage)
        return list(found.values())

    async def listed(self, storage: Storage, doing: str) -> dict[str, int]:
        """Bytes of each file by its volume id."""
        rows = await self._pve.get(doing, _path(storage), content=self.content)
        return {str(row["volid"]): int(row.get("size") or 0) for row in rows}

    async def remove(self, storage: Storage, volume: str, doing: str) -> None:
        """Remove one; absent is success."""
        await self._pve.task(doing, await self._pve.delete(doing, f"{_path(storage)}/{volume}"))
        log.info("proxmox.file.removed", volume=volume, node=storage.node)

    def _taking(self) -> list[Storage]:
        storages = self._pve.index.storages.values()
        return [storage for storage in storages if storage.active and self.content in storage.content]

    def _is_meant(self, storage: Storage) -> bool:
        return storage.name == (self._named or storage.name)


def _path(storage: Storage) -> str:
    return f"nodes/{storage.node}/storage/{storage.name}/content"
