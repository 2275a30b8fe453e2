"""Who is calling: static bearer tokens from a file."""

from __future__ import annotations

import csv
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MASTERS, MONITORING = "system:masters", "system:monitoring"


class TokenFileError(Exception):
    """The token file cannot be used."""


@dataclass(frozen=True)
class User:
    """An authenticated caller; all are administrators of this server, but for those who watch over it."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()

    def may_read(self, path: str) -> bool:
        """Whether this path is theirs: the group `system:monitoring` alone opens nothing but /metrics."""
        return MONITORING not in self.groups or MASTERS in self.groups or path == "/metrics"

    def wire(self) -> dict[str, object]:
        """Return it as Kubernetes' UserInfo."""
        return {"username": self.name, **({"uid": self.uid} if self.uid else {}), "groups": list(self.groups)}


class Tokens:
    """Known tokens, kept as digests; the comparison takes the same time whatever it is given."""

    def __init__(self, users: Iterable[tuple[str, User]]) -> None:
        """Take (token, user) pairs."""
        self._users = [(hashlib.sha256(token.encode()).digest(), user) for token, user in users]

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Read lines `token,user,uid[,"group1,group2"]`, as kube-apiserver does; a line with only a token is `admin`.

        Raises:
            TokenFileError: it cannot be read, or holds no token. The text never shows a token.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row and row[0].strip()]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TokenFileError(f"cannot read the token file {path}: {error}") from error
        if not rows:
            raise TokenFileError(f"the token file {path} holds no token; write one line: token,user,uid")
        users = []
        for token, name, uid, groups, *_ in ([*row, "", "", ""] for row in rows):
            names = [g.strip() for g in groups.split(",") if g.strip()] or [MASTERS]
            users.append((token, User(name or "admin", uid, (*names, "system:authenticated"))))
        return cls(users)

    def user(self, token: str) -> User | None:
        """Return whom a token belongs to, or None."""
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for known, user in self._users:
            if hmac.compare_digest(known, digest):
                found = user
        return found

    def caller(self, authorization: str) -> User | None:
        """Return who sent an Authorization header, or None."""
        scheme, _, token = authorization.partition(" ")
        return self.user(token.strip()) if scheme.lower() == "bearer" and token.strip() else None
