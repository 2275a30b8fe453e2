"""Why a machine is not what it should be, told while it happens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from common.errors import HostFullError, HypervisorUnavailableError, OperationInProgressError
from provider_vsphere import observed, power
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .conftest import OWNER, create, eventually

pytestmark = pytest.mark.real


@dataclass
class Watched:
    """A machine, and the reason of its power state as the provider tells it."""

    vsphere: Vsphere
    uid: str
    told: Callable[[], Awaitable[None]]

    @property
    def entity(self) -> Entity:
        (found,) = self.vsphere.tree.with_uuid(self.uid)
        return found

    def reason(self) -> str:
        return observed.machine(self.entity, self.vsphere.tree, OWNER).power_reason

    async def until(self, text: str) -> None:
        """Wait until it says so; "": until it says nothing."""
        await eventually(lambda: text in self.reason() if text else not self.reason(), self.told)


@pytest.fixture
async def watched(vsphere: Vsphere) -> Watched:
    uid = str(uuid.uuid4())
    made = Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid))))
    await vsphere.refresh(made)
    changed = asyncio.Event()
    vsphere.on_change(lambda _uid: changed.set())

    async def told() -> None:
        async with asyncio.timeout(10):
            await changed.wait()
        changed.clear()

    return Watched(vsphere, uid, told)


async def test_a_question_shows_until_it_is_answered(watched: Watched, vcsim: Vcsim) -> None:
    uid = watched.uid
    vcsim.control("question", vm=uid, text="There is no more space on the disk.", choices=["Retry", "Cancel"])
    await watched.until("There is no more space on the disk.")
    with pytest.raises(OperationInProgressError):
        await power.power_on(watched.vsphere, watched.entity, "start")
    with Admin(vcsim) as admin:
        vm = admin.find(uid)
        question = vm.runtime.question
        vm.AnswerVM(question.id, question.choice.choiceInfo[0].key)
    await eventually(lambda: "vSphere asks" not in watched.reason(), watched.told)


async def test_why_a_start_was_refused_shows_until_it_starts(watched: Watched, vcsim: Vcsim) -> None:
    fault = {"fault": "InsufficientMemoryResourcesFault", "fields": {"unreserved": 1, "requested": 2}}
    vcsim.control("faults", method="PowerOnVM_Task", in_task=True, **fault)
    with pytest.raises(HostFullError):
        await power.power_on(watched.vsphere, watched.entity, "start")
    await watched.until("it could not be started: insufficient memory resources fault")
    await power.power_on(watched.vsphere, watched.entity, "start")
    await watched.until("")
    await power.power_off(watched.vsphere, watched.entity, "stop")
    await eventually(lambda: power.state(watched.entity) == power.OFF, watched.told)
    assert watched.reason() == "", "it is off for another reason now"


async def test_a_restart_by_ha_shows_also_to_who_comes_later(watched: Watched, vcsim: Vcsim) -> None:
    """A vCenter on the host that failed comes back after the event."""
    vsphere = watched.vsphere
    await power.power_on(vsphere, watched.entity, "start")
    await eventually(lambda: power.state(watched.entity) == power.ON, watched.told)
    with Admin(vcsim) as admin:
        vm = admin.find(watched.uid)
        host = vim.event.HostEventArgument(name="esx-that-failed", host=vm.runtime.host)
        about = vim.event.VmEventArgument(name=vm.name, vm=vm)
        happened = vim.event.VmRestartedOnAlternateHostEvent(vm=about, sourceHost=host, template=False)
        happened.key = happened.chainId = 0
        happened.userName, happened.createdTime = "", admin.si.CurrentTime()
        admin.si.content.eventManager.PostEvent(happened)
    await watched.until("HA restarted it, as host esx-that-failed failed")
    vcsim.control("sessions/drop")
    await vsphere.wait_lost()
    await vsphere.wait_connected()
    assert watched.reason() == "HA restarted it, as host esx-that-failed failed"
    await power.power_off(vsphere, watched.entity, "stop")
    await watched.until("")


async def test_alarms_show_by_name_while_they_are_raised(watched: Watched, vcsim: Vcsim) -> None:
    with Admin(vcsim) as admin:
        name = admin.si.content.alarmManager.GetAlarm(None)[0].info.name
    vcsim.control("status", vm=watched.uid, overall="yellow", alarm=name)
    vcsim.control("status", vm=watched.uid, overall="red", alarm=name)
    await watched.until(f"raised: {name}")
    vcsim.control("requests/reset")
    vcsim.control("status", vm=watched.uid, overall="green")
    await watched.until("")
    vcsim.control("status", vm=watched.uid, overall="red", alarm=name)
    await watched.until(f"raised: {name}")
    assert not vcsim.requests().get("RetrieveProperties"), "its name is known by now"


async def test_an_event_that_cannot_be_decoded_costs_one_session_and_not_all(vsphere: Vsphere, vcsim: Vcsim) -> None:
    """It stays in the history, where each new session would find it again."""
    uid = str(uuid.uuid4())
    await vsphere.refresh(Entity("VirtualMachine", str(await vsphere.task("create", create(vsphere, uid, uid)))))
    (entity,) = vsphere.tree.with_uuid(uid)
    vcsim.control(
        "faults", method="PowerOnVM_Task", fault="CannotAccessVmConfig", in_task=True
    )  # lacks what it must have
    vcsim.control("requests/reset")
    with pytest.raises(HypervisorUnavailableError):
        await power.power_on(vsphere, entity, "start")
    async with asyncio.timeout(20):
        await vsphere.wait_connected()
    for verb in (power.power_on, power.power_off):
        await verb(vsphere, entity, "change its power")
        await vsphere.refresh(entity)
    assert vcsim.requests()["Login"] <= 2, "the task's own error may cost one besides"
