"""Images: references to what exists, and templates of our own."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from common import v1
from common.errors import ImageNotFoundError, InvalidSpecError
from hypothesis import given
from hypothesis import strategies as st
from provider_vsphere import machines
from provider_vsphere.config import making
from provider_vsphere.images import references
from provider_vsphere.images.images import Images
from provider_vsphere.images.references import Reference
from provider_vsphere.places import Defaults, Places
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import imagestamp
from provider_vsphere.stamps.imagestamp import ImageStamp
from provider_vsphere.stamps.stamp import KEY
from pyVmomi import vim

from .conftest import OWNER, create, eventually, one

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80)


@pytest.fixture
async def images(vsphere: Vsphere) -> Images:
    async with asyncio.timeout(30):
        await vsphere.wait_connected()
    return Images(vsphere, Places(vsphere.tree, Defaults()), owner=OWNER)


async def template(vsphere: Vsphere, name: str) -> Entity:
    """A template that somebody made."""
    made = await vsphere.task(f"create {name}", create(vsphere, str(uuid.uuid4()), name))
    entity = Entity("VirtualMachine", str(made))
    await vsphere.call("mark", lambda login: vsphere.machine(entity, login).MarkAsTemplate())
    await vsphere.refresh(entity)
    found = vsphere.tree.get(entity.moid)
    assert found is not None
    assert found.facts["config.template"]
    return found


def request(**source: Any) -> v1.PrepareImageRequest:
    return v1.PrepareImageRequest(
        uid=str(uuid.uuid4()), namespace="lab", name="small", owner=OWNER, source=v1.ImageSource(**source)
    )


def to(name: str, snapshot: str = "") -> v1.PrepareImageRequest:
    return request(template=v1.TemplateSource(name=name, snapshot=snapshot))


def quiet(_done: float, _step: str) -> None:
    """Nobody looks at the progress."""


# -- references --------------------------------------------------------------------------------------------------------


@given(template=NAMES, snapshot=NAMES | st.just(""), namespace=NAMES, name=NAMES)
def test_a_reference_is_its_id_and_back(template: str, snapshot: str, namespace: str, name: str) -> None:
    found = Reference(str(uuid.uuid4()), namespace, name, template, snapshot)
    assert references.parse(found.id()) == found


@given(st.text() | st.text().map(lambda text: f"{uuid.uuid4()}.t{text}"))
def test_any_text_is_a_reference_or_none(text: str) -> None:
    found = references.parse(text)
    assert found is None or found.id() == text


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (v1.TemplateSource(), "name"),
        (v1.TemplateSource(name="a\nb"), "name"),
        (v1.TemplateSource(name="a", snapshot="\x00"), "snapshot"),
        (v1.TemplateSource(name="a", node="pve1"), "node"),
        (v1.TemplateSource(name="a" * 1000), "name"),
    ],
)
def test_a_reference_that_can_never_be_met_is_refused(source: v1.TemplateSource, field: str) -> None:
    with pytest.raises(InvalidSpecError, match=rf"source\.template\.{field}"):
        references.of(v1.PrepareImageRequest(uid=str(uuid.uuid4())), source)


async def test_a_template_is_ready_because_it_is_there(vsphere: Vsphere, images: Images) -> None:
    entity = await template(vsphere, "golden")
    wish = to("golden")
    image = await images.prepare(wish, quiet)
    assert (image.id, image.uid, image.namespace, image.name) == (images.check(wish), wish.uid, "lab", "small")
    assert image.location == vsphere.tree.path(entity)
    assert await images.get(image.id) == image
    assert await images.all() == []
    found = await images.source(image.id)
    assert (found.entity, found.snapshot) == (entity, "")


@pytest.mark.parametrize("how", ["path", "uuid", "moid"])
async def test_a_template_is_found_by_whatever_names_it(vsphere: Vsphere, images: Images, how: str) -> None:
    entity = await template(vsphere, f"golden-by-{how}")
    wanted = {"path": vsphere.tree.path(entity), "uuid": entity.uuid, "moid": entity.moid}[how]
    image = await images.prepare(to(wanted), quiet)
    assert (await images.source(image.id)).entity is entity


async def test_a_template_that_is_missing_is_named_and_no_machine_serves(vsphere: Vsphere, images: Images) -> None:
    machine = next(each for each in vsphere.tree.of_kind("VirtualMachine") if machines.is_machine(each))
    for name in ("nowhere", machine.name):
        wish = to(name)
        assert await images.get(images.check(wish)) is None
        with pytest.raises(ImageNotFoundError, match=name):
            await images.prepare(wish, quiet)
        with pytest.raises(ImageNotFoundError, match=name):
            await images.source(images.check(wish))


async def test_a_template_is_never_removed_with_its_image(vsphere: Vsphere, images: Images) -> None:
    entity = await template(vsphere, "kept")
    image = await images.prepare(to("kept"), quiet)
    await images.delete(image.id)
    assert vsphere.tree.get(entity.moid) is entity
    assert await images.get(image.id) == image


async def test_P8_a_snapshot_is_a_parent_that_nobody_writes_to(vsphere: Vsphere, images: Images) -> None:
    """A linked clone stands on a snapshot that was named; a machine without one serves as no image."""
    made = await vsphere.task("create", create(vsphere, str(uuid.uuid4()), "worker"))
    entity = Entity("VirtualMachine", str(made))
    await vsphere.refresh(entity)

    def take(name: str) -> Any:
        return lambda login: vsphere.machine(entity, login).CreateSnapshot_Task(name, "", False, False)

    for name in ("first", "twice", "twice"):
        await vsphere.task("snapshot", take(name))
    image = await images.prepare(to("worker", "first"), quiet)
    assert image.location.endswith("/worker@first")
    assert await images.get(image.id) == image
    found = await images.source(image.id)
    assert found.entity.moid == entity.moid
    assert found.snapshot.startswith("snapshot-")
    assert list(found.devices)
    with pytest.raises(InvalidSpecError, match="several"):
        await images.prepare(to("worker", "twice"), quiet)
    with pytest.raises(ImageNotFoundError, match="no snapshot"):
        await images.prepare(to("worker", "never"), quiet)


# -- stamps ------------------------------------------------------------------------------------------------------------


def test_a_stamp_counts_only_on_the_vm_that_it_was_made_for() -> None:
    mark = ImageStamp("u.0", "u", "lab", "small", OWNER, complete=True)
    assert imagestamp.read(mark.text(), imagestamp.instance_uuid("u.0")) == mark
    assert imagestamp.read(mark.text(), str(uuid.uuid4())) is None


@given(st.text())
def test_any_text_is_a_stamp_or_none(text: str) -> None:
    assert imagestamp.read(text, str(uuid.uuid4())) is None


async def test_an_image_that_is_being_made_is_neither_image_nor_machine(vsphere: Vsphere, images: Images) -> None:
    wanted = f"{uuid.uuid4()}.0123456789abcdef"
    mark = ImageStamp(wanted, wanted[:36], "lab", "half", OWNER)
    machine = create(vsphere, imagestamp.instance_uuid(wanted), "half")
    made = await vsphere.task("create", machine)
    entity = Entity("VirtualMachine", str(made))

    def stamp(login: Any) -> Any:
        config = making.options({imagestamp.KEY: mark.text(), KEY: ""})
        return vsphere.machine(entity, login).ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=config))

    await vsphere.task("stamp", stamp)
    await eventually(lambda: images.find(wanted) is not None, lambda: vsphere.refresh(entity))
    found = images.find(wanted)
    assert found is not None
    assert not machines.is_machine(found)
    assert await images.get(wanted) is None
    assert await images.all() == []
    for _ in range(2):
        await images.delete(wanted)
        assert images.find(wanted) is None


async def test_every_vm_of_the_tree_can_be_asked_for_its_stamp(vsphere: Vsphere) -> None:
    """The collector subscribes to the key, so that looking costs no call."""
    assert machines.image_stamp_of(one(vsphere, "VirtualMachine")) is None
