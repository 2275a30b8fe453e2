"""Tags of a vCenter, attached to our machines; an ESXi host has none, there the stamp alone keeps them.

A tag is asked for as "category:tag", or as "tag" of a category of ours. What is not there is made. The stamp holds the
ids of the tags that we attached: only those are ever taken off, and only those count when a machine is observed, so
that another's tag stays and is no difference.

vCenter has no feed of changes to its tags. They are read after each change of ours and at each login, and then on a
slow timer, in one call for as many machines as fit into it: what somebody else changes shows after REREAD_SECONDS at
the latest. No call is ever made per machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import faults, logging
from common.errors import InvalidSpecError, NameConflictError, NotSupportedError, ProviderError, ResourceNotFoundError
from providerkit.background import running

from provider_vsphere import machines
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vapi import Request, Vapi
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps.stamp import Stamp

log = logging.get(__name__)

CLAIMED = faults.declare("vsphere.tags.claimed", "the stamp says which tags are ours, and none is attached yet")

ATTACHED = "virtrigaud.tags"
"""The fact of a VM that holds the ids of its tags; absent while they are not known."""
OUR_CATEGORY = "virtrigaud"
REREAD_SECONDS = 300.0
BATCH = 1000
"""Machines in one call."""

_CATEGORY, _TAG, _ASSOCIATION = "cis/tagging/category", "cis/tagging/tag", "cis/tagging/tag-association"
_DESCRIPTION = "Made by VirtRigaud"


# -- what the stamp says ---------------------------------------------------------------------------------------------


def observed(entity: Entity, record: Stamp) -> list[str]:
    """Our tags as they are now. Where vCenter's are not known, the stamp is believed."""
    attached = entity.facts.get(ATTACHED)
    names = {*record.tags, *record.tag_ids}
    return sorted(name for name in names if attached is None or record.tag_ids.get(name) in (None, *attached))


def claimed(record: Stamp, ids: Mapping[str, str]) -> Stamp | None:
    """The stamp with these tags besides those that are ours already; None when it has them. It comes first: a tag
    that is attached and not in the stamp would be another's."""
    both = replace(record, tags=tuple(sorted(ids)), tag_ids=record.tag_ids | dict(ids))
    return both if both != record else None


def released(record: Stamp, names: Iterable[str]) -> Stamp | None:
    """The stamp with only these tags; None when it has no others. It comes last."""
    wanted = set(names)
    kept = {name: id for name, id in record.tag_ids.items() if name in wanted}
    return replace(record, tag_ids=kept) if kept != record.tag_ids else None


def split(name: str) -> tuple[str, str]:
    """Category and tag.

    Raises:
        InvalidSpecError: one of them is empty.
    """
    category, colon, tag = name.partition(":")
    if not colon:
        category, tag = OUR_CATEGORY, name
    if not category.strip() or not tag.strip():
        raise InvalidSpecError(f"tag {name}: must be TAG or CATEGORY:TAG")
    return category.strip(), tag.strip()


# -- on the vCenter --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Category:
    """One category of a vCenter."""

    id: str
    name: str
    single: bool
    """A VM has at most one tag of it."""


class Tags:
    """The tags of one vCenter."""

    def __init__(self, vsphere: Vsphere, vapi: Vapi, *, owner: str) -> None:
        self._vsphere = vsphere
        self._vapi = vapi
        self._owner = owner
        self._categories: dict[str, Category] = {}
        self._tags: dict[str, dict[str, str]] = {}
        """Ids by name, of each category by its id."""
        self._looking = asyncio.Lock()

    @property
    def are_there(self) -> bool:
        """It is a vCenter."""
        about = self._vsphere.about
        return about is not None and about.is_vcenter

    # -- names -----------------------------------------------------------------------------------------------------

    async def ids(self, names: Sequence[str], doing: str) -> dict[str, str]:
        """Id of each tag; one that is not there is made.

        Raises:
            InvalidSpecError: no name of a tag, or two tags of a category that allows one.
            PermissionMissingError: it is not there, and we may not make it.
        """
        wanted = {name: split(name) for name in names}
        found: dict[str, str] = {}
        async with self._looking:  # two machines with a new tag make it once
            for name, (category_name, tag) in wanted.items():
                category = await self._category(category_name, doing)
                rivals = [each for each, (other, _) in wanted.items() if category.single and other == category_name]
                if len(rivals) > 1:
                    raise InvalidSpecError(
                        f"{doing}: category {category_name} allows one tag, asked for are {', '.join(rivals)}"
                    )
                found[name] = await self._tag(category, tag, doing)
        return found

    async def _category(self, name: str, doing: str) -> Category:
        known = self._categories.get(name) or (await self._list_categories(doing)).get(name)
        if known is not None:
            return known
        body = {
            "name": name,
            "description": _DESCRIPTION,
            "cardinality": "MULTIPLE",
            "associable_types": ["VirtualMachine"],
        }
        try:
            id = str(await self._vapi.call(doing, Request("POST", _CATEGORY, body=body, parameter="create_spec")))
        except NameConflictError:  # somebody was faster
            found = (await self._list_categories(doing)).get(name)
            if found is None:
                raise
            return found
        log.info("vsphere.category.made", name=name)
        self._categories[name] = Category(id, name, single=False)
        return self._categories[name]

    async def _list_categories(self, doing: str) -> dict[str, Category]:
        known = {each.id: each for each in self._categories.values()}
        for id in await self._vapi.call(doing, Request("GET", _CATEGORY)) or ():
            if id in known:
                continue
            told = await self._told(doing, Request("GET", f"{_CATEGORY}/{{}}", id=id))
            if told is not None:
                single = told.get("cardinality") == "SINGLE"
                self._categories[told["name"]] = Category(id, told["name"], single=single)
        return self._categories

    async def _tag(self, category: Category, name: str, doing: str) -> str:
        known = self._tags.get(category.id, {}).get(name) or (await self._list_tags(category, doing)).get(name)
        if known is not None:
            return known
        body = {"name": name, "description": _DESCRIPTION, "category_id": category.id}
        try:
            id = str(await self._vapi.call(doing, Request("POST", _TAG, body=body, parameter="create_spec")))
        except NameConflictError:  # somebody was faster
            found = (await self._list_tags(category, doing)).get(name)
            if found is None:
                raise
            return found
        except ResourceNotFoundError:  # the category went meanwhile; the next attempt looks again
            self._forget()
            raise
        log.info("vsphere.tag.made", category=category.name, name=name)
        self._tags.setdefault(category.id, {})[name] = id
        return id

    async def _list_tags(self, category: Category, doing: str) -> dict[str, str]:
        known = self._tags.setdefault(category.id, {})
        body, old = {"category_id": category.id}, f"com/vmware/{_TAG}/{{}}"
        listing = Request("POST", _TAG, id=category.id, action="list-tags-for-category", body=body, legacy=old)
        for id in await self._vapi.call(doing, listing) or ():
            if id in known.values():
                continue
            told = await self._told(doing, Request("GET", f"{_TAG}/{{}}", id=id))
            if told is not None:
                known[told["name"]] = id
        return known

    async def _told(self, doing: str, request: Request) -> dict[str, Any] | None:
        with contextlib.suppress(ResourceNotFoundError, NotSupportedError):  # it went between two calls
            told = await self._vapi.call(doing, request)
            return told if isinstance(told, dict) else None
        return None

    def _forget(self) -> None:
        """Names are looked up anew: what they meant is gone."""
        self._categories.clear()
        self._tags.clear()

    # -- attaching -------------------------------------------------------------------------------------------------

    async def look(self, entity: Entity, doing: str) -> frozenset[str]:
        """Read the tags of a VM. It comes before the stamp is written: what the stamp says is believed only as long as
        vCenter's tags are not known."""
        found = (await self._read([entity.moid], doing)).get(entity.moid, frozenset())
        self._vsphere.learn(entity, {ATTACHED: found})
        return found

    async def attach(self, entity: Entity, wanted: Iterable[str], unwanted: Iterable[str], doing: str) -> None:
        """Bring our tags of a VM to what is wanted.

        Args:
            wanted, unwanted: ids. These are taken off first: a category may allow one tag only.
        Raises:
            InvalidSpecError: vCenter refuses a tag for this VM: its category allows one, and another's is on it, or
                is not for VMs.
        """
        there, wanted = await self.look(entity, doing), set(wanted)
        for id in sorted((set(unwanted) - wanted) & there):
            await self._change(entity, id, "detach", doing)
        for id in sorted(wanted - there):
            try:
                await self._change(entity, id, "attach", doing)
            except (ResourceNotFoundError, NotSupportedError):
                self._forget()  # the tag was removed since its name was looked up; the next attempt makes it anew
                raise
        await self.look(entity, doing)

    async def _change(self, entity: Entity, id: str, action: str, doing: str) -> None:
        body = {"object_id": _object(entity.moid)}
        await self._vapi.call(doing, Request("POST", f"{_ASSOCIATION}/{{}}", id=id, action=action, body=body))

    async def _read(self, moids: Sequence[str], doing: str) -> dict[str, frozenset[str]]:
        """Ids of the tags of VMs. One that is gone is left out."""
        body = {"object_ids": [_object(moid) for moid in moids]}
        request = Request("POST", _ASSOCIATION, action="list-attached-tags-on-objects", body=body)
        told = await self._vapi.call(doing, request)
        return {each["object_id"]["id"]: frozenset(each.get("tag_ids") or ()) for each in told or ()}

    # -- keeping up ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Keep the tags in the tree true until the context is left."""
        async with self._vapi.session(), running(self._keep(), "vsphere tags"):
            yield

    async def _keep(self) -> None:
        while True:
            await self._vsphere.wait_connected()
            if self.are_there:
                try:
                    await self.reread()
                except ProviderError as error:  # the stamps are believed until the next time
                    log.warning("vsphere.tags.unread", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REREAD_SECONDS):
                    await self._vsphere.wait_lost()

    async def reread(self) -> None:
        """Read the tags of our machines, as far as we attached any."""
        ours = {each.moid: each for each in self._ours()}
        moids = list(ours)
        for first in range(0, len(moids), BATCH):
            batch = moids[first : first + BATCH]
            told = await self._read(batch, "read tags")
            for moid in batch:
                self._vsphere.learn(ours[moid], {ATTACHED: told.get(moid, frozenset())})

    def _ours(self) -> Iterator[Entity]:
        for entity in self._vsphere.tree.of_kind("VirtualMachine"):
            mark = machines.stamp_of(entity)
            if mark is not None and mark.owner == self._owner and mark.tag_ids:
                yield entity


def _object(moid: str) -> dict[str, str]:
    return {"type": "VirtualMachine", "id": moid}
