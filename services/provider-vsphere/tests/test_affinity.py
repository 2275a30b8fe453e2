"""Rules of DRS: brought to what the stamps say, by whoever comes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from common import v1
from common.errors import NotSupportedError
from provider_vsphere.around import affinity
from provider_vsphere.around.affinity import Affinity, Rule
from provider_vsphere.config import editing
from provider_vsphere.machines import record_of
from provider_vsphere.session.tree import Entity, Tree
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.session.watched import DRS, STAMP, Drs, DrsRule
from provider_vsphere.stamps.stamp import Stamp
from pyVmomi import vim

from .conftest import OWNER, create

APART = Rule(OWNER, "shop", "db", "apart")
WISH = v1.AffinityRule(name="db", apart=True)


# -- pure --------------------------------------------------------------------------------------------------------------


def mark(number: int, *rules: v1.AffinityRule) -> Stamp:
    bare = Stamp(f"uid-{number}", "shop", f"web-{number}", OWNER)
    return affinity.asking(bare, rules) or bare


def machine(tree: Tree, number: int, *rules: v1.AffinityRule, pool: str = "pool-1", host: str | None = None) -> Entity:
    facts = {"config.instanceUuid": f"uid-{number}", STAMP: mark(number, *rules).text(), "resourcePool": pool}
    return tree.put("VirtualMachine", f"vm-{number}", facts | ({"runtime.host": host} if host else {}))


@pytest.fixture
def tree() -> Tree:
    """Two clusters and a host of its own."""
    tree = Tree()
    for n in (1, 2):
        tree.put("ClusterComputeResource", f"c-{n}", {"name": f"C{n}", DRS: Drs(True, {})})
        tree.put("ResourcePool", f"pool-{n}", {"owner": f"c-{n}"})
        tree.put("HostSystem", f"host-{n}", {"parent": f"c-{n}"})
    tree.put("ComputeResource", "alone", {"name": "esx"})
    tree.put("ResourcePool", "pool-alone", {"owner": "alone"})
    return tree


def keep(tree: Tree, *moids: str, rule: Rule = APART, enabled: bool = True, cluster: str = "c-1") -> None:
    rules = {rule.drs_name: DrsRule(7, frozenset(moids), enabled)} if moids else {}
    tree.put("ClusterComputeResource", cluster, {DRS: Drs(True, rules)})


def holds(tree: Tree, entity: Entity) -> dict[str, str]:
    return affinity.observed(entity, tree, record_of(entity))


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        (WISH, f"virtrigaud:{OWNER}:shop:db apart"),
        (v1.AffinityRule(name="db", required=True), f"virtrigaud:{OWNER}:shop:db together required"),
    ],
)
def test_a_rule_is_named_after_owner_namespace_name_and_what_it_asks_for(wish: v1.AffinityRule, name: str) -> None:
    assert [rule.drs_name for rule in affinity.asked(mark(1, wish))] == [name]


def test_the_stamp_keeps_what_was_asked_for() -> None:
    two = affinity.asking(mark(1, v1.AffinityRule(name="old")), [WISH])
    assert two is not None
    assert affinity.asked(two) == [APART]
    assert affinity.asking(two, [WISH]) is None


def test_the_first_machine_of_a_rule_waits_for_the_second(tree: Tree) -> None:
    first = machine(tree, 1, WISH)
    assert affinity.change(APART, None, affinity.members(APART, tree.get("c-1") or first, tree)) is None
    assert holds(tree, first) == {"placement.affinity[db]": "apart"}
    machine(tree, 2, WISH, host="host-1")
    machine(tree, 3, WISH, pool="pool-2")
    machine(tree, 4, v1.AffinityRule(name="db"))
    machine(tree, 5, WISH, pool="pool-alone")
    assert affinity.members(APART, tree.get("c-1") or first, tree) == {"vm-1", "vm-2"}
    assert holds(tree, first) == {}, "the rule is not there, so it does not hold"
    keep(tree, "vm-1", "vm-2")
    assert holds(tree, first) == {"placement.affinity[db]": "apart"}


def test_a_rule_that_has_a_machine_which_does_not_ask_for_it_shows(tree: Tree) -> None:
    entity = machine(tree, 1)
    keep(tree, "vm-1", "vm-2")
    assert holds(tree, entity) == {"placement.affinity[db]": "apart"}
    keep(tree, "vm-1", "vm-2", rule=Rule("somebody", "shop", "db", "apart"))
    assert holds(tree, entity) == {}


def test_on_a_host_of_its_own_nothing_holds(tree: Tree) -> None:
    assert holds(tree, machine(tree, 1, WISH, pool="pool-alone")) == {}


@pytest.mark.parametrize(
    ("present", "wanted", "operation"),
    [
        (None, set(), None),
        (None, {"a"}, None),
        (None, {"a", "b"}, "add"),
        (DrsRule(7, frozenset({"a", "b"}), True), {"a", "b"}, None),
        (DrsRule(7, frozenset({"a", "b"}), False), {"a", "b"}, "edit"),
        (DrsRule(7, frozenset({"a", "x"}), True), {"a", "b", "c"}, "edit"),
        (DrsRule(7, frozenset({"a", "b"}), True), {"a"}, "remove"),
        (DrsRule(7, frozenset(), True), set(), "remove"),
    ],
)
def test_a_rule_is_added_edited_and_removed(present: DrsRule | None, wanted: set[str], operation: str | None) -> None:
    edit = affinity.change(APART, present, wanted)
    assert (edit.operation if edit is not None else None) == operation
    if operation == "remove":
        assert edit.removeKey == 7
    elif edit is not None:
        assert isinstance(edit.info, vim.cluster.AntiAffinityRuleSpec)
        assert {each._moId for each in edit.info.vm} == wanted
        assert (edit.info.name, edit.info.mandatory, edit.info.enabled) == (APART.drs_name, False, True)
        assert edit.info.key == (None if operation == "add" else 7)


def test_together_and_required_are_what_drs_calls_them() -> None:
    edit = affinity.change(Rule(OWNER, "shop", "db", "together required"), None, {"a", "b"})
    assert isinstance(edit.info, vim.cluster.AffinityRuleSpec)
    assert edit.info.mandatory


# -- on a vCenter ------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.real


async def made(vsphere: Vsphere, *rules: v1.AffinityRule) -> Entity:
    uid = str(uuid.uuid4())
    entity = Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid))))
    await vsphere.refresh(entity)
    found = vsphere.tree.get(entity.moid)
    assert found is not None
    return await wants(vsphere, found, *rules)


async def wants(vsphere: Vsphere, entity: Entity, *rules: v1.AffinityRule) -> Entity:
    edit = editing.stamped(affinity.asking(record_of(entity), rules))
    if edit is not None:
        await vsphere.task("stamp", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
        await vsphere.refresh(entity)
    return entity


def rule_in(vsphere: Vsphere, rule: Rule) -> frozenset[str] | None:
    found = next(vsphere.tree.of_kind("ClusterComputeResource")).facts[DRS].rules.get(rule.drs_name)
    return found.members if found is not None else None


def fresh() -> tuple[v1.AffinityRule, Rule]:
    name = f"r{uuid.uuid4().hex[:8]}"
    return v1.AffinityRule(name=name, apart=True), Rule(OWNER, "lab", name, "apart")


async def test_machines_that_join_at_once_are_all_members(vsphere: Vsphere) -> None:
    wish, rule = fresh()
    rules = Affinity(vsphere)
    entities = [await made(vsphere, wish) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for entity in entities:
            group.create_task(rules.settle(entity, (), "join"))
    assert rule_in(vsphere, rule) == {entity.moid for entity in entities}
    assert all(holds(vsphere.tree, entity) == {rule.field: "apart"} for entity in entities)

    await rules.settle(entities[0], (), "destroy", leaving=True)
    assert rule_in(vsphere, rule) == {entity.moid for entity in entities[1:]}
    await wants(vsphere, entities[1])
    await rules.settle(entities[1], [rule], "leave")
    assert rule_in(vsphere, rule) == {entity.moid for entity in (entities[0], entities[2])}, "it never left"
    await wants(vsphere, entities[0])
    await rules.settle(entities[0], [rule], "leave")
    assert rule_in(vsphere, rule) is None, "one alone has no rule"
    assert holds(vsphere.tree, entities[2]) == {rule.field: "apart"}


async def test_a_rule_that_somebody_removed_is_made_again(vsphere: Vsphere) -> None:
    wish, rule = fresh()
    rules = Affinity(vsphere)
    one, two = await made(vsphere, wish), await made(vsphere, wish)
    await rules.settle(one, (), "join")
    cluster = rules.cluster(one, "look")

    def remove(login: Any) -> Any:
        there = vsphere.object(cluster, login)
        key = next(each.key for each in there.configurationEx.rule if each.name == rule.drs_name)
        edit = vim.cluster.RuleSpec(operation="remove", removeKey=key)
        return there.ReconfigureComputeResource_Task(vim.cluster.ConfigSpecEx(rulesSpec=[edit]), modify=True)

    await vsphere.task("remove it", remove)
    await rules.settle(two, (), "join")
    assert rule_in(vsphere, rule) == {one.moid, two.moid}


async def test_rules_of_others_are_not_touched(vsphere: Vsphere) -> None:
    wish, rule = fresh()
    one, two = await made(vsphere, wish), await made(vsphere, wish)
    rules = Affinity(vsphere)
    cluster = rules.cluster(one, "look")
    other = affinity.change(Rule("somebody", "lab", rule.name, "apart"), None, {one.moid, two.moid})

    def add(login: Any) -> Any:
        spec = vim.cluster.ConfigSpecEx(rulesSpec=[other])
        return vsphere.object(cluster, login).ReconfigureComputeResource_Task(spec, modify=True)

    await vsphere.task("another's", add)
    await rules.settle(one, (), "join")
    await rules.settle(one, (), "leave", leaving=True)
    names = set(cluster.facts[DRS].rules)
    assert other.info.name in names
    assert rule.drs_name not in names


async def test_without_drs_it_is_refused(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    rules = Affinity(vsphere)
    cluster = rules.cluster(entity, "look")
    vsphere.learn(cluster, {DRS: Drs(False, {})})
    with pytest.raises(NotSupportedError, match="DRS is off"):
        rules.cluster(entity, "join")
