"""Rules of high availability: on which nodes a member may be, and with whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .formats import split_list

if TYPE_CHECKING:
    from .world import World

Rule = dict[str, Any]


def rules_of(world: World, sid: str, kind: str) -> Iterator[Rule]:
    """The rules of a kind that count for a member."""
    for rule in world.ha_rules.values():
        if rule["type"] == kind and not rule.get("disable") and sid in split_list(rule["resources"]):
            yield rule


def priorities(rule: Rule) -> dict[str, int]:
    """The nodes of a rule; the higher the better."""
    pairs = (item.partition(":") for item in split_list(rule.get("nodes", "")))
    return {name: int(priority or 0) for name, _, priority in pairs}


def mates(world: World, sid: str, affinity: str) -> Iterator[tuple[str, str]]:
    """The other members of rules that hold a member together with or apart from them, and their nodes."""
    for rule in rules_of(world, sid, "resource-affinity"):
        if rule["affinity"] == affinity:
            for other in split_list(rule["resources"]):
                guest = world.guests.get(int(other.partition(":")[2]))
                if other != sid and other in world.ha and guest is not None:
                    yield other, guest.node


def placements(world: World, sid: str, *, avoid: str = "") -> list[str]:
    """The nodes where a member may be, as good as they come: all of one rank, the emptiest first."""
    nodes = [name for name, node in world.nodes.items() if node.online and name != avoid]
    # Of two that repel each other, the later one gives way: otherwise both would.
    taken = {node for other, node in mates(world, sid, "negative") if avoid or other < sid}
    nodes = [name for name in nodes if name not in taken]
    for rule in rules_of(world, sid, "node-affinity"):
        ranked = {name: rank for name, rank in priorities(rule).items() if name in nodes}
        if ranked:
            best = max(ranked.values())
            nodes = [name for name in nodes if ranked.get(name) == best]
        elif rule.get("strict"):
            return []
    together = {node for _, node in mates(world, sid, "positive") if node in nodes}
    if together:
        nodes = [name for name in nodes if name in together]
    there = [guest.node for guest in world.guests.values() if f"vm:{guest.vmid}" in world.ha]
    return sorted(nodes, key=lambda name: (there.count(name), name))


def infeasible(rule: Rule, others: Iterable[Rule], nodes: int) -> list[str]:
    """Why a rule cannot be kept beside others in a cluster of so many nodes. Source: PVE::HA::Rules."""
    if rule.get("disable"):
        return []
    mine, kind, affinity = set(split_list(rule["resources"])), rule["type"], rule.get("affinity")
    rivals = [other for other in others if other["type"] == kind and not other.get("disable")]
    if kind == "node-affinity":
        taken = {sid for other in rivals for sid in split_list(other["resources"])}
        return [f"resource '{sid}' is already used in another node affinity rule" for sid in sorted(mine & taken)]
    found = []
    if len(mine) < 2:
        found.append("rule is ineffective as there are less than two resources")
    if affinity == "negative" and len(mine) > nodes:
        found.append("rule defines more resources than available nodes")
    found += [
        f"rule shares two or more resources with a {other['affinity']} resource affinity rule"
        for other in rivals
        if other["affinity"] != affinity and len(mine & set(split_list(other["resources"]))) > 1
    ]
    return found


def blocking(world: World, sid: str, target: str) -> list[dict[str, str]]:
    """The members that keep another off a node."""
    return [
        {"sid": other, "cause": "resource-affinity"} for other, node in mates(world, sid, "negative") if node == target
    ]


def followers(world: World, sid: str) -> list[str]:
    """The members that go where a member goes."""
    return sorted(other for other, _ in mates(world, sid, "positive"))
