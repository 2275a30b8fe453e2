"""Tags: ours are attached, another's stays, and a change that was cut off is made again."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from common.errors import InvalidSpecError
from provider_vsphere.around import tagging
from provider_vsphere.around.tagging import ATTACHED, Tags
from provider_vsphere.machines import record_of
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vapi import Request, Vapi
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps.stamp import Stamp
from pyVmomi import vim

from .conftest import OWNER, create

ENTITY = Entity("VirtualMachine", "vm-1")
MARK = Stamp("u", "shop", "web", OWNER, tags=("a", "b"), tag_ids={"a": "1", "b": "2"})


# -- what the stamp says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [("blue", ("virtrigaud", "blue")), ("env:prod", ("env", "prod")), ("a:b:c", ("a", "b:c"))],
)
def test_a_tag_is_in_a_category_of_ours_unless_it_names_one(name: str, parts: tuple[str, str]) -> None:
    assert tagging.split(name) == parts


@pytest.mark.parametrize("name", ["", ":", "env:", ":prod", " "])
def test_a_tag_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpecError):
        tagging.split(name)


@pytest.mark.parametrize(
    ("attached", "seen"),
    [(None, ["a", "b"]), (frozenset(), []), (frozenset({"1", "2", "9"}), ["a", "b"]), (frozenset({"2"}), ["b"])],
    ids=["not known", "none", "with another's", "one was taken off"],
)
def test_what_vcenter_says_counts_and_else_the_stamp(attached: frozenset[str] | None, seen: list[str]) -> None:
    facts = {} if attached is None else {ATTACHED: attached}
    assert tagging.observed(replace(ENTITY, facts=facts), MARK) == seen


def test_without_tags_of_a_vcenter_the_stamp_keeps_them() -> None:
    assert tagging.observed(ENTITY, replace(MARK, tag_ids={})) == ["a", "b"]


def test_a_tag_is_ours_before_it_is_attached_and_until_it_is_taken_off() -> None:
    claimed = tagging.claimed(MARK, {"b": "2", "c": "3"})
    assert claimed is not None
    assert (claimed.tags, claimed.tag_ids) == (("b", "c"), {"a": "1", "b": "2", "c": "3"})
    both = frozenset({"1", "2"})
    assert tagging.observed(replace(ENTITY, facts={ATTACHED: both}), claimed) == ["a", "b"], "the old still hold"
    released = tagging.released(claimed, ["b", "c"])
    assert released is not None
    assert released.tag_ids == {"b": "2", "c": "3"}
    assert tagging.claimed(released, {"b": "2", "c": "3"}) is None
    assert tagging.released(released, ["b", "c"]) is None


# -- on a vCenter ------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.real


@pytest.fixture
async def tags(vsphere: Vsphere) -> AsyncIterator[Tags]:
    vapi = Vapi(vsphere)
    async with vapi.session():
        yield Tags(vsphere, vapi, owner=OWNER)


@pytest.fixture
async def entity(vsphere: Vsphere) -> Entity:
    uid = str(uuid.uuid4())
    made = Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid))))
    await vsphere.refresh(made)
    found = vsphere.tree.get(made.moid)
    assert found is not None
    return found


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


async def test_tags_are_made_attached_and_taken_off(tags: Tags, entity: Entity) -> None:
    blue, prod = unique("blue"), f"{unique('env')}:prod"
    ids = await tags.ids([blue, prod], "tag")
    assert ids == await tags.ids([blue, prod], "tag again"), "what is there is not made again"
    await tags.attach(entity, ids.values(), [], "tag")
    assert entity.facts[ATTACHED] == set(ids.values())
    await tags.attach(entity, [ids[prod]], ids.values(), "take one off")
    assert entity.facts[ATTACHED] == {ids[prod]}


async def test_two_spellings_of_a_tag_are_one(tags: Tags, entity: Entity) -> None:
    name = unique("blue")
    ids = await tags.ids([name, f"virtrigaud:{name}"], "tag")
    assert len(set(ids.values())) == 1
    await tags.attach(entity, ids.values(), ids.values(), "tag")
    assert entity.facts[ATTACHED] == set(ids.values())


async def test_a_name_is_looked_up_among_those_that_others_made(vsphere: Vsphere) -> None:
    """Another process of ours, or a person, made category and tag."""
    name = f"{unique('env')}:prod"
    vapi = Vapi(vsphere)
    async with vapi.session():
        first = await Tags(vsphere, vapi, owner=OWNER).ids([name], "tag")
        assert await Tags(vsphere, vapi, owner=OWNER).ids([name], "tag") == first


async def test_a_tag_that_was_removed_meanwhile_is_made_anew(vsphere: Vsphere, tags: Tags, entity: Entity) -> None:
    name = unique("blue")
    ids = await tags.ids([name], "tag")
    await Vapi(vsphere).call("remove it", Request("DELETE", "cis/tagging/tag/{}", id=ids[name]))
    with pytest.raises(Exception, match="tag it"):
        await tags.attach(entity, ids.values(), [], "tag it")
    again = await tags.ids([name], "tag")
    assert again != ids
    await tags.attach(entity, again.values(), [], "tag it")
    assert entity.facts[ATTACHED] == set(again.values())


async def test_a_category_for_one_tag_takes_no_two(vsphere: Vsphere, tags: Tags, entity: Entity) -> None:
    category = unique("tier")
    body = {"name": category, "description": "", "cardinality": "SINGLE", "associable_types": []}
    await Vapi(vsphere).call("make it", Request("POST", "cis/tagging/category", body=body, parameter="create_spec"))
    with pytest.raises(InvalidSpecError, match="allows one tag"):
        await tags.ids([f"{category}:gold", f"{category}:silver"], "tag shop/web")
    gold = await tags.ids([f"{category}:gold"], "tag")
    silver = await tags.ids([f"{category}:silver"], "tag")
    await tags.attach(entity, gold.values(), [], "tag")
    await tags.attach(entity, silver.values(), gold.values(), "tag: the old one goes first")
    assert entity.facts[ATTACHED] == set(silver.values())


async def test_those_that_carry_tags_of_ours_are_read_again(vsphere: Vsphere, tags: Tags, entity: Entity) -> None:
    ids = await tags.ids([unique("blue")], "tag")
    await tags.attach(entity, ids.values(), [], "tag")
    vsphere.learn(entity, {ATTACHED: None})
    await tags.reread()
    assert entity.facts[ATTACHED] is None, "the stamp has no tags of ours"
    mark = tagging.claimed(record_of(entity), ids)
    assert mark is not None
    stamped = [vim.option.OptionValue(key="virtrigaud.machine", value=mark.text())]
    await vsphere.task(
        "stamp",
        lambda login: vsphere.machine(entity, login).ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=stamped)),
    )
    await vsphere.refresh(entity)
    await tags.reread()
    assert entity.facts[ATTACHED] == set(ids.values())
