"""Consoles and pictures: no ticket shows anywhere, no file stays behind."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from common.clock import SystemClock
from common.errors import HypervisorUnavailableError, WrongPowerStateError
from provider_vsphere import power
from provider_vsphere.around.display import Display, file_url, url_of
from provider_vsphere.session.transfers import Transfers
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import create

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("ticket", "url"),
    [
        ({"url": "wss://esx/ticket/t"}, "wss://esx/ticket/t"),
        ({"host": "esx", "port": 902}, "wss://esx:902/ticket/t"),
        ({"host": "2001:db8::1", "port": None}, "wss://[2001:db8::1]:443/ticket/t"),
        ({}, "wss://vcenter:443/ticket/t"),
    ],
)
def test_a_ticket_becomes_a_url(ticket: dict[str, Any], url: str) -> None:
    assert url_of(vim.VirtualMachine.Ticket(ticket="t", cfgFile="", **ticket), "https://vcenter/sdk") == url


def test_a_file_of_a_datastore_is_under_folder() -> None:
    url = file_url("https://vcenter:8443/sdk", "[my store] a b/web-1.png", "east/DC 0")
    assert url == "https://vcenter:8443/folder/a%20b/web-1.png?dcPath=east%2FDC+0&dsName=my+store"


@pytest.fixture
async def running(vsphere: Vsphere) -> Entity:
    uid = str(uuid.uuid4())
    entity = Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid))))
    await vsphere.refresh(entity)
    entity = vsphere.tree.get(entity.moid) or entity
    await power.power_on(vsphere, entity, "start")
    await vsphere.refresh(entity)
    return entity


def display(vsphere: Vsphere) -> Display:
    return Display(vsphere, Transfers(vsphere.endpoint), SystemClock())


@pytest.mark.real
async def test_a_ticket_is_for_one_connection_and_is_in_no_repr(vsphere: Vsphere, running: Entity) -> None:
    first, second = [await display(vsphere).ticket(running, "open") for _ in range(2)]
    assert first.url.startswith("wss://")
    assert first.url != second.url
    assert first.url not in repr(first)
    assert first.expires > SystemClock().now()


@pytest.mark.real
async def test_a_picture_leaves_no_file(vsphere: Vsphere, vcsim: Vcsim, running: Entity) -> None:
    with Admin(vcsim) as admin:
        before = _files(admin)
        assert (await display(vsphere).picture(running, "take")).startswith(PNG)
        assert _files(admin) == before
        vcsim.control("transfers/cut", path="/folder", after=1, count=1)
        with pytest.raises(HypervisorUnavailableError):
            await display(vsphere).picture(running, "take")
        assert _files(admin) == before


def _files(admin: Admin) -> list[str]:
    return sorted(str(f) for store in admin.every(vim.Datastore) for f in Path(store.info.url).rglob("*.png"))


@pytest.mark.real
async def test_a_machine_that_is_off_shows_nothing(vsphere: Vsphere, running: Entity) -> None:
    await power.power_off(vsphere, running, "stop")
    await vsphere.refresh(running)
    with pytest.raises(WrongPowerStateError):
        await display(vsphere).ticket(running, "open")
    with pytest.raises(WrongPowerStateError):
        await display(vsphere).picture(running, "take")
