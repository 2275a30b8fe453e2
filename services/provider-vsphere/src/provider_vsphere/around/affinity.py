"""Machines together or apart: rules of a cluster's DRS, named after owner, namespace, rule and what it asks for.

The stamps are what is wanted: the members of a rule are all our machines of a cluster whose stamps name it. So a
machine joins by its own stamp, whoever comes first or second, and the rule is then brought to what the stamps say; that
is safe to repeat, and two that join at once end with the same rule. DRS takes no rule with fewer than two members: the
first one waits for the second in its stamp alone, and the last but one to leave ends the rule.

What a rule asks for is part of its name. Machines that change from one to the other, one after another, are members of
two rules meanwhile and never of one that contradicts their specs. Rules with other names are never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from common import logging, v1
from common.errors import InvalidSpecError, NotSupportedError, OperationInProgressError, StalePreconditionError
from providerkit.planner import affinity_words
from pyVmomi import vim

from provider_vsphere import machines
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.session.watched import DRS, STAMP, Drs, DrsRule, drs
from provider_vsphere.stamps.stamp import Stamp

log = logging.get(__name__)

_FIELD = "placement.affinity["
_ATTEMPTS = 3
"""So often a rule is brought up to date upon what somebody else has changed meanwhile."""
_FEWEST = 2
"""Members of a rule that DRS accepts."""


@dataclass(frozen=True, order=True)
class Rule:
    """One rule of one namespace."""

    owner: str
    namespace: str
    name: str
    words: str
    """What it asks for: "apart", "together required"."""

    @property
    def drs_name(self) -> str:
        """Its name in the cluster."""
        return f"virtrigaud:{self.owner}:{self.namespace}:{self.name} {self.words}"

    @property
    def field(self) -> str:
        """Its key in the stamp's settings."""
        return f"{_FIELD}{self.name}]"


# -- what the stamps say -----------------------------------------------------------------------------------------------


def asked(record: Stamp) -> list[Rule]:
    """The rules that a machine wants to be in."""
    found = {key[len(_FIELD) : -1]: words for key, words in record.settings.items() if key.startswith(_FIELD)}
    return [Rule(record.owner, record.namespace, name, words) for name, words in sorted(found.items())]


def asking(record: Stamp, rules: Iterable[v1.AffinityRule]) -> Stamp | None:
    """The stamp with these rules and no others; None when it has them."""
    others = {key: value for key, value in record.settings.items() if not key.startswith(_FIELD)}
    settings = others | {f"{_FIELD}{rule.name}]": affinity_words(rule) for rule in rules}
    return replace(record, settings=settings) if settings != record.settings else None


def cluster_of(entity: Entity, tree: Tree) -> Entity | None:
    """The cluster that a machine is in; None on a host of its own."""
    host = tree.get(entity.facts.get("runtime.host"))
    pool = tree.get(entity.facts.get("resourcePool"))
    compute = tree.get(host.parent) if host is not None else None
    if compute is None and pool is not None:
        compute = tree.get(pool.facts.get("owner"))
    return compute if compute is not None and compute.kind == "ClusterComputeResource" else None


def members(rule: Rule, cluster: Entity, tree: Tree) -> set[str]:
    """Ids of the machines that belong into a rule."""
    there = ((entity.moid, cluster_of(entity, tree)) for entity in _naming(rule, tree))
    return {moid for moid, where in there if where is not None and where.moid == cluster.moid}


def _naming(rule: Rule, tree: Tree) -> Iterator[Entity]:
    for entity in tree.of_kind("VirtualMachine"):
        if rule.field not in str(entity.facts.get(STAMP) or ""):
            continue  # most machines are in no rule: not worth decoding their stamps
        mark = machines.stamp_of(entity)
        if mark is not None and rule in asked(mark):
            yield entity


# -- what DRS says -----------------------------------------------------------------------------------------------------


def observed(entity: Entity, tree: Tree, record: Stamp) -> dict[str, str]:
    """Rules that hold for a machine, as settings. One whose only machine it is holds by itself."""
    cluster = cluster_of(entity, tree)
    if cluster is None:
        return {}
    there, found = _rules(cluster), {}
    for rule in asked(record):
        present = there.get(rule.drs_name)
        alone = present is None and members(rule, cluster, tree) <= {entity.moid}
        if alone or (present is not None and entity.moid in present.members):
            found[rule.field] = rule.words
    for rule in _holding(entity, there, record):
        found.setdefault(rule.field, rule.words)
    return found


def _holding(entity: Entity, there: Mapping[str, DrsRule], record: Stamp) -> list[Rule]:
    """Rules of ours that have this machine, whether it wants them or not."""
    prefix = f"virtrigaud:{record.owner}:{record.namespace}:"
    found = []
    for name, present in there.items():
        if name.startswith(prefix) and entity.moid in present.members:
            rule, _, words = name[len(prefix) :].partition(" ")
            found.append(Rule(record.owner, record.namespace, rule, words))
    return found


def _rules(cluster: Entity) -> dict[str, DrsRule]:
    facts: Drs | None = cluster.facts.get(DRS)
    return facts.rules if facts is not None else {}


def is_kept(tree: Tree) -> bool:
    """There is a cluster whose DRS keeps rules."""
    return any(_enabled(cluster) for cluster in tree.of_kind("ClusterComputeResource"))


def _enabled(cluster: Entity) -> bool:
    facts: Drs | None = cluster.facts.get(DRS)
    return facts is not None and facts.enabled


def change(rule: Rule, present: DrsRule | None, wanted: set[str]) -> Any | None:
    """What brings a rule of DRS to these members, as a vim.cluster.RuleSpec; None when it has them."""
    if len(wanted) < _FEWEST:
        return vim.cluster.RuleSpec(operation="remove", removeKey=present.key) if present is not None else None
    if present is not None and present.members == wanted and present.enabled:
        return None
    apart, required = rule.words.startswith("apart"), rule.words.endswith("required")
    kind = vim.cluster.AntiAffinityRuleSpec if apart else vim.cluster.AffinityRuleSpec
    info = kind(name=rule.drs_name, enabled=True, mandatory=required, userCreated=True)
    info.vm = [vim.VirtualMachine(moid) for moid in sorted(wanted)]
    if present is not None:
        info.key = present.key
    return vim.cluster.RuleSpec(operation="add" if present is None else "edit", info=info)


# -- doing it ----------------------------------------------------------------------------------------------------------


class Affinity:
    """Rules of one vCenter."""

    def __init__(self, vsphere: Vsphere) -> None:
        self._vsphere = vsphere
        self._locks: dict[str, asyncio.Lock] = {}

    def cluster(self, entity: Entity, doing: str) -> Entity:
        """The cluster whose DRS keeps a machine's rules.

        Raises:
            NotSupportedError: there is none.
        """
        cluster = cluster_of(entity, self._vsphere.tree)
        if cluster is None:
            raise NotSupportedError(f"{doing}: it is on a host of its own; only a cluster keeps machines together")
        if not _enabled(cluster):
            raise NotSupportedError(f"{doing}: DRS is off in cluster {cluster.name}, and nothing else keeps its rules")
        return cluster

    async def settle(self, entity: Entity, also: Iterable[Rule], doing: str, *, leaving: bool = False) -> None:
        """Bring every rule that a machine is in, or shall be in, to what the stamps say.

        Args:
            also: rules that it was in before, or names no longer.
            leaving: it is about to go: it counts as a member no more.
        """
        cluster = cluster_of(entity, self._vsphere.tree)
        record = machines.stamp_of(entity)
        if cluster is None or record is None:
            return
        for rule in sorted({*also, *asked(record), *_holding(entity, _rules(cluster), record)}):
            await self._settle(rule, cluster, {entity.moid} if leaving else set(), doing)

    async def _settle(self, rule: Rule, cluster: Entity, without: set[str], doing: str) -> None:
        async with self._locks.setdefault(cluster.moid, asyncio.Lock()):
            for attempt in range(_ATTEMPTS):
                await self._read(cluster, doing)
                wanted = members(rule, cluster, self._vsphere.tree) - without
                edit = change(rule, _rules(cluster).get(rule.drs_name), wanted)
                if edit is None:
                    return
                try:
                    await self._reconfigure(cluster, edit, doing)
                # Somebody else changed the same rule meanwhile: its key or its name is no longer as it was read.
                except (InvalidSpecError, StalePreconditionError, OperationInProgressError):
                    if attempt + 1 == _ATTEMPTS:
                        raise
                else:
                    log.info("vsphere.rule.set", name=rule.drs_name, cluster=cluster.name, members=len(wanted))
            await self._read(cluster, doing)

    async def _read(self, cluster: Entity, doing: str) -> None:
        """Rules of a cluster, without waiting for the collector."""

        def read(login: Login) -> Drs:
            return drs(self._vsphere.object(cluster, login).configurationEx)

        self._vsphere.learn(cluster, {DRS: await self._vsphere.call(doing, read)})

    async def _reconfigure(self, cluster: Entity, edit: Any, doing: str) -> None:
        spec = vim.cluster.ConfigSpecEx(rulesSpec=[edit])

        def begin(login: Login) -> Any:
            return self._vsphere.object(cluster, login).ReconfigureComputeResource_Task(spec, modify=True)

        await self._vsphere.task(doing, begin)
