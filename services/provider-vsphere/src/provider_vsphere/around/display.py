"""What a machine shows: a ticket for its console, and a picture of it.

A ticket's URL leads to the host that runs the machine, without us in between, and is all that it takes to be let in:
no log and no error ever shows it. The picture is the one that CreateScreenshot_Task writes into the machine's own
directory; it is fetched from there and removed. (`/screen?id=...` of a vCenter would leave no file, but no reference
of the API promises it, and an ESXi host has another.)
"""

from __future__ import annotations

import contextlib
import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from common import logging, redact
from common.clock import Clock
from common.errors import HypervisorUnavailableError, ProviderError, ResourceNotFoundError, WrongPowerStateError
from providerkit.driver import ConsoleTicket
from pyVmomi import vim

from provider_vsphere import power
from provider_vsphere.session.login import Login
from provider_vsphere.session.transfers import Transfers, cookie
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere

log = logging.get(__name__)

TICKET_SECONDS = 60.0
"""vSphere does not tell how long a ticket lives, only that it is short; this is told to who asks for one."""
MOST_BYTES = 32 << 20
"""Of a picture; a display of 8K is smaller."""


class Display:
    """Displays of the machines of one endpoint."""

    def __init__(self, vsphere: Vsphere, transfers: Transfers, clock: Clock) -> None:
        self._vsphere = vsphere
        self._transfers = transfers
        self._clock = clock

    async def ticket(self, entity: Entity, doing: str) -> ConsoleTicket:
        """A WebMKS ticket: one connection by WebSocket.

        Raises:
            WrongPowerStateError: it is off.
        """
        told = await self._vsphere.call(
            doing, lambda login: self._vsphere.machine(entity, login).AcquireTicket("webmks")
        )
        redact.register(str(told.ticket or ""), slot="console tickets")
        expires = self._clock.now() + datetime.timedelta(seconds=TICKET_SECONDS)
        return ConsoleTicket(url_of(told, self._vsphere.endpoint.url), expires)

    async def picture(self, entity: Entity, doing: str) -> bytes:
        """What the display shows now, as PNG.

        Raises:
            WrongPowerStateError: it is off.
        """
        if power.state(entity) != power.ON:
            raise WrongPowerStateError(f"{doing}: it is not running")
        file = str(
            await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).CreateScreenshot_Task())
        )
        try:
            return await self._fetch(entity, file, doing)
        finally:
            await self._remove(entity, file, doing)

    async def _fetch(self, entity: Entity, file: str, doing: str) -> bytes:
        url = file_url(self._vsphere.endpoint.url, file, self._datacenter_path(entity))
        headers = await self._vsphere.call(doing, cookie)
        found = bytearray()
        async with self._transfers.download(doing, url, headers=headers) as download:
            async for chunk in download.chunks():
                found += chunk
                if len(found) > MOST_BYTES:
                    raise HypervisorUnavailableError(f"{doing}: the picture does not end after {MOST_BYTES} bytes")
        return bytes(found)

    async def _remove(self, entity: Entity, file: str, doing: str) -> None:
        datacenter = self._vsphere.tree.datacenter(entity)

        def delete(login: Login) -> Any:
            where = vim.Datacenter(datacenter.moid, login.instance._stub) if datacenter is not None else None
            return login.content.fileManager.DeleteDatastoreFile_Task(file, where)

        try:
            with contextlib.suppress(ResourceNotFoundError):
                await self._vsphere.task(doing, delete)
        except ProviderError as error:  # the picture counts; the file goes with the machine's directory at the latest
            log.warning("vsphere.screenshot.left", file=file, error=str(error))

    def _datacenter_path(self, entity: Entity) -> str:
        datacenter = self._vsphere.tree.datacenter(entity)
        return self._vsphere.tree.path(datacenter).lstrip("/") if datacenter is not None else ""


def url_of(ticket: Any, endpoint: str) -> str:
    """Of a vim.VirtualMachine.Ticket for a web console.

    Args:
        endpoint: URL of the server that gave it, which is the console's too where the ticket names no host.
    """
    if ticket.url:
        return str(ticket.url)
    host = ticket.host or urlsplit(endpoint).hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"wss://{host}:{ticket.port or 443}/ticket/{ticket.ticket}"


def file_url(endpoint: str, file: str, datacenter: str) -> str:
    """Where a file of a datastore is read by HTTP. Source: "HTTP access to vSphere server files".

    Args:
        file: "[datastore1] web/web.png".
        datacenter: its inventory path, without a leading slash.
    """
    store, _, path = file.lstrip("[").partition("] ")
    parts = urlsplit(endpoint)
    query = urlencode({"dcPath": datacenter, "dsName": store})
    return f"{parts.scheme}://{parts.netloc}/folder/{quote(path)}?{query}"
