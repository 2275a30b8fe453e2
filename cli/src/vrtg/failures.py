"""How a command fails: one clear sentence, and an exit code that scripts can tell apart."""

from __future__ import annotations

OK, FAILURE, USAGE, NOT_FOUND, UNREACHABLE, REFUSED = range(6)


class CommandError(Exception):
    """A command cannot go on; the message says what, why and what to do. It never holds a secret."""

    code = FAILURE


class UsageError(CommandError):
    """The command line makes no sense."""

    code = USAGE


class NotFoundError(CommandError):
    """What was named does not exist."""

    code = NOT_FOUND


class UnreachableError(CommandError):
    """The API server, a provider or the stack does not answer."""

    code = UNREACHABLE


class RefusedError(CommandError):
    """The other side understood, and refuses: invalid, forbidden, conflicting or not supported."""

    code = REFUSED
