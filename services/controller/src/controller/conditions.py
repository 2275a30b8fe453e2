"""Conditions: set without touching what others set, with a transition time that moves on status flips only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kinds.metadata import Condition

Truth = Literal["True", "False", "Unknown"]
MAX_MESSAGE = 4000
"""The schema allows 32768; nobody reads that."""


@dataclass(frozen=True)
class Wish:
    """A condition as it shall be."""

    type: str
    status: Truth
    reason: str
    message: str


def timestamp(now: datetime) -> str:
    """metav1.Time."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def merged(
    before: Sequence[Condition], wishes: Sequence[Wish], owned: Iterable[str], generation: int, now: datetime
) -> list[Condition]:
    """The new list: the wishes, and those of other owners as they were. An owned type without a wish goes."""
    known = {condition.type: condition for condition in before}
    wanted = {wish.type: wish for wish in wishes}
    mine = {*owned, *wanted}
    after = []
    for kind in [*(c.type for c in before), *(kind for kind in wanted if kind not in known)]:
        if kind not in mine:
            after.append(known[kind])
        elif kind in wanted:
            after.append(_condition(wanted[kind], known.get(kind), generation, now))
    return after


def _condition(wish: Wish, before: Condition | None, generation: int, now: datetime) -> Condition:
    same = before is not None and before.status == wish.status
    message = wish.message if len(wish.message) <= MAX_MESSAGE else wish.message[: MAX_MESSAGE - 3] + "..."
    return Condition(
        type=wish.type,
        status=wish.status,
        reason=wish.reason,
        message=message,
        last_transition_time=before.last_transition_time if before is not None and same else timestamp(now),
        observed_generation=generation,
    )
