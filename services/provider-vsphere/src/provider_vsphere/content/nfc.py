"""Leases of the network file copy service (HttpNfcLease): how content of virtual disks enters and leaves vSphere.

A lease is asked for, becomes ready, names a URL per device, must be told of progress before its timeout, and ends by
`complete` or `abort`. Whatever happens here, one of the two is said: a machine whose lease nobody ends is locked until
the timeout, and one that is being imported lies about half made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from common import logging
from common.clock import Clock
from common.errors import HypervisorUnavailableError, InternalError, ProviderError, ResourceNotFoundError
from providerkit.background import running
from pyVmomi import vim, vmodl

from provider_vsphere.session import watched
from provider_vsphere.session.following import LOST
from provider_vsphere.session.login import Login
from provider_vsphere.session.transfers import Transfers, cookie
from provider_vsphere.session.vim_errors import translate
from provider_vsphere.session.vsphere import Vsphere, begun

log = logging.get(__name__)

READY_SECONDS = 300.0
"""How long a server may prepare a lease; an import makes the machine in this time."""
_STREAM_VMDK = "application/x-vnd.vmware-streamVmdk"


@dataclass(frozen=True)
class Device:
    """One file that a lease gives access to. Source: HttpNfcLeaseDeviceUrl."""

    key: str
    """Which device of the machine: "/vm-42/ParaVirtualSCSIController0:0"."""
    import_key: str
    """Which device of the import spec, as OvfFileItem.deviceId has it; empty for an export."""
    url: str
    thumbprint: str
    is_disk: bool


class Lease:
    """A lease that is ready; lives as long as the context of `Nfc.lease`."""

    def __init__(self, doing: str, info: Any, transfers: Transfers, cookies: dict[str, str]) -> None:
        self.entity = str(info.entity._moId)
        """The machine that is exported, or the one that the import has made."""
        self.devices = tuple(_device(each, transfers) for each in info.deviceUrl or ())
        self.percent = 0
        """What is told as progress: set it as far as you know, or leave it."""
        self._doing = doing
        self._transfers = transfers
        self._cookies = cookies

    def disks(self) -> list[Device]:
        """Its disks, in the machine's order."""
        return [device for device in self.devices if device.is_disk]

    def device(self, import_key: str) -> Device:
        """The device of an import.

        Raises:
            ResourceNotFoundError: there is none.
        """
        found = next((device for device in self.devices if device.import_key == import_key), None)
        if found is None:
            raise ResourceNotFoundError(f"{self._doing}: the lease has no device {import_key}")
        return found

    async def upload(self, device: Device, chunks: AsyncIterator[bytes], size: int | None = None) -> None:
        """Send one file: a disk as stream-optimised VMDK, anything else (ISO, NVRAM) as it is.

        Args:
            size: of all chunks together, if it is known.
        """
        # Source: VMware's OVF tool and govmomi nfc/lease.go: PUT with this header for what is no disk.
        method, headers = ("POST", {"Content-Type": _STREAM_VMDK}) if device.is_disk else ("PUT", {"Overwrite": "t"})
        await self._transfers.upload(
            self._doing, method, device.url, chunks,
            headers=headers | self._cookies_for(device), size=size, thumbprint=device.thumbprint,
        )  # fmt: skip

    async def download(self, device: Device) -> AsyncGenerator[bytes]:
        """Receive one file, a disk as stream-optimised VMDK."""
        headers = self._cookies_for(device)
        async with self._transfers.download(
            self._doing, device.url, headers=headers, thumbprint=device.thumbprint
        ) as body:
            async for chunk in body.chunks():
                yield chunk

    def _cookies_for(self, device: Device) -> dict[str, str]:
        return self._cookies if self._transfers.is_endpoint(device.url) else {}


class Nfc:
    """Asks for leases and sees each to its end."""

    def __init__(self, vsphere: Vsphere, transfers: Transfers, clock: Clock) -> None:
        self._vsphere = vsphere
        self._transfers = transfers
        self._clock = clock

    @contextlib.asynccontextmanager
    async def lease(self, doing: str, begin: Callable[[Login], Any]) -> AsyncIterator[Lease]:
        """Hold a lease: completed when the context is left in peace, aborted when it is left by an error or cancelled.

        Args:
            begin: makes the call that answers with the lease (ExportVm, ExportSnapshot, ImportVApp).
        Raises:
            ProviderError: it was refused, or did not become ready, or its session ended.
        """
        moid = await self._begin(doing, begin)
        with self._vsphere.following.followed(moid) as told:
            try:
                await self._wait_ready(doing, told)
                lease, timeout = await self._read(doing, moid)
                async with running(self._keep_alive(doing, moid, lease, timeout), f"lease {moid}"):
                    yield lease
                await self._call(doing, moid, lambda each: each.HttpNfcLeaseComplete())
            except BaseException as error:
                own = _own_error(told)
                await self._abort(doing, moid)
                if own is None and not isinstance(later := _own_error(told), vmodl.fault.RequestCanceled):
                    own = later  # what our abort makes of a lease is no reason
                if own is not None and isinstance(error, ProviderError):
                    raise translate(own, doing) from error
                raise

    async def _begin(self, doing: str, begin: Callable[[Login], Any]) -> str:
        def start(login: Login) -> str:
            lease = begin(login)
            with begun(doing):
                login.content.propertyCollector.CreateFilter(watched.lease_filter(lease), False)
            return str(lease._moId)

        # Not to be interrupted: a lease that began and that nobody knows would hold the machine until its timeout.
        beginning = asyncio.ensure_future(self._vsphere.call(doing, start))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            self._vsphere.doubtful = True
            with contextlib.suppress(ProviderError):
                await self._abort(doing, await beginning)
            raise
        except (HypervisorUnavailableError, InternalError):
            self._vsphere.doubtful = True  # it may have been an import
            raise

    async def _wait_ready(self, doing: str, told: asyncio.Queue[dict[str, Any]]) -> None:
        known: dict[str, Any] = {}
        try:
            async with asyncio.timeout(READY_SECONDS):
                while (state := known.get("state", "initializing")) == "initializing":
                    known |= (news := await told.get())
                    if news is LOST or "gone" in news:
                        raise HypervisorUnavailableError(f"{doing}: the lease ended before it was ready")
        except TimeoutError:
            raise HypervisorUnavailableError(f"{doing}: no lease within {READY_SECONDS:g} s") from None
        if state == "error":
            raise translate(known.get("error"), doing)
        if state != "ready":
            raise HypervisorUnavailableError(f"{doing}: the lease is {state}")

    async def _read(self, doing: str, moid: str) -> tuple[Lease, float]:
        def look(login: Login) -> tuple[Lease, float]:
            info: Any = vim.HttpNfcLease(moid, login.instance._stub).info  # there once it is ready
            return Lease(doing, info, self._transfers, cookie(login)), float(info.leaseTimeout)

        return await self._vsphere.call(doing, look)

    async def _keep_alive(self, doing: str, moid: str, lease: Lease, timeout: float) -> None:
        """Without progress within its timeout a lease ends by itself."""
        while True:
            await self._clock.sleep(min(timeout / 4, 60.0))
            percent = min(99, max(0, lease.percent))
            try:
                await self._call(doing, moid, _telling(percent))
            except ProviderError as error:  # the next one may be heard; if not, the transfer fails by itself
                log.warning("vsphere.lease.progress.failed", lease=moid, error=str(error))

    async def _call(self, doing: str, moid: str, use: Callable[[Any], Any]) -> None:
        ask = self._vsphere.call(doing, lambda login: use(vim.HttpNfcLease(moid, login.instance._stub)))
        await asyncio.shield(asyncio.ensure_future(ask))

    async def _abort(self, doing: str, moid: str) -> None:
        """A machine that was being imported goes with it."""
        try:
            await self._call(doing, moid, lambda each: each.HttpNfcLeaseAbort())
        except ProviderError as error:  # it has ended already, or does so at its timeout
            log.info("vsphere.lease.abort.failed", lease=moid, error=str(error))


def _telling(percent: int) -> Callable[[Any], Any]:
    return lambda lease: lease.HttpNfcLeaseProgress(percent)


def _own_error(told: asyncio.Queue[dict[str, Any]]) -> Any:
    """What the lease itself said went wrong (no space, say), which a broken connection does not tell."""
    while not told.empty():
        if (fault := told.get_nowait().get("error")) is not None:
            return fault
    return None


def _device(each: Any, transfers: Transfers) -> Device:
    return Device(
        key=str(each.key or ""),
        import_key=str(each.importKey or ""),
        url=transfers.resolved(str(each.url)),
        thumbprint=str(each.sslThumbprint or ""),
        is_disk=bool(each.disk),
    )
