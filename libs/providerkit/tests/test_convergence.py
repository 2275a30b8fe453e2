# ruff: noqa: E501  (strategies read best with one field per line)
"""Whatever is asked of whatever is there: a plan that is carried out leaves nothing that could still be done."""

from __future__ import annotations

import asyncio
import copy

from common import v1
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from providerkit import planner
from providerkit.apply import Outcome
from providerkit.fake import FAKE_CAPABILITIES, FakeDriver, FakeHypervisor
from providerkit.machines import Machines
from providerkit.operations import Operations
from providerkit.watch import Hub, HubSettings

GIB = 1 << 30
UID = "5f8f2e36-6b1c-4a8e-9d2b-0b1f0a8c7d11"
ON, OFF, SUSPENDED, PAUSED = v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED, v1.PowerState.PAUSED
FLAGS = [
    name
    for name, kind in v1.Capabilities.__annotations__.items()
    if kind == "bool" and getattr(FAKE_CAPABILITIES, name)
]

rules = st.lists(
    st.builds(v1.AffinityRule, name=st.sampled_from(["x", "y"]), apart=st.booleans()), unique_by=lambda rule: rule.name
)
sizes = st.integers(1, 8).map(lambda count: count * GIB)


@st.composite
def cpus(draw: st.DrawFn) -> v1.CpuSpec:
    cores = draw(st.sampled_from([0, 1, 2]))
    return v1.CpuSpec(
        count=draw(st.integers(1, 8)) * max(1, cores),
        cores_per_socket=cores,
        hot_add=draw(st.booleans()),
        nested_virtualization=draw(st.booleans()),
        shares=draw(st.none() | st.integers(1, 100)),
        limit_mhz=draw(st.none() | st.just(1000)),
        reservation_mhz=draw(st.none() | st.just(10)),
    )


@st.composite
def disks(draw: st.DrawFn) -> list[v1.DiskSpec]:
    names = ["root", *draw(st.lists(st.sampled_from(["data", "logs", "tmp"]), unique=True))]
    return [
        v1.DiskSpec(
            name=name,
            size_bytes=draw(sizes),
            bus=draw(st.sampled_from(list(v1.DiskBus))),
            provisioning=draw(st.sampled_from(list(v1.DiskProvisioning))),
            online_grow=draw(st.booleans()),
            iops_limit=draw(st.sampled_from([0, 100, 200])),
            sharing=draw(st.sampled_from(["", "noSharing", "virtualSharing"])),
            storage_policy=draw(st.sampled_from(["", "gold", "silver"])),
            controller_type=draw(st.sampled_from(["", "pvscsi", "floppy"])),
            storage=draw(st.sampled_from(["", "fake", "other"])),
        )
        for name in names
    ]


@st.composite
def nics(draw: st.DrawFn) -> list[v1.NicSpec]:
    networks = [v1.NetworkRef(kind=v1.NetworkKind.NAT), v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan", vlan=3),
                v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="br0"), v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name="pg")]  # fmt: skip
    return [
        v1.NicSpec(
            name=name,
            network=copy.deepcopy(draw(st.sampled_from(networks))),
            model=draw(st.sampled_from(["", "virtio", "e1000e", "vmxnet3"])),
            mac=draw(st.sampled_from(["", f"02:00:00:00:00:0{index}"])),
            mtu=draw(st.sampled_from([0, 1400])),
        )
        for index, name in enumerate(draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True)))
    ]


@st.composite
def specs(draw: st.DrawFn) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=UID, namespace="n", name="m"),
        cpu=draw(st.none() | cpus()),
        memory=draw(st.none() | st.builds(v1.MemorySpec, size_bytes=sizes, hot_add=st.booleans())),
        firmware=draw(st.none() | st.builds(v1.FirmwareSpec, type=st.just(v1.FirmwareType.UEFI), secure_boot=st.booleans(), tpm=st.booleans())),
        disks=draw(disks()),
        nics=draw(nics()),
        boot_data=draw(st.none() | st.builds(v1.BootData, user_data=st.sampled_from(["", "a", "b"]))),
        power=draw(st.none() | st.builds(v1.PowerSpec, state=st.sampled_from([ON, OFF, SUSPENDED]), graceful=st.booleans())),
        tags=draw(st.lists(st.sampled_from(["x", "y"]))),
        description=draw(st.sampled_from(["", "text"])),
        extra_config=draw(st.dictionaries(st.sampled_from(["fake.colour", "other"]), st.sampled_from(["1", "2"]))),
        tuning=draw(st.none() | st.builds(v1.Tuning, iommu=st.booleans(), latency_sensitivity=st.sampled_from(["", "high"]))),
        placement=draw(st.none() | st.builds(v1.Placement, host=st.sampled_from(["", "fake-host", "elsewhere"]), affinity=rules)),
        attributes=draw(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]))),
        customization=draw(st.none() | st.just(v1.Customization(domain="example.org"))),
    )  # fmt: skip


@st.composite
def capabilities(draw: st.DrawFn) -> v1.Capabilities:
    """The fake's, some of them taken away."""
    can = copy.deepcopy(FAKE_CAPABILITIES)
    for name in draw(st.lists(st.sampled_from(FLAGS), unique=True, max_size=6)):
        setattr(can, name, False)
    return can


def creatable(want: v1.MachineSpec) -> v1.MachineSpec:
    """The spec without what would rightly stop its creation."""
    narrowed = planner.supported(want, FAKE_CAPABILITIES)
    for nic in narrowed.nics:
        nic.network = nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT)
    return narrowed


async def _apply(first: v1.MachineSpec, between: v1.PowerState, second: v1.MachineSpec, can: v1.Capabilities) -> None:
    world = FakeHypervisor()
    driver = FakeDriver(world, owner="o")
    hub = Hub(driver, world.clock, settings=HubSettings(debounce=0))
    async with driver.session(), Operations(world.clock) as operations, asyncio.TaskGroup() as group:
        watching = group.create_task(hub.run())
        machines = Machines(driver, hub, operations, world.clock, owner="o")
        await machines.apply(v1.ApplyMachineRequest(spec=creatable(first)))
        world.power_behind_our_back(UID, between)
        driver._capabilities = can
        await _converges(machines, world, second, can)
        watching.cancel()


async def _converges(machines: Machines, world: FakeHypervisor, second: v1.MachineSpec, can: v1.Capabilities) -> None:
    seen = await machines.get(UID)
    boot_disk, volumes = seen.disks[0], {volume.id for volume in world.volumes.values()}
    want = copy.deepcopy(second)
    plan = planner.plan(want, seen, can)
    assert planner.plan(want, seen, can) == plan, "the same question has the same answer"
    assert want == second
    request = v1.ApplyMachineRequest(spec=second, restart_policy=v1.RestartPolicy.ALLOWED)
    outcome = await machines.apply(request)
    await _settled(machines, request, outcome, can)
    assert volumes <= {volume.id for volume in world.volumes.values()}, "a change of shape never removes content"
    assert (await machines.get(UID)).disks[0].id == boot_disk.id


async def _settled(machines: Machines, request: v1.ApplyMachineRequest, outcome: Outcome, can: v1.Capabilities) -> None:
    """Nothing is left that could be done, and doing it again does nothing."""
    assert outcome.operation is None
    assert outcome.machine is not None
    assert request.spec is not None
    left = planner.plan(request.spec, outcome.machine, can)
    assert [c for c in left if c.effect is v1.Effect.ONLINE] == []
    wants_on = request.spec.power is not None and request.spec.power.state is ON
    waiting = [c.field for c in left if c.effect is v1.Effect.RESTART]
    if wants_on:
        assert set(waiting) <= {"boot_data", "cpu.hot_add", "memory.hot_add"}
    codes = {reason.code for change in outcome.pending for reason in change.reasons}
    assert not codes & {"DidNotHold", "RestartDidNotHelp"}
    again = await machines.apply(request)
    assert again.applied == []
    assert again.machine == outcome.machine


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.sampled_from([ON, OFF, SUSPENDED, PAUSED]), specs(), capabilities())
def test_applying_converges(
    first: v1.MachineSpec, between: v1.PowerState, second: v1.MachineSpec, can: v1.Capabilities
) -> None:
    """From any machine, in any power state, to any spec, with any capabilities, in one call."""
    asyncio.run(_apply(first, between, second, can))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_what_left_the_spec_leaves_the_machine(first: v1.MachineSpec) -> None:
    """A spec that says nothing but who it is about takes off whatever an earlier one asked for and can be taken off."""

    async def ask() -> v1.Machine:
        world = FakeHypervisor()
        driver = FakeDriver(world, owner="o")
        async with driver.session(), Operations(world.clock) as operations:
            machines = Machines(driver, Hub(driver, world.clock), operations, world.clock, owner="o")
            await machines.apply(v1.ApplyMachineRequest(spec=creatable(first)))
            world.power_behind_our_back(UID, OFF)
            bare = v1.ApplyMachineRequest(spec=v1.MachineSpec(identity=first.identity))
            outcome = await machines.apply(bare)
            assert [change.field for change in outcome.pending] == ["disks[root]"]  # it is the one to boot from
            assert (await machines.apply(bare)).applied == []
            return await machines.get(UID)

    machine = asyncio.run(ask())
    facts = {planner.BOOT_DATA_SETTING, "cpu.hot_add", "memory.hot_add"}
    assert {key for key in machine.settings if not key.startswith("disks[root]")} <= facts
    assert (machine.tags, machine.description, machine.nics, len(machine.disks)) == ([], "", [], 1)
