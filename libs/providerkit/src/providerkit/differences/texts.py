"""What is written beside a machine: tags, description, attributes, first-boot data."""

from __future__ import annotations

from common import v1

from providerkit.record import BOOT_DATA_SETTING, DESCRIPTION_SETTING, boot_data_digest

from .situation import Situation, because, by_name

_Kind = v1.ChangeKind
_Effect = v1.Effect


def tags_and_description(at: Situation) -> list[v1.Change]:
    """Both are written in any state of the machine."""
    changes = []
    if at.can.tags and set(at.want.tags) != set(at.seen.tags):
        tags = ", ".join(sorted(set(at.want.tags)))
        message = f"set tags to {tags}" if tags else "take all tags off"
        changes.append(v1.Change(kind=_Kind.SET_TAGS, field="tags", effect=_Effect.ONLINE, message=message))
    wish, ours = at.want.description, at.seen.settings.get(DESCRIPTION_SETTING) == "true"
    if (wish and wish != at.seen.description) or (ours and not wish):
        message = "set description" if wish else "take the description off"
        change = v1.Change(kind=_Kind.SET_DESCRIPTION, field="description", effect=_Effect.ONLINE, message=message)
        changes.append(change)
    return changes


def attributes(at: Situation) -> list[v1.Change]:
    """Attributes by name and value."""
    if not at.can.attributes:
        return []
    return by_name(at, _Kind.SET_ATTRIBUTES, "attributes", at.want.attributes)


def boot_data(at: Situation) -> list[v1.Change]:
    """By its digest, which is all that anybody keeps of it; nobody knows what an adopted machine once got."""
    have, wish = at.seen.settings.get(BOOT_DATA_SETTING, ""), boot_data_digest(at.want)
    if not wish or have == wish or (at.adopted and not have):
        return []
    reason = because(
        "BootDataReadAtFirstBoot", "a guest reads it at its first boot; one that has booted may never look again"
    )
    return [
        at.shape(_Kind.SET_BOOT_DATA, "boot_data", f"{'replace the' if have else 'write'} first-boot data", [reason])
    ]
