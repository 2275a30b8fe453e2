"""Our machines in the tree: found by identity, and told apart from everybody else's."""

from __future__ import annotations

from common.errors import ForeignMachineError, MachineNotFoundError, OperationInProgressError

from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.watched import IMAGE_STAMP, STAMP, UPLOAD_STAMP
from provider_vsphere.stamps import imagestamp, stamp, uploadstamp
from provider_vsphere.stamps.imagestamp import ImageStamp
from provider_vsphere.stamps.stamp import Stamp
from provider_vsphere.stamps.uploadstamp import UploadStamp


def stamp_of(entity: Entity) -> Stamp | None:
    """Its stamp, whoever's it is, if it is the stamp of this very VM and not one that a copy brought along."""
    found = stamp.read(entity.facts.get(STAMP))
    return found if found is not None and found.uid == entity.uuid else None


def image_stamp_of(entity: Entity) -> ImageStamp | None:
    """Its stamp of an image, whoever's it is, if it was made to be that image and is no copy of it."""
    return imagestamp.read(entity.facts.get(IMAGE_STAMP), entity.uuid)


def upload_of(entity: Entity) -> UploadStamp | None:
    """Its stamp of an upload, whoever's it is, if it is a shell that lends a disk its way in."""
    return uploadstamp.read(entity.facts.get(UPLOAD_STAMP), entity.uuid)


def record_of(entity: Entity) -> Stamp:
    """Its stamp, which must be there.

    Raises:
        MachineNotFoundError: somebody took it off.
    """
    found = stamp_of(entity)
    if found is None:
        raise MachineNotFoundError(f"machine {entity.uuid}: it lost our stamp meanwhile")
    return found


def is_machine(entity: Entity) -> bool:
    """It is a machine: what another one is made from is none, unless it was taken over as one; and while an image is
    being made it is none either, though not a template yet; nor is the shell of an upload."""
    if stamp_of(entity) is not None:
        return True
    passing = image_stamp_of(entity) is not None or upload_of(entity) is not None
    return not entity.facts.get("config.template") and not passing


def is_ours(entity: Entity, owner: str) -> bool:
    """It carries our installation's stamp."""
    found = stamp_of(entity)
    return found is not None and found.owner == owner


def find(tree: Tree, uid: str, owner: str) -> Entity | None:
    """Our machine with this UID; None when there is none.

    Raises:
        ForeignMachineError: only somebody else's has this UID.
        OperationInProgressError: there are several, which a person has to sort out: none of them is touched.
    """
    everyone = tree.with_uuid(uid)
    ours = [entity for entity in everyone if is_ours(entity, owner)]
    if len(ours) > 1:
        paths = ", ".join(sorted(tree.path(entity) for entity in ours))
        raise OperationInProgressError(
            f"machine {uid}: several VMs carry its stamp: {paths}; remove all but one by hand"
        )
    if everyone and not ours:
        raise ForeignMachineError(
            f"machine {uid}: {tree.path(everyone[0])} has this instance UUID but not our stamp; it was not touched"
        )
    return ours[0] if ours else None


def get(tree: Tree, uid: str, owner: str) -> Entity:
    """The same, which must exist.

    Raises:
        MachineNotFoundError: it does not.
    """
    found = find(tree, uid, owner)
    if found is None:
        raise MachineNotFoundError(f"machine {uid}: vSphere has none with this instance UUID")
    return found
