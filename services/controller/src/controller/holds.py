"""Reasons to wait that are no errors: the object says what it waits for, and whatever changes that wakes it again."""

from __future__ import annotations


class Hold(Exception):
    """The object cannot be brought further now.

    Args:
        reason: UpperCamelCase, for the condition.
        message: for people; names what is waited for, and holds nothing that changes by itself.
        again: seconds after which to look again though nothing woke it; None leaves it to events and the slow resync.
        quiet: nothing is known yet that the object should say; what it says stays.
    """

    def __init__(self, reason: str, message: str, *, again: float | None = None, quiet: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.again = again
        self.quiet = quiet


WAITING = "WaitingForDependencies"
NOT_ALLOWED = "ConsumerNotAllowed"
