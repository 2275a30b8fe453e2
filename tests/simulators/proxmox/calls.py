"""One request as a route sees it, and the table of routes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .access import Who
from .errors import bad, refused
from .world import Guest, Node, World

if TYPE_CHECKING:
    from .server import Proxmox

NOBODY = Who("")
FORM_TRUE = frozenset({"1", "on", "yes", "true"})  # what PVE's own code takes for true; the schema takes less


@dataclass
class Call:
    """One request, its caller known.

    Attributes:
        path: from the template: node, vmid, upid, ...; text, and decoded.
        params: of query and body; text from a form, typed from JSON.
        request: for routes that stream; its body was read unless it is multipart.
    """

    pve: Proxmox
    world: World
    who: Who
    method: str
    route: Route
    path: dict[str, str]
    params: dict[str, Any]
    request: web.Request

    @property
    def node(self) -> str:
        """The node in the path; `localhost` is the first."""
        name = self.path["node"]
        return next(iter(self.world.nodes)) if name == "localhost" else name

    @property
    def host(self) -> Node:
        return self.world.nodes[self.node]

    @property
    def vmid(self) -> int:
        return int(self.path["vmid"])

    @property
    def guest(self) -> Guest:
        """The guest in the path.

        Raises:
            PveError: it is not there, or on another node.
        """
        found = self.world.guests.get(self.vmid)
        if found is None or found.node != self.node:
            raise missing(self.node, self.vmid)
        return found

    def has(self, name: str) -> bool:
        return name in self.params

    def text(self, name: str, default: str = "") -> str:
        """A parameter as text; numbers and booleans of JSON as a form would carry them."""
        value = self.params.get(name, default)
        return str(int(value)) if isinstance(value, bool) else str(value)

    def number(self, name: str, default: int = 0) -> int:
        """A parameter as a number.

        Raises:
            PveError: 400, it is none.
        """
        text = self.text(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise bad(**{name.replace("-", "__"): f"type check ('integer') failed - got '{text}'"}) from None

    def flag(self, name: str, default: bool = False) -> bool:
        """A parameter as a yes or no."""
        return self.text(name, str(int(default))).lower() in FORM_TRUE

    def many(self, name: str) -> list[str]:
        """A parameter that may be given several times, or as a list with commas, semicolons or blanks."""
        value = self.params.get(name, "")
        values = value if isinstance(value, list) else re.split(r"[,;\s]+", self.text(name))
        return [str(one) for one in values if str(one)]

    def require(self, path: str, *privileges: str) -> None:
        """Refuse (403) a caller without one of `privileges` at `path`."""
        self.world.access.require(self.who, path, *privileges)

    def may(self, path: str, *privileges: str) -> bool:
        return self.world.access.may(self.who, path, *privileges)

    def required(self, *names: str) -> None:
        """Refuse (400) when one of `names` is missing."""
        lacking = {n.replace("-", "__"): "property is missing and it is not optional" for n in names if not self.has(n)}
        if lacking:
            raise bad(**lacking)

    def root_only(self, name: str) -> None:
        """Refuse (400) an option that only root in person may use."""
        if self.has(name) and self.flag(name) and not self.who.root:
            raise bad(**{name: "Only root may use this option."})


def missing(node: str, vmid: int) -> Exception:
    """What everybody answers about a guest that is not there."""
    return refused(f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")


Handler = Callable[[Call], Awaitable[object]]
Allowed = Callable[[Call], None]


@dataclass(frozen=True)
class Route:
    """One method of one path template.

    Attributes:
        allowed: raises when the caller may not; runs before anything is looked up. None: every login may.
        open: needs no login.
    """

    method: str
    template: str
    handler: Handler
    allowed: Allowed | None
    open: bool


ROUTES: dict[str, dict[int, list[tuple[re.Pattern[str], Route]]]] = defaultdict(lambda: defaultdict(list))
_WIDE = 99  # where templates are kept whose last part may hold slashes


def route(
    method: str, template: str, *, allowed: Allowed | None = None, open: bool = False
) -> Callable[[Handler], Handler]:
    """Register a handler; `{volume}` takes the rest of the path, every other name one segment."""
    pattern = re.escape(template).replace(r"\{volume\}", r"(?P<volume>.+)")
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
    depth = _WIDE if "{volume}" in template else template.count("/")

    def register(handler: Handler) -> Handler:
        made = Route(method, template, handler, allowed, open)
        ROUTES[method][depth].append((re.compile(pattern), made))
        ROUTES[method][depth].sort(key=lambda entry: entry[1].template.count("{"))  # words before names
        return handler

    return register


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a path (without /api2/json) and what it holds."""
    table = ROUTES.get(method, {})
    for pattern, found in [*table.get(path.count("/"), ()), *table.get(_WIDE, ())]:
        if match := pattern.fullmatch(path):
            return found, match.groupdict()
    return None


def at(path: str, *privileges: str) -> Allowed:
    """A check of one path template: `at("/vms/{vmid}", "VM.Audit")`; one of the privileges is enough."""

    def check(call: Call) -> None:
        call.require(path.format_map(call.path), *privileges)

    return check


def indexed(*names: str) -> list[dict[str, str]]:
    """The answer of a directory of the API."""
    return [{"name": name, "subdir": name} for name in names]


@dataclass(frozen=True)
class Page:
    """Rows out of more; `total` stands beside `data` in the answer."""

    rows: list[dict[str, Any]]
    total: int
