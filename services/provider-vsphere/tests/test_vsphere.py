"""The connection: one collector for everything, sessions that end, tasks that are told and never polled."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from common.clock import SystemClock
from common.errors import (
    CredentialsRefusedError,
    ForeignMachineError,
    HostFullError,
    HypervisorUnavailableError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    OperationInProgressError,
    PermissionMissingError,
    StalePreconditionError,
    WrongPowerStateError,
)
from observability.spans import Ended, written
from provider_vsphere import machines, power
from provider_vsphere.session.login import Endpoint, Login, plain_user
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from pyVmomi import vim
from simulators.vcsim import Vcsim

from .conftest import OWNER, connected, create, credentials_of, one

__all__ = ["written"]

pytestmark = pytest.mark.real
CANARY = "canary-of-the-password"


async def made(vsphere: Vsphere, name: str = "") -> Entity:
    """A machine of ours, in the tree."""
    uid = str(uuid.uuid4())
    await vsphere.task("create", create(vsphere, uid, name or uid))
    return await seen(vsphere, uid)


async def seen(vsphere: Vsphere, uid: str) -> Entity:
    """Our machine once the collector has told of it."""
    async with asyncio.timeout(10):
        while (entity := machines.find(vsphere.tree, uid, OWNER)) is None:
            await told(vsphere)
    return entity


async def told(vsphere: Vsphere) -> None:
    """Wait for the next word of the collector."""
    change = asyncio.Event()
    vsphere.on_change(lambda _uid: change.set())
    async with asyncio.timeout(10):
        await change.wait()


# -- observation -------------------------------------------------------------------------------------------------------


async def test_a_trace_names_the_task(vsphere: Vsphere, written: Ended) -> None:
    """Whoever follows a trace finds the task in vCenter's own list."""
    await vsphere.task("create", create(vsphere, str(uuid.uuid4()), "traced"))
    (span,) = [span for span in written.spans if span.name == "vsphere.task"]
    assert span.attributes is not None
    assert str(span.attributes["vsphere.task"]).startswith("task-")


async def test_the_whole_inventory_is_in_memory_and_costs_nothing_while_it_is_idle(
    vsphere: Vsphere, vcsim: Vcsim
) -> None:
    paths = {vsphere.tree.path(each) for each in vsphere.tree.of_kind("VirtualMachine")}
    assert "/DC0/vm/DC0_H0_VM0" in paths
    assert vsphere.tree.path(one(vsphere, "Datastore")) == "/DC0/datastore/LocalDS_0"
    vcsim.control("requests/reset")
    assert [e.name for e in vsphere.tree.of_kind("Datacenter")] == ["DC0"]
    await asyncio.sleep(0.5)  # nothing is what happens, so there is no event to wait for
    assert sum(vcsim.requests().values()) <= 1, "the one long wait"


async def test_what_another_admin_does_is_told(vsphere: Vsphere, vcsim: Vcsim) -> None:
    entity = await made(vsphere)
    vcsim.control("act", vm=entity.name, act="power_on")
    async with asyncio.timeout(10):
        while power.state(entity) != power.ON:
            await told(vsphere)
    vcsim.control("act", vm=entity.name, act="power_off")
    vcsim.control("act", vm=entity.name, act="remove")
    async with asyncio.timeout(10):
        while vsphere.tree.with_uuid(entity.uuid):
            await told(vsphere)


async def test_a_reconfiguration_shows_in_leaves_that_are_not_pushed(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    edit = vim.vm.ConfigSpec(memoryMB=128, annotation="for people")
    await vsphere.task("edit", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
    async with asyncio.timeout(10):
        while (entity.facts["config.hardware.memoryMB"], entity.facts.get("config.annotation")) != (128, "for people"):
            await told(vsphere)


# -- tasks -------------------------------------------------------------------------------------------------------------


async def test_a_tasks_progress_and_end_are_told_without_polling(vsphere: Vsphere, vcsim: Vcsim) -> None:
    uid, parts = str(uuid.uuid4()), []
    vcsim.control("slow", method="CreateVM_Task", seconds=0.6, progress=True)
    vcsim.control("requests/reset")
    await vsphere.task("create", create(vsphere, uid, uid), lambda part, _doing: parts.append(part))
    assert parts
    assert parts == sorted(parts)
    counts = vcsim.requests()
    assert counts["CreateVM_Task"] == counts["CreateFilter"] == 1
    assert counts.get("RetrievePropertiesEx", 0) <= 1  # leaves of the new machine, not the task
    assert (await seen(vsphere, uid)).name == uid


async def test_a_create_that_is_cancelled_leaves_nothing(vsphere: Vsphere, vcsim: Vcsim) -> None:
    uid = str(uuid.uuid4())
    vcsim.control("slow", method="CreateVM_Task", seconds=0, progress=True)
    began = asyncio.Event()
    work = asyncio.ensure_future(
        vsphere.task("create", create(vsphere, uid, uid), lambda _part, _doing: began.set(), cancel=True)
    )
    async with asyncio.timeout(10):
        await began.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert uid not in vcsim.vms()


@pytest.mark.parametrize(
    ("fault", "ours"),
    [
        ("NoPermission", PermissionMissingError),
        ("InsufficientResourcesFault", HostFullError),
        ("NotEnoughLicenses", HostFullError),
        ("InvalidPowerState", WrongPowerStateError),
    ],
)
@pytest.mark.parametrize("in_task", [True, False])
async def test_faults_of_calls_and_of_tasks_come_out_as_ours(
    vsphere: Vsphere, vcsim: Vcsim, fault: str, ours: type[Exception], in_task: bool
) -> None:
    entity = await made(vsphere)
    vcsim.control("faults", method="PowerOnVM_Task", fault=fault, in_task=in_task)
    with pytest.raises(ours) as said:
        await vsphere.task("start it", lambda login: vsphere.machine(entity, login).PowerOnVM_Task(None))
    assert type(said.value) is ours
    assert str(said.value).startswith("start it: ")
    assert fault in str(said.value)


async def test_two_machines_of_one_name_are_refused(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    with pytest.raises(NameConflictError, match="DuplicateName"):
        await vsphere.task("create", create(vsphere, str(uuid.uuid4()), entity.name))


async def test_a_change_upon_somebody_elses_change_is_refused(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    edit = vim.vm.ConfigSpec(memoryMB=128, changeVersion="1")
    with pytest.raises(StalePreconditionError):
        await vsphere.task("edit", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_an_expired_session_is_made_anew_and_the_call_repeated(vsphere: Vsphere, vcsim: Vcsim) -> None:
    entity = await made(vsphere)
    vcsim.control("sessions/drop")
    await vsphere.task("start it", lambda login: vsphere.machine(entity, login).PowerOnVM_Task(None))
    assert vcsim.vms()[entity.name]["power"] == "poweredOn"


async def test_who_holds_a_machine_across_sessions_sees_what_it_is_now(vsphere: Vsphere, vcsim: Vcsim) -> None:
    """A verb of several tasks must not build the next one upon what was true before the last."""
    entity, edit = await made(vsphere), vim.vm.ConfigSpec(annotation="by the new session")
    vcsim.control("sessions/drop")
    await vsphere.task("edit", lambda login: vsphere.machine(entity, login).ReconfigVM_Task(edit))
    await vsphere.refresh(entity)
    assert entity.facts["config.annotation"] == "by the new session"


async def test_what_began_before_the_session_ended_is_not_begun_again(vsphere: Vsphere, vcsim: Vcsim) -> None:
    await vsphere.settle_doubts()
    uid, begun = str(uuid.uuid4()), []
    begin = create(vsphere, uid, uid)

    def begin_and_lose(login: Login) -> vim.Task:
        begun.append(begin(login))
        vcsim.control("sessions/drop")
        return begun[-1]

    with pytest.raises(HypervisorUnavailableError):
        await vsphere.task("create", begin_and_lose)
    assert len(begun) == 1
    assert vsphere.doubtful


async def test_a_vcenter_that_restarts_is_found_again(own_vcsim: Vcsim, tmp_path: Path) -> None:
    async with connected(own_vcsim, credentials_of(own_vcsim, tmp_path)) as vsphere:
        assert len(list(vsphere.tree.of_kind("Datacenter"))) == 1
        own_vcsim.kill()
        async with asyncio.timeout(20):
            await vsphere.wait_lost()
        with pytest.raises(HypervisorUnavailableError):
            vsphere.login("look")
        own_vcsim.start()
        (tmp_path / "ca.crt").write_text(own_vcsim.ca)
        async with asyncio.timeout(30):
            await vsphere.wait_connected()
        vsphere.login("look")


async def test_an_answer_that_is_lost_leaves_a_doubt_that_is_settled(vsphere: Vsphere, vcsim: Vcsim) -> None:
    await vsphere.settle_doubts()
    uid = str(uuid.uuid4())
    vcsim.control("lose_reply", method="CreateVM_Task")
    with pytest.raises(HypervisorUnavailableError):
        await vsphere.task("create", create(vsphere, uid, uid))
    assert await vsphere.settle_doubts()
    assert (await seen(vsphere, uid)).name == uid
    assert not await vsphere.settle_doubts()


async def test_a_create_that_an_earlier_process_began_is_waited_for(own_vcsim: Vcsim, tmp_path: Path) -> None:
    uid, began, credentials = str(uuid.uuid4()), asyncio.Event(), credentials_of(own_vcsim, tmp_path)
    own_vcsim.control("slow", method="CreateVM_Task", seconds=0, progress=True)
    async with connected(own_vcsim, credentials) as earlier, asyncio.timeout(10):
        creating = asyncio.ensure_future(
            earlier.task("create", create(earlier, uid, uid), lambda _part, _doing: began.set())
        )
        await began.wait()
        creating.cancel()  # the process dies, and vCenter goes on
        await asyncio.wait({creating})
    async with connected(own_vcsim, credentials) as successor, asyncio.timeout(10):
        settling = asyncio.ensure_future(successor.settle_doubts())
        done, _ = await asyncio.wait({settling}, timeout=0.3)
        assert not done
        assert uid not in own_vcsim.vms()
        own_vcsim.control("slow/release")
        assert await settling
        assert (await seen(successor, uid)).name == uid


@pytest.mark.parametrize(
    ("name", "plain"),
    [("VSPHERE.LOCAL\\Administrator", "administrator"), ("svc@corp.example", "svc"), ("root", "root")],
)
def test_a_user_is_the_same_however_its_domain_is_written(name: str, plain: str) -> None:
    assert plain_user(name) == plain


async def test_other_peoples_tasks_are_not_waited_for(own_vcsim: Vcsim, tmp_path: Path) -> None:
    """A clone of somebody else's may take hours."""
    credentials = credentials_of(own_vcsim, tmp_path)
    own_vcsim.control("slow", method="CreateVM_Task", seconds=0, progress=True)
    began = asyncio.Event()
    async with connected(own_vcsim, credentials) as theirs, asyncio.timeout(20):
        creating = asyncio.ensure_future(
            theirs.task("create", create(theirs, str(uuid.uuid4()), "theirs"), lambda _part, _doing: began.set())
        )
        await began.wait()
        creating.cancel()
        await asyncio.wait({creating})
    async with connected(own_vcsim, credentials) as vsphere, asyncio.timeout(10):
        vsphere._login = replace(vsphere.login("look"), user="somebody-else")  # the simulator has one user only
        assert await vsphere.settle_doubts()
    own_vcsim.control("slow/release")


async def test_wrong_credentials_and_unknown_certificates_are_named_and_kept_secret(
    vcsim: Vcsim, tmp_path: Path
) -> None:
    directory = credentials_of(vcsim, tmp_path)
    (directory / "password").write_text(CANARY)
    async with connected(vcsim, directory) as vsphere:
        with pytest.raises(CredentialsRefusedError) as refusal:
            vsphere.login("look")
    assert CANARY not in str(refusal.value)
    (directory / "ca.crt").unlink()
    async with connected(vcsim, directory) as vsphere:
        with pytest.raises(CredentialsRefusedError, match="certificate"):
            vsphere.login("look")


async def test_corrected_credentials_are_tried_at_once(vcsim: Vcsim, tmp_path: Path) -> None:
    """However long the pause between attempts has become; a Secret is corrected by replacing its files."""
    directory = credentials_of(vcsim, tmp_path)
    (directory / "password").write_text(CANARY)
    async with connected(vcsim, directory, first_pause=3600.0) as vsphere:
        with pytest.raises(CredentialsRefusedError):
            vsphere.login("look")
        (directory / "new").write_text(vcsim.password)
        (directory / "new").rename(directory / "password")
        async with asyncio.timeout(20):
            await vsphere.wait_connected()


async def test_a_thumbprint_stands_for_an_authority_and_only_the_right_one(vcsim: Vcsim, tmp_path: Path) -> None:
    directory = credentials_of(vcsim, tmp_path)
    (directory / "ca.crt").unlink()
    for thumbprint, good, in_a_file in (
        (vcsim.thumbprint, True, False),
        ("00" * 32, False, False),
        (vcsim.thumbprint, True, True),
        ("00" * 32, False, True),
    ):
        (directory / "thumbprint").write_text(f"{thumbprint}\n" if in_a_file else "")
        endpoint = Endpoint(vcsim.url, thumbprint="" if in_a_file else thumbprint, credentials=directory)
        vsphere = Vsphere(endpoint, clock=SystemClock())
        async with vsphere.session():
            if good:
                assert vsphere.login("look").about.is_vcenter
            else:
                with pytest.raises(CredentialsRefusedError, match="certificate"):
                    vsphere.login("look")


async def test_an_endpoint_where_nobody_listens_is_unavailable(vcsim: Vcsim, tmp_path: Path) -> None:
    endpoint = Endpoint("https://127.0.0.1:9", credentials=credentials_of(vcsim, tmp_path))
    vsphere = Vsphere(endpoint, clock=SystemClock())
    async with vsphere.session():
        with pytest.raises(HypervisorUnavailableError, match=r"127\.0\.0\.1"):
            vsphere.login("look")


# -- power -------------------------------------------------------------------------------------------------------------


async def test_power_verbs_succeed_when_the_state_is_there_already(vsphere: Vsphere, vcsim: Vcsim) -> None:
    entity = await made(vsphere)
    for verb, state in (
        (power.power_on, power.ON),
        (power.suspend, power.SUSPENDED),
        (power.power_on, power.ON),
        (power.power_off, power.OFF),
    ):
        for _ in range(2):
            await verb(vsphere, entity, "change the power")
            await vsphere.refresh(entity)
            assert power.state(entity) == state
    vcsim.control("act", vm=entity.name, act="power_on")
    entity.facts = entity.facts | {"runtime.powerState": power.OFF}  # as if nobody had told us yet
    await power.power_on(vsphere, entity, "start it")
    await vsphere.refresh(entity)
    assert power.state(entity) == power.ON


async def test_a_guest_without_tools_cannot_be_asked(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    await power.power_on(vsphere, entity, "start it")
    await vsphere.refresh(entity)
    now = entity.facts["runtime.bootTime"]
    with pytest.raises(WrongPowerStateError, match="ToolsUnavailable"):
        await power.ask_reboot(vsphere, entity, "restart it")
    with pytest.raises(WrongPowerStateError, match="ToolsUnavailable"):
        await power.ask_shutdown(vsphere, entity, "shut it down", now + power.BOOTING / 2)
    with pytest.raises(NotSupportedError, match="nobody answers"):
        await power.ask_shutdown(vsphere, entity, "shut it down", now + power.BOOTING)
    await power.power_off(vsphere, entity, "stop it")
    with pytest.raises(WrongPowerStateError, match="InvalidPowerState"):
        await power.ask_shutdown(vsphere, entity, "shut it down", now + power.BOOTING)


# -- identity ----------------------------------------------------------------------------------------------------------


async def test_only_what_carries_our_stamp_is_ours(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    assert machines.find(vsphere.tree, entity.uuid, OWNER) is entity
    assert machines.find(vsphere.tree, str(uuid.uuid4()), OWNER) is None
    with pytest.raises(MachineNotFoundError):
        machines.get(vsphere.tree, str(uuid.uuid4()), OWNER)
    with pytest.raises(ForeignMachineError, match="not touched"):
        machines.find(vsphere.tree, entity.uuid, "somebody else")


async def test_two_machines_with_one_stamp_are_both_left_alone(vsphere: Vsphere) -> None:
    entity = await made(vsphere)
    await vsphere.task("create", create(vsphere, entity.uuid, f"{entity.name}-2"))
    async with asyncio.timeout(10):
        while len(vsphere.tree.with_uuid(entity.uuid)) < 2:
            await told(vsphere)
    with pytest.raises(OperationInProgressError, match="remove all but one by hand"):
        machines.find(vsphere.tree, entity.uuid, OWNER)
