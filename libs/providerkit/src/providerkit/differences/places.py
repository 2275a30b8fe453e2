"""Where a machine is, and beside whom."""

from __future__ import annotations

from common import v1

from providerkit.record import affinity_words
from providerkit.refusals import PLACES

from .situation import Situation, by_name, never

_Kind = v1.ChangeKind
_Effect = v1.Effect


def placement(at: Situation) -> list[v1.Change]:
    """A machine that is elsewhere than it is asked for."""
    placement = at.want.placement
    changes: list[v1.Change] = []
    if placement is None:
        return changes
    for name, kind in PLACES.items():
        field, wish = f"placement.{name}", getattr(placement, name)
        have = at.seen.settings.get(field, "") or (at.seen.host if name == "host" else "")
        if wish and have and wish != have:
            message = f"move machine from {name.replace('_', ' ')} {have} to {wish}"
            if kind in at.can.placement_moves:
                changes.append(v1.Change(kind=_Kind.SET_PLACEMENT, field=field, effect=_Effect.ONLINE, message=message))
                continue
            why = "this provider leaves a machine where it was made"
            changes.append(never(_Kind.SET_PLACEMENT, field, message, _Effect.RECREATE, "MoveUnsupported", why))
    return changes


def affinity(at: Situation) -> list[v1.Change]:
    """Rules by name and words."""
    if not at.can.affinity:
        return []
    rules = at.want.placement.affinity if at.want.placement is not None else []
    wishes = {rule.name: affinity_words(rule) for rule in rules}
    return by_name(at, _Kind.SET_PLACEMENT, "placement.affinity", wishes)
