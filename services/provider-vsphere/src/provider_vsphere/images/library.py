"""Items of content libraries, as something that templates are made from.

Deploying by the library itself cannot say whose the new VM is in the call that makes it. So an OVF item is read file by
file and imported like any package, and the template of a template item is cloned: either way the stamp is in the call.

Sources: vSphere Automation API, com.vmware.content.library (Item, item.DownloadSession, item.downloadsession.File) and
com.vmware.vcenter.vm_template.LibraryItems; govmomi vapi/library for the older dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from common import v1
from common.clock import Clock
from common.errors import (
    BrokenImageError,
    HypervisorUnavailableError,
    ImageNotFoundError,
    InvalidSpecError,
    NotSupportedError,
    ProviderError,
)
from providerkit.background import running
from providerkit.violations import shown

from provider_vsphere.images import packages
from provider_vsphere.images.packages import Package
from provider_vsphere.session.transfers import Download, Transfers
from provider_vsphere.session.vapi import Request, Vapi

_SESSION = "content/library/item/download-session"
_FILES = "com/vmware/content/library/item/downloadsession/file"
_TEMPLATES = "vcenter/vm-template/library-items"
_PAUSE, _READY_SECONDS = 1.0, 900.0
"""Between two looks at a file that the library still fetches from elsewhere, and how long that may take."""
_BEAT_SECONDS = 60.0
"""Between two signs of life of a download; a session without any ends after some minutes."""
OVF, TEMPLATE = "ovf", "vm-template"


@dataclass(frozen=True)
class Item:
    """What an image's source names."""

    id: str
    name: str
    kind: str
    """"ovf" or "vm-template"."""


class Library:
    """The content libraries of one vCenter."""

    def __init__(self, vapi: Vapi, transfers: Transfers, clock: Clock) -> None:
        self._vapi = vapi
        self._transfers = transfers
        self._clock = clock

    async def item(self, source: v1.LibrarySource, doing: str) -> Item:
        """The item of this name.

        Raises:
            ImageNotFoundError: there is none, or it has another version.
            InvalidSpecError: there are several.
            NotSupportedError: nothing that machines are made from.
        """
        libraries = await self._find(doing, "content/library", {"name": source.library})
        library = _only(libraries, f"content library {source.library}")
        items = await self._find(doing, "content/library/item", {"library_id": library, "name": source.item})
        found = _only(items, f"item {source.item} of content library {source.library}")
        facts = await self._vapi.call(doing, Request("GET", "content/library/item/{}", id=found))
        versions = {str(facts.get("content_version") or ""), str(facts.get("version") or "")}
        if source.version and source.version not in versions:
            has = " or ".join(sorted(filter(None, versions))) or "none"
            raise ImageNotFoundError(
                f"item {source.item} of content library {source.library} has version {has}, not {source.version}; "
                "a library keeps the latest"
            )
        kind = str(facts.get("type") or "")
        if kind not in (OVF, TEMPLATE):
            raise NotSupportedError(
                f"item {source.item}: is of type {shown(kind)}; images are made from {OVF} and {TEMPLATE}"
            )
        return Item(found, source.item, kind)

    async def _find(self, doing: str, path: str, spec: dict[str, str]) -> list[str]:
        answer = await self._vapi.call(doing, Request("POST", path, action="find", body=spec, parameter="spec"))
        return [str(each) for each in answer or ()]

    async def template(self, item: Item, doing: str) -> str:
        """moid of the VM behind a template item."""
        facts = await self._vapi.call(
            doing,
            Request("GET", f"{_TEMPLATES}/{{}}", id=item.id, legacy=f"{_TEMPLATES}/{quote(item.id)}"),
        )
        return str(facts["vm_template"])

    @contextlib.asynccontextmanager
    async def opened(self, item: Item, doing: str) -> AsyncIterator[Package]:
        """The package in an OVF item.

        Raises:
            BrokenImageError: there is none.
        """
        body = {"library_item_id": item.id}
        session = str(await self._vapi.call(doing, Request("POST", _SESSION, body=body, parameter="create_spec")))
        try:
            async with running(self._keep(session, doing), "library download"):
                answer = await self._vapi.call(doing, _files(item))
                names = {str(each["name"]) for each in answer or ()}
                descriptor = next((name for name in names if name.lower().endswith(".ovf")), None)
                if descriptor is None:
                    raise BrokenImageError(
                        f"item {item.name}: has no OVF descriptor; it has {', '.join(sorted(names))}"
                    )

                def beside(href: str) -> _File:
                    return _File(self, session, href, doing, missing=href not in names)

                source = v1.ImageSource(format="ovf")
                async with packages.opened(beside(descriptor), beside, source) as package:
                    yield package
        finally:
            with contextlib.suppress(ProviderError):  # it ends by itself
                await asyncio.shield(self._vapi.call(doing, Request("DELETE", f"{_SESSION}/{{}}", id=session)))

    async def _keep(self, session: str, doing: str) -> None:
        """Give signs of life until cancelled."""
        beat = Request("POST", f"{_SESSION}/{{}}", id=session, action="keep-alive", body={})
        while True:
            await self._clock.sleep(_BEAT_SECONDS)
            with contextlib.suppress(ProviderError):  # one may be missed; the download itself will say so
                await self._vapi.call(doing, beat)

    async def prepared(self, session: str, name: str, doing: str) -> str:
        """URL of a file, once the library has it: a subscribed one may have to fetch it first."""

        prepare = Request(
            "POST",
            f"{_SESSION}/{{}}/file",
            id=session,
            action="prepare",
            body={"file_name": name},
            legacy=f"{_FILES}/{{}}",
        )
        every = Request(
            "GET", f"{_SESSION}/{{}}/file", id=session, legacy=f"{_FILES}?download_session_id={quote(session)}"
        )
        facts = await self._vapi.call(doing, prepare)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while (state := str(facts.get("status"))) not in ("PREPARED", "ERROR"):
                    await self._clock.sleep(_PAUSE)
                    answer = await self._vapi.call(doing, every)
                    facts = next((each for each in answer or () if each.get("name") == name), {})
        except TimeoutError:
            raise HypervisorUnavailableError(f"{doing}: file {name} is not there after {_READY_SECONDS:g} s") from None
        if state == "ERROR":
            raise HypervisorUnavailableError(f"{doing}: the library cannot give file {name}: {_said(facts)}")
        return str(facts["download_endpoint"]["uri"])

    @contextlib.asynccontextmanager
    async def read(self, session: str, name: str, doing: str) -> AsyncIterator[Download]:
        """A file's content."""
        url = self._transfers.resolved(await self.prepared(session, name, doing))
        async with self._transfers.download(doing, url) as body:
            yield body


class _File:
    """A file of an item, as a package's origin."""

    def __init__(self, library: Library, session: str, name: str, doing: str, *, missing: bool) -> None:
        self.name = name
        self.length: int | None = None
        self.missing = missing
        self._library = library
        self._session = session
        self._doing = doing

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The content.

        Raises:
            ImageNotFoundError: the item has no such file.
        """
        if self.missing:
            raise ImageNotFoundError(f"{self._doing}: the item has no file {shown(self.name)}")
        async with self._library.read(self._session, self.name, self._doing) as body:
            self.length = body.size
            async for chunk in body.chunks():
                yield chunk


def _files(item: Item) -> Request:
    """All files of an item."""
    legacy = f"com/vmware/content/library/item/file?library_item_id={quote(item.id)}"
    return Request("GET", "content/library/item/{}/file", id=item.id, legacy=legacy)


def _only(found: list[str], what: str) -> str:
    if not found:
        raise ImageNotFoundError(f"there is no {what}")
    if len(found) > 1:
        raise InvalidSpecError(f"there are {len(found)} of the name: {what}; names in libraries have to differ")
    return found[0]


def _said(facts: Any) -> str:
    message = facts.get("error_message") or {}
    return str(message.get("default_message") or "no reason given")
