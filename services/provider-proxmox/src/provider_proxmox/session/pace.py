"""How often the cluster is looked at: within a budget of requests while it is quiet, faster while something happens."""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = 30.0
"""Requests a minute and node, while nothing happens."""
ROTATION = 0.45
"""Of those, for agents, and for reading configurations that gave no sign of a change."""
NETWORKS_SECONDS = 600.0
FULL_SECONDS = 30.0
"""So often a list of a node is one that asks each QEMU for its own state; the node does that itself every 10 s."""
_LEASES, _BUSY_LEASES = 120.0, 5.0
BUSY_SECONDS = 10.0
"""For so long after a change the looks are faster."""
_SPARE = 0.2
"""Of the budget: now and then two beats fall into one minute."""
_BUSY_LIST, _BUSY_TASKS, _BUSY_RESOURCES = 1.0, 0.5, 5.0
_FASTEST_TASKS, _SLOWEST_TASKS = 0.8, 20.0


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks at each kind of thing."""

    nodes: float
    """At the guests of each node."""
    tasks: float
    """At the tasks of the cluster."""
    resources: float
    """At the tags, locks, pools, nodes and storages of the cluster."""
    log: float
    """At the cluster's log."""
    leases: float
    """At the addresses that the cluster gave out, where it does."""
    rotation: float
    """At the configuration of the guest whose was read longest ago."""


def pace(nodes: int, tick: float, *, busy: bool) -> Pace:
    """For a cluster of so many nodes.

    A list per node tells what changed without leaving a task, so it sets the latency of everything; what is left of the
    budget goes to the list of tasks, of which there is one for the whole cluster: the more nodes, the more often.
    Whoever sets a tick that does not fit into the budget wants latency: then tasks are looked at as often.
    """
    nodes = max(nodes, 1)
    resources = 12.0 if nodes >= 5 else 30.0
    logged = resources
    shared = 60 / resources + 60 / logged + 60 / _LEASES
    left = BUDGET - _SPARE - 60 / tick - shared / nodes - ROTATION - 60 / NETWORKS_SECONDS
    tasks = min(max(60 / (left * nodes), _FASTEST_TASKS), _SLOWEST_TASKS) if left > 0 else tick
    quiet = Pace(tick, tasks, resources, logged, _LEASES, 60 / (ROTATION * nodes))
    if not busy:
        return quiet
    return Pace(
        nodes=min(quiet.nodes, _BUSY_LIST),
        tasks=min(quiet.tasks, _BUSY_TASKS),
        resources=min(resources, _BUSY_RESOURCES),
        log=min(logged, _BUSY_RESOURCES),
        leases=_BUSY_LEASES,
        rotation=quiet.rotation,
    )
