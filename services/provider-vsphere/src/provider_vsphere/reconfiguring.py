"""Reconfiguration of a machine that exists: each change, or all changes of one apply together, as one ReconfigVM_Task
that vSphere refuses if the VM is no longer what the change was built from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from common.errors import MachineNotFoundError, StalePreconditionError
from pyVmomi import vim

from provider_vsphere import machines
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import Stamp

_ATTEMPTS = 3
"""So often a change is built anew upon what somebody else has changed meanwhile."""
_DEVICES = "config.hardware.device"

Build = Callable[[Entity, Stamp], Any]
"""Gets a machine and its stamp; answers with the ConfigSpec of a change, or None when there is nothing to do. Pure: it
may be asked more than once."""


class Reconfiguring:
    """Changes of the machines of one owner."""

    def __init__(self, vsphere: Vsphere, *, owner: str) -> None:
        self._vsphere = vsphere
        self._owner = owner
        self._waiting: dict[str, list[Build]] = {}
        """Changes that will be one task, by the machine's UID."""

    @asynccontextmanager
    async def together(self, uid: str) -> AsyncIterator[None]:
        """Changes of this machine that are made inside of this context are one task at its end, or none of them is."""
        self._waiting[uid] = []
        try:
            yield
        finally:
            builds = self._waiting.pop(uid)
        if builds:
            await self.edit_now(uid, "change", lambda entity, record: joined(entity, record, builds))

    async def edit(self, uid: str, what: str, build: Build) -> None:
        """Make a change, together with others if they are being collected.

        Raises:
            ProviderError: what `build` refuses; at once, also where the change is made later.
        """
        waiting = self._waiting.get(uid)
        if waiting is None:
            await self.edit_now(uid, what, build)
            return
        entity = self._get(uid, what)
        joined(entity, self._record(entity, what), [*waiting, build])
        waiting.append(build)

    async def edit_now(self, uid: str, what: str, build: Build) -> None:
        """Make a change by itself."""
        entity, doing = self._get(uid, what), f"{what} of machine {uid}"
        for attempt in range(_ATTEMPTS):
            edit = build(entity, self._record(entity, doing))
            if edit is None:
                return
            edit.changeVersion = entity.facts.get("config.changeVersion")
            try:
                await self._reconfigure(entity, doing, edit)
            except StalePreconditionError:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                await self._vsphere.refresh(entity)
                return
            await self._vsphere.refresh(entity)

    async def _reconfigure(self, entity: Entity, doing: str, edit: Any) -> None:
        await self._vsphere.task(doing, lambda login: self._vsphere.machine(entity, login).ReconfigVM_Task(edit))

    def _get(self, uid: str, what: str) -> Entity:
        self._vsphere.login(f"{what} of machine {uid}")
        return machines.get(self._vsphere.tree, uid, self._owner)

    def _record(self, entity: Entity, doing: str) -> Stamp:
        record = machines.stamp_of(entity)
        if record is None or record.owner != self._owner:
            raise MachineNotFoundError(f"{doing}: it lost our stamp meanwhile")
        return record


def joined(entity: Entity, record: Stamp, builds: Sequence[Build]) -> Any | None:
    """One ConfigSpec of several changes, each built upon what the ones before it make of the machine."""
    seen = Entity(entity.kind, entity.moid, dict(entity.facts))
    whole = None
    for build in builds:
        edit = build(seen, record)
        if edit is None:
            continue
        seen.facts[_DEVICES] = _after(seen.facts.get(_DEVICES) or (), edit.deviceChange or ())
        whole = edit if whole is None else _merged(whole, edit)
        record = stamp.read(_options(whole).get(stamp.KEY)) or record
    return whole


def _after(present: Sequence[Any], changes: Sequence[Any]) -> list[Any]:
    """Devices after changes."""
    found = {device.key: device for device in present}
    for change in changes:
        if change.operation == "remove":
            found.pop(change.device.key, None)
        else:
            found[change.device.key] = change.device
    return list(found.values())


def _merged(first: Any, second: Any) -> Any:
    """Both; what both say is as the second says."""
    whole = vim.vm.ConfigSpec()
    for name in {prop.name for prop in first._GetPropertyList()} - {"deviceChange", "extraConfig"}:
        setattr(whole, name, _either(getattr(first, name), getattr(second, name)))
    whole.deviceChange = _devices(first.deviceChange or (), second.deviceChange or ())
    options = _options(first) | _options(second)
    whole.extraConfig = [vim.option.OptionValue(key=key, value=value) for key, value in options.items()]
    return whole


def _either(first: Any, second: Any) -> Any:
    """One value of two: the second where there is one; of two structures, each field so."""
    if second is None or second == []:
        return first
    if type(first) is not type(second) or not hasattr(second, "_GetPropertyList"):
        return second
    both = type(second)()
    for prop in second._GetPropertyList():
        setattr(both, prop.name, _either(getattr(first, prop.name), getattr(second, prop.name)))
    return both


def _devices(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """One change per device: vSphere takes no two of one in a request."""
    changes = {change.device.key: change for change in first}
    for change in second:
        before = changes.get(change.device.key)
        if before is None:
            changes[change.device.key] = change
        elif change.operation != "remove":
            before.device = change.device  # added or edited before, and now like this
            before.profile = change.profile or before.profile
        elif before.operation == "add":
            del changes[change.device.key]
        else:
            changes[change.device.key] = change
    return list(changes.values())


def _options(edit: Any) -> dict[str, str]:
    return {str(option.key): str(option.value) for option in edit.extraConfig or ()}
