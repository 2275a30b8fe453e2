"""Users, tokens, roles and access lists, and what they add up to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field

from .errors import PveError, forbidden
from .roles import ROLES

ROOT = "root@pam"


@dataclass(frozen=True)
class Who:
    """Who calls: a user by ticket, or one of their tokens."""

    user: str
    token: str = ""

    @property
    def name(self) -> str:
        """As it stands in UPIDs and access lists: `user@realm` or `user@realm!token`."""
        return f"{self.user}!{self.token}" if self.token else self.user

    @property
    def root(self) -> bool:
        """Root in person; a token of root is not."""
        return self.name == ROOT


@dataclass
class Token:
    secret: str
    privsep: bool = True
    expire: int = 0
    comment: str = ""


@dataclass
class User:
    password: str = ""
    enable: bool = True
    expire: int = 0
    comment: str = ""
    groups: set[str] = field(default_factory=set)
    tokens: dict[str, Token] = field(default_factory=dict)


@dataclass(frozen=True)
class Grant:
    """One line of the access list: `kind` (user, group, token) `ugid` has `role` on `path`."""

    path: str
    role: str
    kind: str
    ugid: str
    propagate: bool = True


class Access:
    """The access control of a cluster."""

    def __init__(self, ticket_seconds: float) -> None:
        self.users: dict[str, User] = {}
        self.groups: dict[str, str] = {}
        self.roles: dict[str, frozenset[str]] = dict(ROLES)
        self.grants: set[Grant] = set()
        self.pool_of: dict[int, str] = {}  # vmid -> pool; kept here because a grant on a pool covers its guests
        self.pool_storages: dict[str, set[str]] = {}  # storage -> pools
        self._key = secrets.token_bytes(16)
        self._ticket_seconds = ticket_seconds

    # -- who

    def login(self, username: str, password: str) -> str:
        """The user's full name; a valid ticket passes for a password.

        Raises:
            PveError: 401 without telling which of the two was wrong.
        """
        user = self.users.get(username)
        if user is None or not self._alive(user.enable, user.expire):
            raise PveError(401, "authentication failure", told=True)
        if self.ticket_user(password) != username and (not user.password or password != user.password):
            raise PveError(401, "authentication failure", told=True)
        return username

    def ticket(self, user: str, kind: str = "PVE", bound: str = "") -> str:
        """A signed ticket; one of another kind than PVE is for consoles, and bound to a path and port."""
        plain = f"{kind}:{user}:{int(time.time()):08X}"
        return f"{plain}::{self._sign(plain + bound)}"

    def ticket_user(self, ticket: str, kind: str = "PVE", bound: str = "") -> str | None:
        """Whose ticket it is; None when it is none of ours or too old."""
        plain, _, signature = ticket.partition("::")
        parts = plain.split(":")
        if len(parts) != 3 or parts[0] != kind or not hmac.compare_digest(signature, self._sign(plain + bound)):
            return None
        user = self.users.get(parts[1].partition("!")[0])  # consoles have tickets for tokens, too
        if user is None or not self._alive(user.enable, user.expire) or self._old(parts[2]):
            return None
        return parts[1]

    def csrf(self, user: str) -> str:
        """What a ticket's holder sends along with every change."""
        when = f"{int(time.time()):08X}"
        return f"{when}:{self._sign(f'{when}:{user}')}"

    def csrf_valid(self, user: str, sent: str) -> bool:
        when, _, signature = sent.partition(":")
        return hmac.compare_digest(signature, self._sign(f"{when}:{user}")) and not self._old(when)

    def token_who(self, sent: str) -> Who | None:
        """The caller behind `user@realm!token=secret`."""
        full, _, secret = sent.partition("=")
        name, _, token_name = full.partition("!")
        user = self.users.get(name)
        token = user.tokens.get(token_name) if user else None
        if user is None or token is None or not hmac.compare_digest(token.secret.encode(), secret.encode()):
            return None
        if not self._alive(user.enable, user.expire) or not self._alive(True, token.expire):
            return None
        return Who(name, token_name)

    def expire_tickets(self) -> None:
        """Make every ticket handed out so far invalid, as a new key of the cluster does."""
        self._key = secrets.token_bytes(16)

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.digest(self._key, text.encode(), hashlib.sha256)).decode()

    def _old(self, when: str) -> bool:
        try:
            return time.time() - int(when, 16) > self._ticket_seconds
        except ValueError:
            return True

    @staticmethod
    def _alive(enable: bool, expire: int) -> bool:
        return enable and (not expire or expire > time.time())

    # -- what they may

    def privileges(self, who: Who, path: str) -> frozenset[str]:
        """Everything `who` may do at `path`."""
        if who.root:
            return self.roles["Administrator"]
        user = self.users.get(who.user)
        if user is None:
            return frozenset()
        of_user = self.roles["Administrator"] if who.user == ROOT else self._at("user", who.user, user.groups, path)
        token = user.tokens.get(who.token)
        if token is None or not token.privsep:
            return of_user
        return of_user & self._at("token", who.name, set(), path)

    def may(self, who: Who, path: str, *privileges: str) -> bool:
        """Whether `who` has one of `privileges` at `path`."""
        return not self.privileges(who, path).isdisjoint(privileges)

    def require(self, who: Who, path: str, *privileges: str) -> None:
        """Raise a 403 unless `may`."""
        if not self.may(who, path, *privileges):
            raise forbidden(path, *privileges)

    def _at(self, kind: str, name: str, groups: set[str], path: str) -> frozenset[str]:
        found = self._along(kind, name, groups, path)
        for pool in self._pools(path):
            found |= self._along(kind, name, groups, f"/pool/{pool}")
        return found

    def _pools(self, path: str) -> set[str]:
        noun, _, name = path.lstrip("/").partition("/")
        if noun == "vms" and name.isdecimal():
            pool = self.pool_of.get(int(name))
            return {pool} if pool else set()
        return self.pool_storages.get(name, set()) if noun == "storage" else set()

    def _along(self, kind: str, name: str, groups: set[str], path: str) -> frozenset[str]:
        """The nearest grants on the way from `path` to the root; what is said nearer replaces what is said farther."""
        here = path
        while True:
            at = [g for g in self.grants if g.path == here and (g.propagate or here == path)]
            own = [g.role for g in at if g.kind == kind and g.ugid == name]
            roles = own or [g.role for g in at if g.kind == "group" and g.ugid in groups]
            if "NoAccess" in roles:
                return frozenset()
            if roles:
                return frozenset().union(*(self.roles.get(role, frozenset()) for role in roles))
            if here == "/":
                return frozenset()
            here = here.rpartition("/")[0] or "/"
