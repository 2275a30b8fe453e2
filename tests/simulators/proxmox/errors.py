"""How Proxmox VE says no."""

from __future__ import annotations

from collections.abc import Mapping


class PveError(Exception):
    """A refusal: in an answer its HTTP status and reason, in a task the text it ends with.

    Attributes:
        errors: parameter -> text; given with a 400 only.
        told: whether the body repeats the reason; those of most 401 are empty.
    """

    def __init__(
        self, status: int, reason: str, errors: Mapping[str, str] | None = None, *, told: bool | None = None
    ) -> None:
        super().__init__(reason)
        self.told = status != 401 if told is None else told
        self.status = status
        self.reason = reason
        self.errors = dict(errors) if errors else None

    @property
    def line(self) -> str:
        """As a task ends with it: all in one line."""
        if self.errors is None:
            return self.reason.rstrip("\n")
        told = " ".join(f"{name}: {text}" for name, text in self.errors.items())
        return f"{self.status} {self.reason} {told}".replace("\n", " ")


def refused(reason: str) -> PveError:
    """What nearly everything that goes wrong is: there is no 404 and no 409."""
    return PveError(500, reason)


def bad(**errors: str) -> PveError:
    """Parameters that do not pass; a dash in a parameter's name is written as two underscores."""
    named = {name.replace("__", "-"): text for name, text in errors.items()}
    return PveError(400, "Parameter verification failed.", named)


FORBIDDEN = "Permission check failed"


def forbidden(path: str, *privileges: str) -> PveError:
    """A right that is missing; one of `privileges` would do."""
    return PveError(403, f"Permission check failed ({path}, {'|'.join(privileges)})" if path else FORBIDDEN)
