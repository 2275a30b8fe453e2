"""Who may call what on a provider: the one table, from each method of the contract to the roles that may.

What a client is, its certificate says (`common.identity`), or the setting that lets it in under another name. A
cluster's probes ask /healthz and /readyz over HTTP and need no certificate; gRPC's health and reflection tell what a
service is called and whether it is well, so whoever may look may ask them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common import identity
from common.identity import Role

CHANGE = frozenset({Role.CONTROLLER})
"""It changes something, or hands out content of a disk."""
CONVERSE = CHANGE | {Role.OPERATOR}
"""A person at a machine: its console takes keys, its picture may show what is typed, and it has a reset button."""
LOOK = CONVERSE | {Role.VIEWER}
"""It tells, and changes nothing."""

TABLE: dict[str, dict[str, frozenset[Role]]] = {
    "ProviderService": {"GetProvider": LOOK, "CheckConnection": LOOK},
    "MachineService": {
        "PlanMachine": LOOK,
        "ApplyMachine": CHANGE,
        "DeleteMachine": CHANGE,
        "GetMachine": LOOK,
        "ListMachines": LOOK,
        "WatchMachines": LOOK,
        "RunPowerAction": CONVERSE,
        "CloneMachine": CHANGE,
        "OpenConsole": CONVERSE,
        "CaptureScreenshot": CONVERSE,
        "AdoptMachine": CHANGE,
    },
    "SnapshotService": {
        "CreateSnapshot": CHANGE,
        "DeleteSnapshot": CHANGE,
        "RevertSnapshot": CHANGE,
        "ListSnapshots": LOOK,
    },
    "ImageService": {"PrepareImage": CHANGE, "GetImage": LOOK, "ListImages": LOOK, "DeleteImage": CHANGE},
    "DiskService": {"GetDisk": LOOK, "ReadDisk": CHANGE, "WriteDisk": CHANGE},
    "OperationService": {
        "GetOperation": LOOK,
        "ListOperations": LOOK,
        "CancelOperation": CHANGE,
        "WatchOperation": LOOK,
    },
    "InventoryService": {"GetInventory": LOOK},
}
PACKAGE = "virtrigaud.provider.v1"
_METHODS = {f"/{PACKAGE}.{service}/{method}": may for service, calls in TABLE.items() for method, may in calls.items()}
_OWN = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class Access:
    """Names that are let in, and what each of them may call."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self.roles = dict(roles)

    def may_call(self, names: frozenset[str], method: str) -> bool:
        """Whether a client with these names may call "/package.Service/Method"; a method without a row is nobody's."""
        allowed = LOOK if method.startswith(_OWN) else _METHODS.get(method, frozenset())
        return any(self.roles.get(name) in allowed for name in names)


def access(entries: Iterable[str]) -> Access:
    """Access from what a setting lists: the URI of one of our roles, or ROLE=NAME for any other name.

    Raises:
        ValueError: an entry that is neither.
    """
    roles: dict[str, Role] = {}
    for entry in entries:
        given, _, name = entry.partition("=")
        role = identity.role_of(entry) or (_role(given) if name else None)
        if role is None:
            ours = f"spiffe://{identity.TRUST_DOMAIN}/ns/NAMESPACE/ROLE"
            known = ", ".join(each.value for each in Role)
            raise ValueError(f"allowed_clients: {entry!r} is neither {ours} nor ROLE=NAME (roles: {known})")
        roles[entry if identity.role_of(entry) is not None else name] = role
    return Access(roles)


def of_namespace(namespace: str = identity.SYSTEM_NAMESPACE) -> tuple[str, ...]:
    """The clients of an installation, as `access` takes them. Raises: ValueError: no name of a namespace."""
    return tuple(identity.client(role, namespace) for role in Role)


def _role(word: str) -> Role | None:
    return next((role for role in Role if role.value == word), None)
