"""Why a machine is not what it should be, told while it happens."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from common.errors import OperationInProgressError
from provider_vsphere import observed, power
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, create, eventually

pytestmark = pytest.mark.real


async def test_a_question_shows_until_it_is_answered(vsphere: Vsphere, vcsim: Vcsim) -> None:
    uid = str(uuid.uuid4())
    made = Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid))))
    await vsphere.refresh(made)
    entity = vsphere.tree.get(made.moid) or made
    changed = asyncio.Event()
    vsphere.on_change(lambda _uid: changed.set())

    def reason() -> str:
        return observed.machine(entity, vsphere.tree, OWNER).power_reason

    async def told() -> None:
        async with asyncio.timeout(10):
            await changed.wait()
        changed.clear()

    vcsim.control("question", vm=uid, text="There is no more space on the disk.", choices=["Retry", "Cancel"])
    await eventually(lambda: "There is no more space on the disk." in reason(), told)
    with pytest.raises(OperationInProgressError):
        await power.power_on(vsphere, entity, "start")
    with Admin(vcsim) as admin:
        vm = admin.find(uid)
        question = vm.runtime.question
        vm.AnswerVM(question.id, question.choice.choiceInfo[0].key)
    await eventually(lambda: reason() == "", told)
