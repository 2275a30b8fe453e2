"""Reading domains: cost follows the changes, over one connection."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import libvirt
import pytest
from common.clock import SystemClock
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.reading import Reader

DOMAIN = (
    "<domain type='test'><name>{name}</name><uuid>{uid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
)
MANY = 25


class Counting(Hypervisor):
    """The real thing, which also counts what it is asked for."""

    asked: int = 0

    async def call(self, doing, verb, **more):  # type: ignore[no-untyped-def]  # as its base
        self.asked += 1
        return await super().call(doing, verb, **more)


@pytest.fixture
async def hypervisor() -> AsyncIterator[Counting]:
    hypervisor = Counting("test:///default", clock=SystemClock())
    async with hypervisor.session():
        yield hypervisor


def define(connection: libvirt.virConnect, count: int) -> list[str]:
    uids = [str(uuid.uuid4()) for _ in range(count)]
    for number, uid in enumerate(uids):
        connection.defineXML(DOMAIN.format(name=f"shop.web-{number}", uid=uid))
    return uids


async def test_P35_P36_all_machines_are_one_call_over_one_connection(hypervisor: Counting) -> None:
    uids = await hypervisor.call("define", lambda c: define(c, MANY))
    reader, before = Reader(hypervisor, SystemClock()), hypervisor.asked
    for _ in range(3):
        assert set(uids) <= {raw.uid for raw in await reader.all()}
    assert hypervisor.asked - before == 3
    assert hypervisor.generation == 1
    await hypervisor.call("undefine", lambda c: [c.lookupByUUIDString(uid).undefine() for uid in uids])


async def test_P36_only_what_changed_is_read_again(hypervisor: Counting) -> None:
    uids = await hypervisor.call("define", lambda c: define(c, MANY))
    reader = Reader(hypervisor, SystemClock())
    first = {raw.uid: raw for raw in await reader.all()}
    reader.forget(uids[0])
    second = {raw.uid: raw for raw in await reader.all()}
    assert [uid for uid in uids if second[uid].config is not first[uid].config] == [uids[0]]
    await hypervisor.call("undefine", lambda c: [c.lookupByUUIDString(uid).undefine() for uid in uids])
