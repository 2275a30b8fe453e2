"""References to what exists: a template of somebody, or a volume. Nothing is made for them, so nothing tells of them.

All that is known of one is therefore in its id: who declares it, and the words of its source.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Literal

import msgspec
from common import v1
from common.errors import InvalidSpecError, NotSupportedError
from providerkit.violations import has_control, is_uid, shown

MOST_ID = 1024
"""Characters of an image's id. Source: the kit refuses longer ones."""
_MARK = ".r"
_VOLUME = re.compile(
    r"(?P<storage>[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]):(?P<kind>import/|backup/|iso/|\d+/|(?:vm|base)-\d+-)"
)
"""Beginning of a volume's id. Source: parse_volume_id and parse_volname of PVE::Storage; a file of the image directory
may have a colon in its name, but hardly all of this."""

Kind = Literal["template", "volume", "archive"]


@dataclass(frozen=True)
class Reference:
    """An image that exists."""

    uid: str
    namespace: str
    name: str
    kind: Kind
    what: str
    """Name or VMID of a template; id of a volume."""
    node: str = ""
    """Where the template is; empty means wherever it is."""
    linked: bool = False
    """Machines shall stand on the template's disks."""

    @property
    def storage(self) -> str:
        """Of a volume."""
        return self.what.partition(":")[0]

    def id(self) -> str:
        """As an image's id."""
        words = msgspec.json.encode([self.namespace, self.name, self.kind, self.what, self.node, self.linked])
        return self.uid + _MARK + base64.urlsafe_b64encode(words).decode().rstrip("=")


def of(request: v1.PrepareImageRequest) -> Reference | None:
    """What a request refers to; None when its source has to be fetched.

    Raises:
        InvalidSpecError, NotSupportedError: nothing of this kind can be referred to so.
    """
    source = request.source or v1.ImageSource()
    if source.template is not None:
        found = _template(request, source.template)
    elif source.file is not None and _VOLUME.match(source.file.path):
        found = _volume(request, source.file.path, source.format)
    else:
        return None
    if source.checksum is not None and source.checksum.digest:
        raise InvalidSpecError("source.checksum: nothing is fetched for what exists, so nothing can be verified")
    if len(found.id()) > MOST_ID:
        raise InvalidSpecError("source: its name is too long")
    return found


def _template(request: v1.PrepareImageRequest, source: v1.TemplateSource) -> Reference:
    if not source.name:
        raise InvalidSpecError("source.template.name: is missing")
    for field, text in (("name", source.name), ("node", source.node)):
        if has_control(text):
            raise InvalidSpecError(f"source.template.{field}: {shown(text)} is no name on Proxmox VE")
    if source.snapshot:
        raise NotSupportedError("source.template.snapshot: on Proxmox VE machines stand on templates only")
    return Reference(
        request.uid, request.namespace, request.name, "template", source.name, source.node, linked=source.linked
    )


def _volume(request: v1.PrepareImageRequest, volume: str, format: str) -> Reference:
    match = _VOLUME.match(volume)
    if match is None or has_control(volume) or len(volume.split()) != 1:
        raise InvalidSpecError(f"source.file.path: {shown(volume)} is no volume of a storage")
    if match["kind"] == "iso/":
        raise InvalidSpecError(
            f"source.file.path: {volume} is an ISO, which no disk can be made from; name it as the medium of a CD drive"
        )
    if match["kind"] == "backup/":
        return Reference(request.uid, request.namespace, request.name, "archive", volume)
    ending = volume.rpartition(".")[2] if "." in volume.rpartition("/")[2] else "raw"
    if format not in ("", ending):
        raise InvalidSpecError(f"source.format: {format} given, and {volume} is {ending}")
    return Reference(request.uid, request.namespace, request.name, "volume", volume)


def parse(image_id: str) -> Reference | None:
    """The reference that an id is; None when it is the id of something else."""
    uid, mark, words = image_id.partition(_MARK)
    if not mark or not is_uid(uid):
        return None
    try:
        data = base64.b64decode(words + "=" * (-len(words) % 4), altchars="-_", validate=True)
        found = Reference(uid, *msgspec.json.decode(data, type=tuple[str, str, Kind, str, str, bool]))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return found if found.id() == image_id else None  # one image has one id, however it could be spelled
