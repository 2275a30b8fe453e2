"""Datastore clusters: which member a new machine goes to, as Storage DRS recommends it.

The recommendation is a choice of datastores and no more; it is written into the request that makes the machine. To have
vSphere apply it (ApplyStorageDrsRecommendation_Task) would make the machine by another call than the one that carries
its identity, from a specification kept on the server under a key that expires: a lost answer could then be neither
found again nor repeated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common import logging
from common.errors import HostFullError
from pyVmomi import vim, vmodl

from provider_vsphere.config import devices
from provider_vsphere.places import Place
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vim_errors import words
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.session.watched import POD_ENABLED

log = logging.get(__name__)

_disk = vim.vm.device.VirtualDisk


@dataclass(frozen=True)
class Choice:
    """Datastores, by id."""

    home: str
    """Of the machine's files, and of every disk that `disks` does not have."""
    disks: Mapping[int, str] = field(default_factory=dict)
    """Of disks, by their keys in the request."""


def is_on(pod: Entity) -> bool:
    """Whether Storage DRS looks after a datastore cluster; else it recommends nothing."""
    return bool(pod.facts.get(POD_ENABLED))


async def for_new(vsphere: Vsphere, place: Place, config: Any, doing: str) -> Choice | None:
    """Where the disks and files of a new machine go.

    Args:
        config: as for CreateVM_Task, with the datastore that is taken if nothing is recommended.
    Raises:
        HostFullError: no member of the cluster can take them, and why.
    """
    asked = _undecided(config)
    disks = [each.device for each in asked.deviceChange if isinstance(each.device, _disk)]
    spec = _placement("create", place, [disk for disk in disks if not devices.file_of(disk)])
    spec.configSpec = asked
    return await _recommended(vsphere, place, spec, doing)


async def for_clone(vsphere: Vsphere, place: Place, source: Entity, name: str, order: Any, doing: str) -> Choice | None:
    """The same of a clone.

    Args:
        order: as for CloneVM_Task.
    """
    spec = _placement("clone", place, [])
    asked = copy.copy(order)
    asked.location = copy.copy(order.location)
    asked.location.datastore, asked.location.disk = None, []
    spec.vm, spec.cloneName, spec.cloneSpec = vim.VirtualMachine(source.moid), name, asked
    return await _recommended(vsphere, place, spec, doing)


def _undecided(config: Any) -> Any:
    """The configuration without the datastores that were chosen for lack of better; what the spec names stays."""
    asked = copy.copy(config)
    default, asked.files = config.files.vmPathName, None
    asked.deviceChange = [_open(each, default) if _is_at(each, default) else each for each in config.deviceChange]
    return asked


def _is_at(change: Any, path: str) -> bool:
    return isinstance(change.device, _disk) and devices.file_of(change.device) == path


def _open(change: Any, path: str) -> Any:
    made = copy.copy(change)
    made.device = copy.copy(change.device)
    made.device.backing = copy.copy(change.device.backing)
    made.device.backing.fileName = ""
    return made


def _placement(kind: str, place: Place, disks: list[Any]) -> Any:
    pod = place.storage_pod
    assert pod is not None
    locator = vim.storageDrs.PodSelectionSpec.DiskLocator
    wish = vim.storageDrs.PodSelectionSpec.VmPodConfig(
        storagePod=vim.StoragePod(pod.moid),
        disk=[locator(diskId=disk.key, diskBackingInfo=disk.backing) for disk in disks],
    )
    return vim.storageDrs.StoragePlacementSpec(
        type=kind,
        podSelectionSpec=vim.storageDrs.PodSelectionSpec(
            storagePod=vim.StoragePod(pod.moid), initialVmConfig=[wish]
        ),
        resourcePool=vim.ResourcePool(place.pool.moid),
        host=vim.HostSystem(place.host.moid) if place.host is not None else None,
        folder=vim.Folder(place.folder.moid),
        disallowPrerequisiteMoves=True,  # nobody waits here for other machines to be moved out of the way
    )  # fmt: skip


async def _recommended(vsphere: Vsphere, place: Place, spec: Any, doing: str) -> Choice | None:
    def ask(login: Login) -> Any:
        return login.content.storageResourceManager.RecommendDatastores(spec)

    told = await vsphere.call(doing, ask)
    found = choice(told)
    pod = place.storage_pod.name if place.storage_pod is not None else ""
    if found is None and (why := reason(told)):
        raise HostFullError(f"{doing}: datastore cluster {pod} cannot take it: {why}")
    log.info("vsphere.storagedrs.recommended", pod=pod, home=found.home if found is not None else "")
    return found


def choice(told: Any) -> Choice | None:
    """The best of the recommendations, which is the first; None when there is none."""
    for each in told.recommendations or ():
        actions = [one for one in each.action or () if isinstance(one, vim.storageDrs.StoragePlacementAction)]
        if not actions:
            continue
        where = actions[0].relocateSpec
        home = where.datastore or actions[0].destination
        return Choice(home._moId, {disk.diskId: disk.datastore._moId for disk in where.disk or ()})
    return None


def reason(told: Any) -> str:
    """Why there is no recommendation; empty when vSphere does not say."""
    faults = told.drsFault.faultsByVm if told.drsFault is not None else ()
    return "; ".join(words(_bare(fault)) for each in faults for fault in each.fault or ())


def _bare(fault: Any) -> Any:
    """pyvmomi unwraps what it reads from the wire, and keeps what it is given."""
    return fault.fault if isinstance(fault, vmodl.LocalizedMethodFault) else fault
