"""VMs that vSphere cannot read now, and what they may be: none of ours is taken for gone because nobody can look at it.

A VM whose files are out of reach has no configuration, and with it no identity and no stamp. What we read of it before
is kept (`Tree`); one that was never read is told apart by what vCenter's database still says of it: its instance UUID,
or else, as long as that is open, its name and the names of its files.

Source: VirtualMachine.config, "the virtual machine configuration is not guaranteed to be available"; the states
inaccessible, invalid and orphaned of VirtualMachineConnectionState; VirtualMachineConfigSummary, where `instanceUuid`
is optional, and `name` and `vmPathName` are what is left of such a VM in practice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from common import v1
from common.errors import HypervisorUnavailableError

from provider_vsphere.config import making
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vsphere import Vsphere

CONNECTED = "connected"
_RETRY_SECONDS = 10.0


def state(entity: Entity) -> str:
    """`runtime.connectionState`; empty where not even that may be read."""
    return str(entity.facts.get("runtime.connectionState") or "")


def refuse_away(tree: Tree, entity: Entity, doing: str) -> None:
    """Before anything is done to a VM that needs its host and its files.

    Raises:
        HypervisorUnavailableError: they are out of reach.
    """
    if (now := state(entity)) not in ("", CONNECTED):
        raise HypervisorUnavailableError(
            f"{doing}: {tree.path(entity)} is {now}; nothing was changed", retry_after=_RETRY_SECONDS
        )


def refuse(tree: Tree, uid: str, doing: str) -> None:
    """Before it is said that there is no VM with this instance UUID.

    Raises:
        HypervisorUnavailableError: one has it and cannot be read; whose it is, nobody can tell.
    """
    _refuse((each for each in tree.unread() if each.likely_uuid == uid.lower()), tree, doing)


async def rule_out(vsphere: Vsphere, identity: v1.MachineIdentity, doing: str) -> None:
    """Before it is said that there is no machine of this identity; without a name, that there is none with its UID.

    Raises:
        HypervisorUnavailableError: there is a VM that may be it, and that cannot be read.
    """
    tree = vsphere.tree
    refuse(tree, identity.uid, doing)
    nobody = [each for each in tree.unread() if not each.likely_uuid and state(each) != CONNECTED]
    if not identity.name:
        nobody = [each for each in nobody if state(each)]  # where nothing at all may be read, nothing of ours is
        _refuse(nobody, tree, doing)
    name = making.machine_name(identity)
    _refuse((each for each in nobody if is_called(each, name)), tree, doing)

    if not (away := [each for each in nobody if state(each)]):
        return  # the index tells nothing of what may not be read

    def ask(login: Login) -> set[str]:
        found = login.content.searchIndex.FindAllByUuid(None, identity.uid, True, True)
        return {str(each._moId) for each in found or ()}

    known = await vsphere.call(doing, ask)  # the index is another table of vCenter's than the summary
    _refuse((each for each in away if each.moid in known), tree, doing)


def is_called(entity: Entity, name: str) -> bool:
    """It, its directory or its file has this name; vSphere adds a number where a directory is taken."""
    path = str(entity.facts.get("summary.config.vmPathName") or "")
    *directories, file = path.partition("] ")[2].split("/") if "] " in path else path.split("/")
    names = [entity.name, file.removesuffix(".vmx"), *directories[-1:]]
    return any(re.fullmatch(rf"{re.escape(name)}(_\d+)?", each) for each in names)


def _refuse(suspects: Iterable[Entity], tree: Tree, doing: str) -> None:
    for each in suspects:
        why = f"is {now}" if (now := state(each)) else "may not be read"
        raise HypervisorUnavailableError(
            f"{doing}: {tree.path(each)} ({each.moid}) {why}; it cannot be told whether it is this one. Bring back its "
            "host or its datastore, or, if it is nothing that matters, remove it from the inventory",
            retry_after=_RETRY_SECONDS,
        )
