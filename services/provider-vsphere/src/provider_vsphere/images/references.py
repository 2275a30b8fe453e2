"""References to templates that exist: images that nothing is made for, so that nothing on vSphere can tell of them.

All that is known of one is therefore in its id: who declares it, and the words of its source.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec
from common import v1
from common.errors import InvalidSpecError
from providerkit.violations import has_control, is_uid, shown

MOST_ID = 1024
"""Characters of an image's id. Source: the kit refuses longer ones."""
_MARK = ".t"


@dataclass(frozen=True)
class Reference:
    """An image that is a template of somebody, or a snapshot."""

    uid: str
    namespace: str
    name: str
    template: str
    """Name, inventory path, instance UUID or id."""
    snapshot: str = ""
    """Name or id; empty means the template itself."""

    def id(self) -> str:
        """As an image's id."""
        words = msgspec.json.encode([self.namespace, self.name, self.template, self.snapshot])
        return self.uid + _MARK + base64.urlsafe_b64encode(words).decode().rstrip("=")


def of(request: v1.PrepareImageRequest, source: v1.TemplateSource) -> Reference:
    """What a request refers to.

    Raises:
        InvalidSpecError: no template could have such a name.
    """
    if not source.name:
        raise InvalidSpecError("source.template.name: is missing")
    for field, text in (("name", source.name), ("snapshot", source.snapshot)):
        if has_control(text):
            raise InvalidSpecError(f"source.template.{field}: {shown(text)} is no name on vSphere")
    if source.node:
        raise InvalidSpecError("source.template.node: vSphere has no nodes; give an inventory path as the name")
    found = Reference(request.uid, request.namespace, request.name, source.name, source.snapshot)
    if len(found.id()) > MOST_ID:
        raise InvalidSpecError("source.template.name: is too long; give the template's instance UUID")
    return found


def parse(image_id: str) -> Reference | None:
    """The reference that an id is; None when it is the id of something else."""
    uid, mark, words = image_id.partition(_MARK)
    if not mark or not is_uid(uid):
        return None
    try:
        data = base64.b64decode(words + "=" * (-len(words) % 4), altchars="-_", validate=True)
        namespace, name, template, snapshot = msgspec.json.decode(data, type=tuple[str, str, str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    found = Reference(uid, namespace, name, template, snapshot)
    return found if found.id() == image_id else None  # one image has one id, however it could be spelled
