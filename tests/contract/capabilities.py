"""Capabilities are honest: what is declared works, what is not is refused with a reason before anything is touched."""

from __future__ import annotations

import copy
import dataclasses
import uuid
from collections.abc import Awaitable, Callable

import pytest
from common import v1
from common.errors import NotSupportedError, WrongPowerStateError

from .images import prepare, request
from .subject import GIB, MIB, OFF, ON, SUSPENDED, Subject

Exercise = Callable[[Subject, v1.MachineSpec], Awaitable[None]]
Wish = Callable[[v1.MachineSpec], None]

ELSEWHERE = {
    "disk_read": "DiskContract",
    "disk_write": "DiskContract",
    "changed_blocks": "DiskContract.test_what_changed_since_is_told",
    "consoles": "ConsoleContract",
    "image_import": "ImageContract",
    "image_formats": "ImageContract",
    "image_sources": "ImageContract",
    "graceful_shutdown": "MachineContract.test_graceful_off_is_settled_by_off",
    "cloud_init": "CapabilityContract.test_boot_data_is_written_and_noticed",
    "guest_addresses": "CapabilityContract.test_guest_addresses",
    "inventory": "CapabilityContract.test_inventory",
    "suspend": "MachineContract.test_suspended_keeps_the_memory",
    "reset": "CapabilityContract.test_reset",
    "snapshots": "SnapshotContract.test_create_twice_is_one",
    "memory_snapshots": "SnapshotContract.test_memory_comes_back_with_its_power",
    "quiesced_snapshots": "SnapshotContract.test_quiesce_is_never_downgraded",
    "snapshot_revert": "SnapshotContract.test_W47_P14_a_revert_brings_the_hardware_back",
    "full_clone": "CloneContract.test_a_full_clone_outlives_its_source",
    "linked_clone": "CloneContract.test_P8_a_linked_clone_stands_on_a_snapshot",
    "instant_clone": "CloneContract.test_an_instant_clone_runs_from_the_start",
    "adoption": "AdoptionContract.test_a_foreign_machine_is_adopted_as_it_is",
    "screenshot": "CapabilityContract.test_screenshot",
}
"""Capabilities that other tests exercise."""

LATER = {"guest_tools_policy"}
"""Capabilities whose exercise comes with the first provider that declares them; they must not be declared before."""


def _field(path: str, value: object) -> Wish:
    def wish(spec: v1.MachineSpec) -> None:
        target: object = spec
        *parents, last = path.split(".")
        for name in parents:
            target = target[int(name)] if name.isdigit() else getattr(target, name)  # type: ignore[index]  # a path
        setattr(target, last, copy.deepcopy(value))

    return wish


REFUSED: dict[str, Wish] = {
    "secure_boot": _field("firmware", v1.FirmwareSpec(type=v1.FirmwareType.UEFI, secure_boot=True)),
    "tpm_versions": _field("firmware", v1.FirmwareSpec(tpm=True)),
    "cpu_hot_add": _field("cpu.hot_add", True),
    "memory_hot_add": _field("memory.hot_add", True),
    "disk_iops_limit": _field("disks.0.iops_limit", 100),
    "disk_sharing": _field("disks.0.sharing", "virtualSharing"),
    "existing_disk": _field("disks.0.existing", v1.ExistingDisk(id="some-disk")),
    "vlan": _field("nics.0.network.vlan", 7),
    "nic_mtu": _field("nics.0.mtu", 1400),
    "nic_firewall": _field("nics.0.firewall", True),
    "nic_rate_limit": _field("nics.0.rate_limit_bytes", 50 * MIB),
    "nic_trunks": _field("nics.0.trunks", ["7", "10-19"]),
    "fixed_mac": _field("nics.0.mac", "02:00:00:00:00:01"),
    "cloud_init": _field("boot_data", v1.BootData(user_data="#cloud-config")),
    "static_addresses": _field("nics.0.addressing", v1.GuestAddressing(addresses=["192.0.2.7/24"])),
    "ignition": _field("boot_data", v1.BootData(ignition="{}")),
    "suspend": _field("power.state", SUSPENDED),
    "nested_virtualization": _field("cpu.nested_virtualization", True),
    "iommu": _field("tuning", v1.Tuning(iommu=True)),
    "virtualization_based_security": _field("tuning", v1.Tuning(virtualization_based_security=True)),
    "latency_sensitivity": _field("tuning", v1.Tuning(latency_sensitivity="high")),
    "hyper_threading_policy": _field("tuning", v1.Tuning(hyper_threading_policy="avoid")),
    "cpu_topology": _field("cpu", v1.CpuSpec(count=4, cores_per_socket=2)),
    "cpu_reservation": _field("cpu.reservation_mhz", 10),
    "cpu_limit": _field("cpu.limit_mhz", 10),
    "cpu_shares": _field("cpu.shares", 10),
    "memory_reservation": _field("memory.reservation_bytes", 1),
    "memory_limit": _field("memory.limit_bytes", 1 << 40),
    "encryption": _field("tuning", v1.Tuning(encryption=True)),
    "gpu": _field("gpus", [v1.GpuSpec(count=1)]),
    "guest_tools_policy": _field("guest_tools_policy", "install"),
    "tags": _field("tags", ["blue"]),
    "cdroms": _field("cdroms", [v1.CdromSpec(name="setup")]),
    "disk_controllers": _field("disks.0.controller_type", "pvscsi"),
    "storage_policies": _field("disks.0.storage_policy", "gold"),
    "customization": _field("customization", v1.Customization(domain="example.org")),
    "sysprep": _field("customization", v1.Customization(sysprep=v1.Sysprep(admin_password="canary"))),
    "attributes": _field("attributes", {"cost-centre": "42"}),
    "affinity": _field("placement", v1.Placement(affinity=[v1.AffinityRule(name="db", apart=True)])),
}
"""Capability -> what a spec asks for that needs it."""

ANSWERED_BY_CALLS = {
    "reset", "snapshots", "memory_snapshots", "quiesced_snapshots", "snapshot_revert", "full_clone", "linked_clone",
    "instant_clone", "consoles", "disk_read", "disk_write", "inventory", "adoption", "changed_blocks", "screenshot",
    "graceful_shutdown", "guest_addresses", "image_import", "image_formats", "image_sources",
}  # fmt: skip
"""Capabilities of calls and not of specs; `test_calls_that_are_not_declared_are_refused` asks for the calls."""

HOW = {
    "disk_hot_add", "disk_hot_remove", "disk_online_grow", "nic_hot_add", "nic_hot_remove", "nic_online_update",
    "disk_offline_grow", "disk_offline_change", "nic_offline_change", "firmware", "disk_buses", "disk_provisionings",
    "nic_models", "network_kinds", "extra_config_keys", "placements", "placement_moves", "disk_move",
}  # fmt: skip
"""Capabilities that say when or which, not whether; the planner's own table covers their refusals."""


async def _hot(subject: Subject, spec: v1.MachineSpec, *, online: bool, edit: Wish) -> v1.Machine:
    """Apply an edit to a machine that is on, or off; everything of it must hold at once."""
    spec.power.state = ON if online else OFF
    await subject.settle(spec)
    edit(spec)
    answer = await subject.settle(spec)
    assert [change for change in answer.pending if not change.field.endswith(".hot_add")] == []
    assert answer.applied
    assert answer.machine.power is spec.power.state
    machine: v1.Machine = answer.machine
    return machine


async def _cpu_hot_add(subject: Subject, spec: v1.MachineSpec) -> None:
    spec.cpu.hot_add = True
    machine = await _hot(subject, spec, online=True, edit=_field("cpu.count", 2))
    assert machine.cpu.count == 2


async def _memory_hot_add(subject: Subject, spec: v1.MachineSpec) -> None:
    spec.memory.hot_add = True
    size = subject.traits.memory_bytes * 2
    machine = await _hot(subject, spec, online=True, edit=_field("memory.size_bytes", size))
    assert machine.memory.size_bytes == size


def _grow(online: bool) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        size = subject.traits.disk_bytes * 2
        spec.disks[0].online_grow = online
        machine = await _hot(subject, spec, online=online, edit=_field("disks.0.size_bytes", size))
        assert machine.disks[0].size_bytes >= size

    return exercise


def _disk(online: bool) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        """Detached disks keep their content: the same volume comes back."""
        extra = v1.DiskSpec(name="data", size_bytes=subject.traits.disk_bytes)
        machine = await _hot(subject, spec, online=online, edit=lambda s: s.disks.append(extra))
        data = {disk.name: disk for disk in machine.disks}["data"]
        machine = await _hot(subject, spec, online=online, edit=lambda s: s.disks.pop())
        assert "data" not in {disk.name for disk in machine.disks}
        machine = await _hot(subject, spec, online=online, edit=lambda s: s.disks.append(extra))
        assert {disk.name: disk for disk in machine.disks}["data"].id == data.id

    return exercise


def _nic(online: bool) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        extra = v1.NicSpec(name="net1", network=copy.deepcopy(subject.traits.network))
        machine = await _hot(subject, spec, online=online, edit=lambda s: s.nics.append(extra))
        assert {nic.name for nic in machine.nics} == {"net0", "net1"}
        machine = await _hot(subject, spec, online=online, edit=lambda s: s.nics.pop())
        assert {nic.name for nic in machine.nics} == {"net0"}

    return exercise


async def _nic_online_update(subject: Subject, spec: v1.MachineSpec) -> None:
    other = subject.traits.other_network
    if other is None:
        pytest.skip("this provider's tests have one network only")
    machine = await _hot(subject, spec, online=True, edit=_field("nics.0.network", other))
    assert (machine.nics[0].network.kind, machine.nics[0].network.name) == (other.kind, other.name)


async def _holds(subject: Subject, spec: v1.MachineSpec) -> v1.Machine:
    """A spec that is met from the start: created, nothing pending, nothing to do again."""
    answer = await subject.settle(spec)
    assert answer.pending == []
    assert (await subject.plan(spec)).changes == []
    machine: v1.Machine = answer.machine
    return machine


def _from_start(wish: Wish) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        wish(spec)
        await _holds(subject, spec)

    return exercise


def _edited(first: Wish, second: Wish) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        """It holds from the start; an edit holds at once while off, and after a restart at the latest while on."""
        first(spec)
        await _holds(subject, spec)
        second(spec)
        assert (await subject.plan(spec)).changes
        await _holds(subject, spec)
        spec.power.state = ON
        await subject.settle(spec)
        first(spec)
        answer = await subject.settle(spec)
        assert all(change.effect is v1.Effect.RESTART for change in answer.pending)
        if answer.pending:
            await subject.settle(spec, restart_policy=v1.RestartPolicy.ALLOWED)
        machine = await _holds(subject, spec)
        assert machine.power is ON

    return exercise


def _added(wish: Wish, *, firmware: v1.FirmwareType = v1.FirmwareType.UNSPECIFIED) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        """It holds from the start, and on a machine that was made without it."""
        other = subject.spec()
        spec.firmware = other.firmware = v1.FirmwareSpec(type=firmware)
        await _from_start(wish)(subject, spec)
        await _holds(subject, other)
        wish(other)
        assert (await subject.plan(other)).changes
        await _holds(subject, other)

    return exercise


def _once(wish: Wish, later: Wish) -> Exercise:
    async def exercise(subject: Subject, spec: v1.MachineSpec) -> None:
        """It is done to the guest of an image when the machine is made, and what it says later is no difference."""
        if subject.traits.image is not None:
            image = await prepare(subject, request(subject.traits.image()))
            spec.disks[0].image, spec.disks[0].size_bytes = v1.ImageRef(id=image.id), 0
        wish(spec)
        await _holds(subject, spec)
        later(spec)
        assert (await subject.plan(spec)).changes == []

    return exercise


async def _disk_controllers(subject: Subject, spec: v1.MachineSpec) -> None:
    for word in (await subject.can()).disk_controllers:
        one = subject.spec()
        one.disks[0].controller_type = word
        await _holds(subject, one)


async def _storage_policies(subject: Subject, spec: v1.MachineSpec) -> None:
    first, second = subject.traits.policies
    await _edited(_field("disks.0.storage_policy", first), _field("disks.0.storage_policy", second))(subject, spec)


async def _gpu(subject: Subject, spec: v1.MachineSpec) -> None:
    spec.gpus = [v1.GpuSpec(count=1, model=subject.traits.gpu)]
    await _holds(subject, spec)


async def _attributes(subject: Subject, spec: v1.MachineSpec) -> None:
    """Written, edited and taken off, by name."""
    spec.power.state = ON
    for wish in ({"cost-centre": "42", "owner": "ann"}, {"cost-centre": "43"}, {}):
        spec.attributes = dict(wish)
        machine = await _holds(subject, spec)
        told = {key: value for key, value in machine.settings.items() if key.startswith("attributes[")}
        assert told == {f"attributes[{name}]": value for name, value in wish.items()}


async def _affinity(subject: Subject, spec: v1.MachineSpec) -> None:
    """Two machines join a rule, one leaves it again; a rule is its name and what it says."""
    other, rule = subject.spec(), v1.AffinityRule(name=f"r{uuid.uuid4().hex[:8]}", apart=True)
    for one in (spec, other):
        one.placement = v1.Placement(affinity=[copy.deepcopy(rule)])
        machine = await _holds(subject, one)
        assert machine.settings[f"placement.affinity[{rule.name}]"] == "apart"
    other.placement.affinity = []
    await _holds(subject, other)
    spec.placement.affinity = []
    await _holds(subject, spec)


async def _existing_disk(subject: Subject, spec: v1.MachineSpec) -> None:
    """It is used as it stands, and stays when the machine goes."""
    donor = subject.spec()
    made = (await subject.settle(donor)).machine
    await subject.delete(donor.identity, retain=True)
    await subject.world.let_go(made.identity.uid)
    spec.disks = [v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=made.disks[0].id))]
    machine = await _holds(subject, spec)
    assert machine.disks[0].id == made.disks[0].id
    assert not machine.disks[0].owned
    await subject.delete(spec.identity)
    again = subject.spec()
    again.disks = [v1.DiskSpec(name="root", existing=v1.ExistingDisk(id=made.disks[0].id))]
    await _holds(subject, again)
    await subject.delete(again.identity)
    await subject.world.remove(made.identity.uid)


async def _firmware(subject: Subject, spec: v1.MachineSpec) -> None:
    for kind in (await subject.can()).firmware:
        one = subject.spec()
        one.firmware = v1.FirmwareSpec(type=kind)
        assert (await _holds(subject, one)).firmware.type is kind


async def _disk_buses(subject: Subject, spec: v1.MachineSpec) -> None:
    for bus in (await subject.can()).disk_buses:
        one = subject.spec()
        one.disks[0].bus = bus
        assert (await _holds(subject, one)).disks[0].bus is bus


async def _disk_provisionings(subject: Subject, spec: v1.MachineSpec) -> None:
    for kind in (await subject.can()).disk_provisionings:
        one = subject.spec()
        one.disks[0].provisioning = kind
        assert (await _holds(subject, one)).disks[0].provisioning is kind


async def _nic_models(subject: Subject, spec: v1.MachineSpec) -> None:
    for model in (await subject.can()).nic_models:
        one = subject.spec()
        one.nics[0].model = model
        assert (await _holds(subject, one)).nics[0].model == model


async def _network_kinds(subject: Subject, spec: v1.MachineSpec) -> None:
    """Of each kind that the test has a network of."""
    kinds = (await subject.can()).network_kinds
    for network in (subject.traits.network, subject.traits.other_network):
        if network is not None:
            assert network.kind in kinds
            one = subject.spec()
            one.nics[0].network = copy.deepcopy(network)
            assert (await _holds(subject, one)).nics[0].network.kind is network.kind


async def _fixed_mac(subject: Subject, spec: v1.MachineSpec) -> None:
    mac = "02:" + ":".join(uuid.uuid4().hex[i : i + 2] for i in range(0, 10, 2))
    spec.nics[0].mac = mac
    assert (await _holds(subject, spec)).nics[0].mac == mac


async def _tags(subject: Subject, spec: v1.MachineSpec) -> None:
    spec.tags = ["red", "blue"]
    assert sorted((await _holds(subject, spec)).tags) == ["blue", "red"]
    spec.tags = ["green"]
    assert (await subject.settle(spec)).machine.tags == ["green"]


async def _cpu_topology(subject: Subject, spec: v1.MachineSpec) -> None:
    spec.cpu = v1.CpuSpec(count=4, cores_per_socket=2)
    assert (await _holds(subject, spec)).cpu.cores_per_socket == 2


async def _extra_config(subject: Subject, spec: v1.MachineSpec) -> None:
    for key in (await subject.can()).extra_config_keys:
        one = subject.spec()
        value = subject.traits.extra_config.get(key, "1")
        one.extra_config = {key: value}
        assert (await _holds(subject, one)).settings[key] == value
        one.extra_config = {}
        assert [change.field for change in (await subject.plan(one)).changes] == [f"extra_config[{key}]"]
        assert key not in (await _holds(subject, one)).settings


async def _placements(subject: Subject, spec: v1.MachineSpec) -> None:
    """What is declared is not refused by the planner; the places themselves are the provider's own tests."""
    names = {kind: kind.name.lower() for kind in (await subject.can()).placements}
    for field in names.values():
        one = subject.spec()
        one.placement = v1.Placement(**{field: "anywhere"})
        codes = {r.code for change in (await subject.plan(one)).changes for r in change.reasons}
        assert "PlacementUnsupported" not in codes


async def _placement_moves(subject: Subject, spec: v1.MachineSpec) -> None:
    """A machine goes to another place and back, running and not, and stays what it was."""
    places = subject.traits.places
    names = [kind.name.lower() for kind in (await subject.can()).placement_moves if kind in places]
    if not names:
        pytest.skip("this provider's tests have one place only")
    assert len(names) == len((await subject.can()).placement_moves)
    for name in names:
        first, second = places[v1.PlacementKind[name.upper()]]
        one = subject.spec()
        for power, place in ((OFF, first), (OFF, second), (ON, first), (ON, second)):
            one.power.state, one.placement = power, v1.Placement(**{name: place})
            machine = await _holds(subject, one)
            told = machine.host if name == "host" else machine.settings[f"placement.{name}"]
            assert (told, machine.power) == (place, power)
        assert len([each for each in await subject.every() if each.identity.uid == one.identity.uid]) == 1


async def _disk_move(subject: Subject, spec: v1.MachineSpec) -> None:
    """A disk goes to another storage while the machine runs, and is still owned and of its size."""
    if not subject.traits.other_storage:
        pytest.skip("this provider's tests have one storage only")
    before = (await _holds(subject, spec)).disks[0]
    machine = await _hot(subject, spec, online=True, edit=_field("disks.0.storage", subject.traits.other_storage))
    disk = machine.disks[0]
    assert (disk.storage, disk.owned) == (subject.traits.other_storage, before.owned)
    assert disk.size_bytes >= before.size_bytes


async def _cdroms(subject: Subject, spec: v1.MachineSpec) -> None:
    """Made with the machine, changed while it runs, removed while it is off."""
    first, second = subject.traits.media
    spec.cdroms = [v1.CdromSpec(name="setup", medium=first), v1.CdromSpec(name="empty")]
    machine = await _holds(subject, spec)
    assert {drive.name: drive.medium for drive in machine.cdroms} == {"setup": first, "empty": ""}
    machine = await _hot(subject, spec, online=True, edit=_field("cdroms.0.medium", second))
    assert {drive.name: drive.medium for drive in machine.cdroms} == {"setup": second, "empty": ""}
    machine = await _hot(subject, spec, online=True, edit=_field("cdroms.0.medium", ""))
    spec.cdroms.pop()
    held = await subject.settle(spec)
    assert [(change.field, change.effect) for change in held.pending] == [("cdroms[empty]", v1.Effect.RESTART)]
    spec.power.state = OFF
    assert [drive.name for drive in (await subject.settle(spec)).machine.cdroms] == ["setup"]
    spec.cdroms = [v1.CdromSpec(name="late", medium=first)]
    assert {drive.name: drive.medium for drive in (await subject.settle(spec)).machine.cdroms} == {"late": first}
    assert (await subject.plan(spec)).changes == []


EXERCISES: dict[str, Exercise] = {
    "cdroms": _cdroms,
    "firmware": _firmware,
    "secure_boot": _from_start(REFUSED["secure_boot"]),
    "tpm_versions": _from_start(REFUSED["tpm_versions"]),
    "cpu_hot_add": _cpu_hot_add,
    "memory_hot_add": _memory_hot_add,
    "disk_hot_add": _disk(online=True),
    "disk_hot_remove": _disk(online=True),
    "disk_online_grow": _grow(online=True),
    "disk_offline_grow": _grow(online=False),
    "disk_offline_change": _disk(online=False),
    "nic_hot_add": _nic(online=True),
    "nic_hot_remove": _nic(online=True),
    "nic_online_update": _nic_online_update,
    "nic_offline_change": _nic(online=False),
    "disk_buses": _disk_buses,
    "disk_provisionings": _disk_provisionings,
    "disk_iops_limit": _edited(_field("disks.0.iops_limit", 100), _field("disks.0.iops_limit", 200)),
    "disk_sharing": _added(_field("disks.0.sharing", "virtualSharing")),
    "disk_controllers": _disk_controllers,
    "storage_policies": _storage_policies,
    "gpu": _gpu,
    "existing_disk": _existing_disk,
    "nic_models": _nic_models,
    "network_kinds": _network_kinds,
    "vlan": _from_start(REFUSED["vlan"]),
    "nic_mtu": _from_start(REFUSED["nic_mtu"]),
    "nic_firewall": _added(REFUSED["nic_firewall"]),
    "nic_rate_limit": _edited(REFUSED["nic_rate_limit"], _field("nics.0.rate_limit_bytes", 20 * MIB)),
    "nic_trunks": _edited(REFUSED["nic_trunks"], _field("nics.0.trunks", ["8"])),
    "fixed_mac": _fixed_mac,
    "static_addresses": _from_start(REFUSED["static_addresses"]),
    "ignition": _from_start(REFUSED["ignition"]),
    "nested_virtualization": _from_start(REFUSED["nested_virtualization"]),
    "iommu": _added(REFUSED["iommu"]),
    "virtualization_based_security": _added(REFUSED["virtualization_based_security"], firmware=v1.FirmwareType.UEFI),
    "latency_sensitivity": _edited(
        _field("tuning", v1.Tuning(latency_sensitivity="low")), _field("tuning", v1.Tuning(latency_sensitivity="high"))
    ),
    "hyper_threading_policy": _edited(
        _field("tuning", v1.Tuning(hyper_threading_policy="avoid")),
        _field("tuning", v1.Tuning(hyper_threading_policy="require")),
    ),
    "encryption": _from_start(REFUSED["encryption"]),
    "customization": _once(REFUSED["customization"], _field("customization.domain", "example.com")),
    "sysprep": _once(REFUSED["sysprep"], _field("customization", None)),
    "attributes": _attributes,
    "affinity": _affinity,
    "cpu_topology": _cpu_topology,
    "cpu_reservation": _edited(_field("cpu.reservation_mhz", 10), _field("cpu.reservation_mhz", 20)),
    "cpu_limit": _edited(_field("cpu.limit_mhz", 2000), _field("cpu.limit_mhz", 1000)),
    "cpu_shares": _edited(_field("cpu.shares", 10), _field("cpu.shares", 20)),
    "memory_reservation": _edited(
        _field("memory.reservation_bytes", 4 * MIB), _field("memory.reservation_bytes", 8 * MIB)
    ),
    "memory_limit": _edited(_field("memory.limit_bytes", 2 * GIB), _field("memory.limit_bytes", GIB)),
    "tags": _tags,
    "extra_config_keys": _extra_config,
    "placements": _placements,
    "placement_moves": _placement_moves,
    "disk_move": _disk_move,
}

TAKEN_OFF = {
    "cpu_limit", "cpu_reservation", "cpu_shares", "memory_limit", "memory_reservation", "nested_virtualization",
    "iommu", "virtualization_based_security", "latency_sensitivity", "hyper_threading_policy", "disk_iops_limit",
    "disk_sharing", "storage_policies", "nic_mtu", "nic_firewall", "nic_rate_limit", "nic_trunks", "tags",
    "attributes", "affinity",
}  # fmt: skip
"""Capabilities of what a spec may say today and no longer say tomorrow."""

ALL = [field.name for field in dataclasses.fields(v1.Capabilities)]


class CapabilityContract:
    """Each capability, declared or not."""

    def test_P30_P32_every_capability_has_its_proof(self) -> None:
        """A new capability cannot be forgotten here."""
        assert set(ALL) == set(EXERCISES) | set(ELSEWHERE) | LATER
        assert set(ALL) == set(REFUSED) | ANSWERED_BY_CALLS | HOW
        assert not LATER & set(EXERCISES)

    @pytest.mark.parametrize("name", ALL)
    async def test_is_honest(self, subject: Subject, name: str) -> None:
        """What is declared is done; what is not declared is refused by the planner, with a reason."""
        spec = subject.spec()
        if getattr(await subject.can(), name):
            if name in EXERCISES:
                await EXERCISES[name](subject, spec)
            else:
                assert name in ELSEWHERE
        elif name in REFUSED:
            REFUSED[name](spec)
            changes = (await subject.plan(spec)).changes
            refused = [change for change in changes if change.effect is v1.Effect.UNSUPPORTED]
            assert refused, f"{name} is not declared, and asking for what needs it is refused nowhere"
            assert all(reason.code and reason.message for change in refused for reason in change.reasons)
        else:
            assert name in ANSWERED_BY_CALLS | HOW

    @pytest.mark.parametrize("name", sorted(TAKEN_OFF))
    async def test_what_leaves_the_spec_leaves_the_machine(self, subject: Subject, name: str) -> None:
        """Also while nothing else changes; the machine is then as if it had never been asked for."""
        if not getattr(await subject.can(), name):
            pytest.skip("not declared")
        spec = subject.spec()
        if name == "virtualization_based_security":
            spec.firmware = v1.FirmwareSpec(type=v1.FirmwareType.UEFI)  # it needs it, and firmware is for good
        plain = copy.deepcopy(spec)
        bare = await _holds(subject, plain)
        if name == "storage_policies":
            spec.disks[0].storage_policy = subject.traits.policies[0]
        else:
            REFUSED[name](spec)
        assert (await subject.plan(spec)).changes
        await _holds(subject, spec)
        assert (await subject.plan(plain)).changes
        machine = await _holds(subject, plain)
        assert (machine.settings, machine.tags) == (bare.settings, bare.tags)
        assert machine.cpu == bare.cpu

    async def test_nothing_is_declared_that_no_test_has_shown(self, subject: Subject) -> None:
        can = await subject.can()
        assert [name for name in sorted(LATER) if getattr(can, name)] == []

    async def test_calls_that_are_not_declared_are_refused(self, subject: Subject) -> None:
        can, timeout = await subject.can(), subject.pace.call
        spec = subject.spec()
        uid = spec.identity.uid
        await subject.settle(spec)

        def clone(kind: v1.CloneKind) -> Awaitable[object]:
            request = v1.CloneMachineRequest(source_uid=uid, kind=kind, target=subject.spec())
            call: Awaitable[object] = subject.machines.clone_machine(request, timeout=timeout)
            return call

        async def read() -> None:
            disk = v1.DiskRef(machine_uid=uid, disk_name="root")
            async for _ in subject.disks.read_disk(v1.ReadDiskRequest(disk=disk), timeout=timeout):
                raise AssertionError("it gives content away")

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "snapshots": lambda: subject.snapshots.list_snapshots(
                v1.ListSnapshotsRequest(machine_uid=uid), timeout=timeout
            ),
            "full_clone": lambda: clone(v1.CloneKind.FULL),
            "linked_clone": lambda: clone(v1.CloneKind.LINKED),
            "instant_clone": lambda: clone(v1.CloneKind.INSTANT),
            "disk_read": read,
            "inventory": lambda: subject.inventory.get_inventory(v1.GetInventoryRequest(), timeout=timeout),
            "adoption": lambda: subject.machines.adopt_machine(
                v1.AdoptMachineRequest(identity=subject.identity(), id="anything"), timeout=timeout
            ),
            "screenshot": lambda: subject.machines.capture_screenshot(
                v1.CaptureScreenshotRequest(uid=uid), timeout=timeout
            ),
            "suspend": lambda: subject.act(uid, v1.PowerAction.SUSPEND),
            "reset": lambda: subject.act(uid, v1.PowerAction.RESET),
        }
        for name, call in calls.items():
            if not getattr(can, name):
                with pytest.raises(NotSupportedError):
                    await call()

    async def test_boot_data_is_written_and_noticed(self, subject: Subject) -> None:
        """The digest of what was written is told, so that another payload shows as a difference."""
        if not (await subject.can()).cloud_init:
            pytest.skip("not declared")
        spec = subject.spec()
        spec.boot_data = v1.BootData(user_data="#cloud-config\nhostname: one\n")
        await _holds(subject, spec)
        spec.boot_data.user_data = "#cloud-config\nhostname: two\n"
        assert [change.field for change in (await subject.plan(spec)).changes] == ["boot_data"]
        await _holds(subject, spec)

    async def test_boot_data_that_come_later_are_noticed(self, subject: Subject) -> None:
        """A machine that was made without any tells so, and gets them while it is off."""
        if not (await subject.can()).cloud_init:
            pytest.skip("not declared")
        spec = subject.spec()
        await _holds(subject, spec)
        spec.boot_data = v1.BootData(user_data="#cloud-config\nhostname: late\n")
        assert [change.field for change in (await subject.plan(spec)).changes] == ["boot_data"]
        await _holds(subject, spec)

    async def test_inventory(self, subject: Subject) -> None:
        if not (await subject.can()).inventory:
            pytest.skip("not declared")
        found = await subject.inventory.get_inventory(v1.GetInventoryRequest(), timeout=subject.pace.call)
        assert found.hosts
        assert found.hosts[0].memory_bytes > 0
        assert found.storages
        assert found.storages[0].capacity_bytes >= found.storages[0].free_bytes

    async def test_reset(self, subject: Subject) -> None:
        if not (await subject.can()).reset:
            pytest.skip("not declared")
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        machine = await subject.act(spec.identity.uid, v1.PowerAction.RESET)
        assert machine is not None
        assert machine.power is ON

    async def test_screenshot(self, subject: Subject) -> None:
        """A picture of a machine that is on; one that is off shows nothing."""
        if not (await subject.can()).screenshot:
            pytest.skip("not declared")
        spec = subject.spec(power=ON)
        await subject.settle(spec)
        request = v1.CaptureScreenshotRequest(uid=spec.identity.uid)
        shot = await subject.machines.capture_screenshot(request, timeout=subject.pace.call)
        assert shot.image.startswith(b"\x89PNG\r\n\x1a\n")
        spec.power.state = OFF
        await subject.settle(spec)
        with pytest.raises(WrongPowerStateError):
            await subject.machines.capture_screenshot(request, timeout=subject.pace.call)

    async def test_guest_addresses(self, subject: Subject) -> None:
        """Those that are told belong to NICs of the machine, in a stable order."""
        if not (await subject.can()).guest_addresses:
            pytest.skip("not declared")
        spec = subject.spec(power=ON)
        machine = (await subject.settle(spec)).machine
        for address in machine.addresses:
            assert address.nic in {nic.name for nic in machine.nics} | {""}
            assert address.sources == sorted(address.sources)
