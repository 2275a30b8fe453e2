"""From objects to a MachineSpec: every field is read or reported, and nothing but InvalidSpecError comes out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_string
from typing import Any

import msgspec
import pytest
from common import v1, wire
from common.errors import InvalidSpecError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds.compose import INFORMATIONAL, BootSources, Composed, Defaults, compose
from kinds.provider import ProviderDefaults
from kinds.virtualmachine import VirtualMachine
from kinds.vmclass import VMClass
from kinds.vmnetworkattachment import VMNetworkAttachment

META = {"name": "web", "namespace": "shop", "uid": "5e7f9c8e-0000-4000-8000-000000000001"}
REFS = {"providerRef": {"name": "p"}, "classRef": {"name": "c"}}
NO_BOOT = BootSources()


def vm(**spec: Any) -> VirtualMachine:
    data = {"metadata": META, "spec": {**REFS, "imageRef": {"name": "i"}, **spec}}
    return msgspec.convert(data, VirtualMachine)


def imported(**spec: Any) -> VirtualMachine:
    return msgspec.convert({"metadata": META, "spec": {**REFS, **spec}}, VirtualMachine)


def vmclass(**spec: Any) -> VMClass:
    return msgspec.convert({"metadata": {"name": "c"}, "spec": {"cpu": 2, "memory": "2Gi", **spec}}, VMClass)


def attachment(**network: Any) -> VMNetworkAttachment:
    more = {key: network.pop(key) for key in ("ipAllocation", "qos", "security", "metadata") if key in network}
    spec = {"network": {"type": "nat", **network}, **more}
    return msgspec.convert({"metadata": {"name": "n"}, "spec": spec}, VMNetworkAttachment)


def composed(
    machine: VirtualMachine | None = None,
    size: VMClass | None = None,
    boot: BootSources = NO_BOOT,
    defaults: Defaults | None = None,
    **networks: VMNetworkAttachment,
) -> Composed:
    return compose(machine or vm(), size or vmclass(), "image-1", networks, boot, "owner", defaults)


def nic_on(net: VMNetworkAttachment, provider_type: str = "libvirt", **nic: Any) -> v1.NicSpec:
    machine = vm(networks=[{"name": "eth0", "networkRef": {"name": "n"}, **nic}])
    return composed(machine, defaults=Defaults(provider_type), eth0=net).spec.nics[0]


def test_the_smallest_machine():
    spec = composed().spec
    assert spec.identity == v1.MachineIdentity(uid=META["uid"], namespace="shop", name="web", owner="owner")
    assert (spec.cpu.count, spec.memory.size_bytes) == (2, 2 << 30)
    assert [(disk.name, disk.image.id, disk.size_bytes) for disk in spec.disks] == [("root", "image-1", 0)]
    assert spec.power == v1.PowerSpec(state=v1.PowerState.ON)
    assert spec.boot_data is None


def test_W12_overrides_win_over_the_class():
    spec = composed(vm(resources={"cpu": 5, "memoryMiB": 512})).spec
    assert (spec.cpu.count, spec.memory.size_bytes) == (5, 512 << 20)


def test_W15_disks_have_names_and_the_root_keeps_its_own_size():
    size = vmclass(diskDefaults={"size": "40Gi"})
    spec = composed(vm(disks=[{"name": "data", "sizeGiB": 7, "expandPolicy": "Online"}]), size).spec
    assert [(d.name, d.size_bytes >> 30, d.online_grow) for d in spec.disks] == [
        ("root", 40, False),
        ("data", 7, True),
    ]


def test_a_machine_that_is_installed_from_a_drive_needs_no_image():
    machine = imported(cdroms=[{"name": "setup", "medium": "[ds] a.iso"}, {"name": "more"}])
    found = compose(machine, vmclass(diskDefaults={"size": "40Gi"}), None, {}, NO_BOOT, "owner")
    assert [(drive.name, drive.medium) for drive in found.spec.cdroms] == [("setup", "[ds] a.iso"), ("more", "")]
    root = found.spec.disks[0]
    assert (root.image, root.existing, root.size_bytes >> 30) == (None, None, 40)


def test_a_disk_called_root_describes_the_boot_disk():
    spec = composed(vm(disks=[{"name": "root", "sizeGiB": 9, "bus": "scsi"}])).spec
    assert [(d.name, d.size_bytes >> 30, d.bus) for d in spec.disks] == [("root", 9, v1.DiskBus.SCSI)]
    assert spec.disks[0].image is not None


def test_naming_the_boot_disk_does_not_undo_the_type_that_the_class_chose():
    thick = vmclass(diskDefaults={"type": "thick"})
    for wish, provisioning in (({}, "THICK"), ({"type": "eagerzeroedthick"}, "EAGER_ZEROED_THICK")):
        spec = composed(vm(disks=[{"name": "root", "sizeGiB": 9, **wish}]), thick).spec
        assert spec.disks[0].provisioning.name == provisioning


def test_a_storage_policy_of_the_class_serves_disks_that_name_none():
    disks = [{"name": "data", "sizeGiB": 5}, {"name": "fast", "sizeGiB": 5, "storagePolicy": "gold"}]
    made = composed(vm(disks=disks), vmclass(diskDefaults={"storagePolicy": "silver"}))
    assert [disk.storage_policy for disk in made.spec.disks] == ["silver", "silver", "gold"]
    assert not made.ignored


def test_a_guest_is_customized_with_passwords_of_secrets():
    join = {"domain": "lab.example", "username": "joiner", "password": {"secretRef": {"name": "s"}}}
    sysprep = {"enabled": True, "owner": "Ada", "adminPassword": {"secretRef": {"name": "s"}}, "joinDomain": join}
    wish = {"hostname": "web", "domain": "example.org", "timeZone": "110", "stored": "base", "sysprep": sysprep}
    boot = BootSources(admin_password="canary-1", join_password="canary-2")
    made = composed(vm(customization=wish), boot=boot)
    assert not made.ignored
    assert made.spec.boot_data == v1.BootData(hostname="web")
    assert made.spec.customization == v1.Customization(
        stored="base",
        domain="example.org",
        time_zone="110",
        sysprep=v1.Sysprep(
            full_name="Ada",
            admin_password="canary-1",
            join_domain="lab.example",
            join_user="joiner",
            join_password="canary-2",
        ),
    )
    assert composed(vm(customization={})).spec.customization == v1.Customization()
    assert composed(vm()).spec.customization is None


@pytest.mark.parametrize(
    ("password", "words"),
    [({"value": "canary-3"}, "adminPassword.value: whoever may read"), ({}, "adminPassword: names no Secret")],
)
def test_a_password_in_the_object_is_refused_and_not_shown(password: dict[str, Any], words: str):
    wish = {"sysprep": {"enabled": True, "adminPassword": password}}
    with pytest.raises(InvalidSpecError, match=words) as refused:
        composed(vm(customization=wish))
    assert "canary" not in str(refused.value)


def test_attributes_are_handed_on():
    assert composed(vm(attributes={"Owner": "web team"})).spec.attributes == {"Owner": "web team"}


def test_an_imported_disk_is_not_resized_by_the_class():
    found = compose(
        imported(importedDisk={"diskID": "d", "sizeGiB": 3}),
        vmclass(diskDefaults={"size": "40Gi"}),
        None,
        {},
        NO_BOOT,
        "o",
    )
    root = found.spec.disks[0]
    assert (root.existing, root.size_bytes) == (v1.ExistingDisk(id="d", format="qcow2"), 0)
    assert [report.field for report in found.ignored] == ["spec.importedDisk.sizeGiB"]


@pytest.mark.parametrize(
    ("wish", "state", "graceful"),
    [
        (None, v1.PowerState.ON, False),
        ("On", v1.PowerState.ON, False),
        ("Off", v1.PowerState.OFF, False),
        ("OffGraceful", v1.PowerState.OFF, True),
        ("Suspended", v1.PowerState.SUSPENDED, False),
    ],
)
def test_W2_power_words(wish: str | None, state: v1.PowerState, graceful: bool):
    power = composed(vm(powerState=wish, lifecycle={"gracefulShutdownTimeout": "1m30s"})).spec.power
    assert (power.state, power.graceful, power.graceful_timeout) == (state, graceful, timedelta(seconds=90))


@pytest.mark.parametrize(
    ("network", "provider", "want"),
    [
        ({}, "libvirt", v1.NetworkRef(kind=v1.NetworkKind.NAT)),
        ({"libvirt": {"networkName": "lan"}}, "libvirt", v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="lan")),
        ({"libvirt": {"bridge": {"name": "br0"}}}, "libvirt", v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="br0")),
        ({"proxmox": {"bridge": "vmbr1", "vlanTag": 7}}, "proxmox",
         v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr1", vlan=7)),
        ({"vsphere": {"portgroup": "pg", "vlan": {"type": "vlan", "vlanID": 9}}}, "vsphere",
         v1.NetworkRef(kind=v1.NetworkKind.NAMED, name="pg", vlan=9)),
        ({"vsphere": {"portgroup": "pg", "distributedSwitch": {"name": "dvs"}}}, "vsphere",
         v1.NetworkRef(kind=v1.NetworkKind.DISTRIBUTED, name="pg", switch="dvs")),
        ({"libvirt": {"networkName": "lan"}, "proxmox": {"bridge": "vmbr0"}}, "proxmox",
         v1.NetworkRef(kind=v1.NetworkKind.BRIDGE, name="vmbr0")),
    ],
)  # fmt: skip
def test_networks(network: dict[str, Any], provider: str, want: v1.NetworkRef):
    assert nic_on(attachment(**network), provider).network == want


def test_a_nic_without_a_network_is_nat_or_the_providers_default():
    machine = vm(networks=[{"name": "eth0"}])
    assert composed(machine).spec.nics[0].network == v1.NetworkRef(kind=v1.NetworkKind.NAT)
    lan = Defaults("libvirt", ProviderDefaults(network="lan"))
    assert composed(machine, defaults=lan).spec.nics[0].network.name == "lan"


def test_W24_addresses_and_mac():
    nic = nic_on(
        attachment(), macAddress="52-54-00-AA-BB-CC", ipAddress="192.0.2.7", prefix=24, gateway="192.0.2.1",
        dns="9.9.9.9, 1.1.1.1", addresses=["2001:db8::7/64"], gateway6="2001:db8::1", nameservers=["2001:db8::53"],
        searchDomains=["example.org"], mtu=9000,
    )  # fmt: skip
    assert (nic.mac, nic.mtu) == ("52:54:00:aa:bb:cc", 9000)
    assert nic.addressing == v1.GuestAddressing(
        addresses=["192.0.2.7/24", "2001:db8::7/64"], gateway4="192.0.2.1", gateway6="2001:db8::1",
        nameservers=["9.9.9.9", "1.1.1.1", "2001:db8::53"], search_domains=["example.org"],
    )  # fmt: skip


def test_the_networks_addresses_serve_where_the_nic_has_none():
    static = {
        "address": "192.0.2.9/24",
        "gateway": "192.0.2.1",
        "routes": [{"destination": "10.0.0.0/8", "gateway": "192.0.2.2"}],
    }
    net = attachment(ipAllocation={"type": "Static", "staticConfig": static, "dnsConfig": {"servers": ["9.9.9.9"]}})
    nic = nic_on(net)
    assert nic.addressing.addresses == ["192.0.2.9/24"]
    assert nic.addressing.routes == [v1.Route(destination="10.0.0.0/8", via="192.0.2.2")]
    own = nic_on(net, ipAddress="192.0.2.7", prefix=24)
    assert own.addressing.addresses == ["192.0.2.7/24"]


def test_boot_data_of_two_sources_become_one_multipart():
    machine = vm(
        userData={"cloudInit": {"inline": "#cloud-config\na: 1\n"}}, metaData={"cloudInit": {"inline": "x: 1"}}
    )
    boot = BootSources(user_data="#!/bin/sh\necho hi\n", meta_data="y: 2")
    data = composed(machine, boot=boot).spec.boot_data
    parts = message_from_string(data.user_data).get_payload()
    assert [part.get_content_type() for part in parts] == ["text/cloud-config", "text/x-shellscript"]
    assert [part.get_payload(decode=True).decode() for part in parts] == [
        "#cloud-config\na: 1\n",
        "#!/bin/sh\necho hi\n",
    ]
    assert data.meta_data == "x: 1\ny: 2"
    assert composed(machine).spec.boot_data.user_data == "#cloud-config\na: 1\n"
    assert "echo" not in repr(boot)


def test_placement_falls_back_field_by_field():
    defaults = Defaults("vsphere", ProviderDefaults(cluster="c1", datastore="d1", folder="f1"))
    placement = composed(vm(placement={"storagePod": "pod", "folder": "f2"}), defaults=defaults).spec.placement
    assert placement == v1.Placement(cluster="c1", folder="f2", storage_pod="pod")


@pytest.mark.parametrize(
    ("machine", "size", "words"),
    [
        (lambda: vm(importedDisk={"diskID": "d"}), {}, "both are given; set exactly one of imageRef and importedDisk"),
        (imported, {}, "neither is given"),
        (vm, {"memory": "lots"}, "VMClass spec.memory: 'lots'"),
        (vm, {"memory": "1"}, "VMClass spec.memory"),
        (vm, {"memory": "-1Gi"}, "VMClass spec.memory"),
        (vm, {"memory": "7Ei"}, "VMClass spec.memory"),
        (lambda: vm(networks=[{"name": "a", "ipAddress": "192.0.2.1"}]), {}, "spec.networks[a].prefix"),
        (lambda: vm(networks=[{"name": "a", "addresses": ["nonsense"]}]), {}, "spec.networks[a]: 'nonsense'"),
        (lambda: vm(networks=[{"name": "a"}, {"name": "a"}]), {}, "given twice"),
        (lambda: vm(disks=[{"name": "a", "sizeGiB": 1}, {"name": "a", "sizeGiB": 1}]), {}, "given twice"),
        (lambda: vm(networks=[{"name": "a", "networkRef": {"name": "x"}}]), {}, "VMNetworkAttachment x"),
        (lambda: vm(lifecycle={"gracefulShutdownTimeout": "48h"}), {}, "gracefulShutdownTimeout"),
        (lambda: vm(userData={"cloudInit": {"inline": "a"}, "ignition": {"inline": "{}"}}), {}, "spec.userData"),
        (vm, {"securityProfile": {"encryptionPolicy": {"requireEncryption": True}}}, "requireEncryption"),
    ],
)  # fmt: skip
def test_bad_wishes_name_the_field_and_the_cure(machine: Any, size: dict[str, Any], words: str):
    with pytest.raises(InvalidSpecError) as refused:
        composed(machine(), vmclass(**size))
    assert words in str(refused.value)


# -- every field ------------------------------------------------------------------------------------------------------

SAMPLES: dict[str, Any] = {
    "spec.resources.cpu": 5, "spec.cpu": 5, "spec.importedDisk.path": "/pool/disk",
    "spec.network.vsphere.distributedSwitch.uuid": "50-2e",
    "spec.networks[].dns": "9.9.9.9", "spec.networks[].addresses": ["192.0.2.5/24"], "spec.networks[].mtu": 1400,
    "spec.memory": "3Gi", "spec.diskDefaults.size": "41Gi", "spec.lifecycle.gracefulShutdownTimeout": "31s",
    "spec.resourceLimits.memoryLimit": "3Gi", "spec.resourceLimits.memoryReservation": "1Gi",
    "spec.network.mtu": 1400, "spec.ipAllocation.staticConfig.address": "192.0.2.6/24",
}  # fmt: skip
"""Values where any string would not do, or the first one would be the default."""

NEEDED = {"vsphere": {"portgroup": "pg"}, "proxmox": {"bridge": "vmbr9"}}
"""Without these their blocks name no network, and say nothing."""

NOT_OF_THE_MACHINE = {
    "VirtualMachine spec.providerRef": "resolved by the controller",
    "VirtualMachine spec.classRef": "resolved by the controller",
    "VirtualMachine spec.imageRef": "resolved by the controller",
    "VirtualMachine spec.networks[].networkRef": "resolved by the controller",
    "VirtualMachine spec.userData.cloudInit.secretRef": "read by the controller",
    "VirtualMachine spec.userData.ignition.secretRef": "read by the controller",
    "VirtualMachine spec.metaData.cloudInit.secretRef": "read by the controller",
    "VirtualMachine spec.deletionPolicy": "obeyed by the controller",
    "VirtualMachine spec.onMissing": "obeyed by the controller",
    "VirtualMachine spec.restartPolicy": "obeyed by the controller",
    "VMClass spec.consumerNamespaceSelector": "obeyed by the controller",
}


def leaves(info: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each leaf of a Struct: its path on the wire, and its type."""
    match info:
        case msgspec.inspect.Metadata():
            yield from leaves(info.type, path)
        case msgspec.inspect.UnionType():
            (inner,) = [t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)][:1]
            yield from leaves(inner, path)
        case msgspec.inspect.StructType():
            for each in info.fields:
                yield from leaves(each.type, f"{path}.{each.encode_name}")
        case msgspec.inspect.ListType() if isinstance(bare(info.item_type), msgspec.inspect.StructType):
            yield from leaves(info.item_type, f"{path}[]")
        case _:
            yield path, info


def bare(info: Any) -> Any:
    return bare(info.type) if isinstance(info, msgspec.inspect.Metadata) else info


def sample(info: Any, path: str, default: Any) -> Any:
    """A value that is valid and not the default."""
    if path in SAMPLES:
        return SAMPLES[path]
    match bare(info):
        case msgspec.inspect.LiteralType(values=values):
            return next(value for value in values if value != default)
        case msgspec.inspect.IntType(ge=least):
            return (least or 0) + (1 if default == least else 0) + 1
        case msgspec.inspect.BoolType():
            return not default
        case msgspec.inspect.StrType(pattern=pattern):
            known = {"IPV4": "192.0.2.3", "CIDR": "192.0.2.0/24"}
            texts = ["web", "br0", "vmbr3", *known.values(), "52:54:00:00:00:01", "10s"]
            return next(text for text in texts if pattern is None or re.search(pattern, text))
        case msgspec.inspect.ListType(item_type=item):
            return [sample(item, path, None)]
        case msgspec.inspect.DictType():
            return {"key": "value"}
        case msgspec.inspect.UnionType():
            return "6Gi"  # quantities are the only unions
        case other:
            raise AssertionError(f"{path}: no sample for {other}")


def required(info: Any) -> dict[str, Any]:
    """The least that a Struct needs."""
    found = {}
    for each in info.fields:
        if each.required:
            inner = bare(each.type)
            found[each.encode_name] = (
                required(inner) if isinstance(inner, msgspec.inspect.StructType) else sample(each.type, "", None)
            )
    return found


def grown(root: Any, path: list[str], value: Any) -> dict[str, Any]:
    """A document with this one field, and what its parents need."""
    info = bare(root)
    if isinstance(info, msgspec.inspect.UnionType):
        info = bare(next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)))
    head, rest = path[0].removesuffix("[]"), path[1:]
    each = next(f for f in info.fields if f.encode_name == head)
    found = required(info)
    if not rest:
        found[head] = value
    elif path[0].endswith("[]"):
        found[head] = [grown(bare(each.type).item_type, rest, value)]
    else:
        found[head] = grown(each.type, rest, value)
    return found


def field_cases() -> Iterator[Any]:
    for kind in (VirtualMachine, VMClass, VMNetworkAttachment):
        info = msgspec.inspect.type_info(kind)
        spec = next(each for each in info.fields if each.name == "spec").type
        for path, leaf in leaves(spec, "spec"):
            yield pytest.param(kind, spec, path, leaf, id=f"{kind.__name__} {path}")


def basics(kind: type) -> dict[str, Any]:
    if kind is VirtualMachine:
        return {**REFS, "imageRef": {"name": "i"}}
    return {"cpu": 2, "memory": "2Gi"} if kind is VMClass else {"network": {"type": "nat"}}


def merge(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        return {key: merge(under.get(key), over.get(key)) if key in over else under[key] for key in {**under, **over}}
    return over


def outcome(kind: type, spec: dict[str, Any], provider_type: str) -> Composed:
    meta = META if kind is VirtualMachine else {"name": "n"}
    item = msgspec.convert({"metadata": meta, "spec": spec}, kind)
    if kind is VirtualMachine:
        refs = {n.name: attachment() for n in item.spec.networks if n.network_ref is not None}
        return compose(item, vmclass(), "image-1", refs, NO_BOOT, "o", Defaults(provider_type))
    if kind is VMClass:
        return compose(vm(disks=[]), item, "image-1", {}, NO_BOOT, "o", Defaults(provider_type))
    machine = vm(networks=[{"name": "eth0", "networkRef": {"name": "n"}}])
    return compose(machine, vmclass(), "image-1", {"eth0": item}, NO_BOOT, "o", Defaults(provider_type))


@pytest.mark.parametrize(("kind", "spec", "path", "leaf"), list(field_cases()))
def test_W14_W24_every_field_is_read_or_reported(kind: type, spec: Any, path: str, leaf: Any):
    """Setting a field changes the MachineSpec, or is refused, or is reported: nothing is silently dropped."""
    name = f"{kind.__name__} {path}"
    if any(name == known or name.startswith(f"{known}.") for known in (*NOT_OF_THE_MACHINE, *INFORMATIONAL)):
        return
    parts = path.split(".")[1:]
    parent = ".".join(["spec", *parts[:-1]])
    provider_type = next((p for p in ("libvirt", "vsphere", "proxmox") if f"network.{p}" in path), "libvirt")
    default = sample_default(spec, parts)
    with_field = merge(basics(kind), grown(spec, parts, sample(leaf, path, default)))
    if "importedDisk" in path:
        with_field.pop("imageRef")
    if path.startswith("spec.ipAllocation.staticConfig"):
        with_field["ipAllocation"]["type"] = "Static"
    for kind_of_wire, needed in NEEDED.items():
        if f"network.{kind_of_wire}." in path:
            block = with_field["network"][kind_of_wire]
            with_field["network"][kind_of_wire] = {**needed, **block}
    without = remove(with_field, parts)
    try:
        after = outcome(kind, with_field, provider_type)
    except InvalidSpecError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert parts[-1].removesuffix("[]") in refusal or parent in refusal, refusal
        return
    try:
        before = outcome(kind, without, provider_type)
    except (InvalidSpecError, msgspec.ValidationError):
        return  # it cannot be left out here, so it was needed
    covered = [report.field.removeprefix("VMNetworkAttachment n ").removeprefix("VMClass ") for report in after.ignored]
    reported = any(path == field or path.startswith((f"{field}.", f"{field}[].")) for field in covered)
    assert reported or after.spec != before.spec or after.ignored != before.ignored, f"{name} is silently ignored"


def sample_default(spec: Any, parts: list[str]) -> Any:
    info = bare(spec)
    for part in parts:
        if isinstance(info, msgspec.inspect.UnionType):
            info = bare(next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)))
        each = next(f for f in info.fields if f.encode_name == part.removesuffix("[]"))
        info = bare(each.type)
        default = None if each.default is msgspec.NODEFAULT else each.default
        if isinstance(info, msgspec.inspect.ListType):
            info = bare(info.item_type)
    return default


def remove(spec: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    at: Any = copied
    for part in parts[:-1]:
        at = at[part.removesuffix("[]")]
        at = at[0] if part.endswith("[]") else at
    at.pop(parts[-1].removesuffix("[]"), None)
    return copied


# -- any object at all ------------------------------------------------------------------------------------------------


def anything(info: Any) -> st.SearchStrategy[Any]:
    """JSON-like data of this type, as wild as its type allows."""
    match info:
        case msgspec.inspect.Metadata():
            return anything(info.type)
        case msgspec.inspect.UnionType():
            return st.one_of([anything(each) for each in info.types])
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType(ge=least, le=most):
            return st.integers(least if least is not None else -(2**70), most if most is not None else 2**70)
        case msgspec.inspect.StrType(pattern=pattern, min_length=least, max_length=most):
            text = st.from_regex(pattern) if pattern else st.text(max_size=20)
            return text.filter(lambda t: len(t) >= (least or 0) and len(t) <= (most or 10**6))
        case msgspec.inspect.ListType(item_type=item, min_length=least):
            return st.lists(anything(item), min_size=least or 0, max_size=3)
        case msgspec.inspect.DictType(value_type=value):
            return st.dictionaries(st.text(max_size=5), anything(value), max_size=2)
        case msgspec.inspect.StructType():
            needed = {f.encode_name: anything(f.type) for f in info.fields if f.required}
            optional = {f.encode_name: anything(f.type) for f in info.fields if not f.required}
            return st.fixed_dictionaries(needed, optional=optional)
        case _:
            return st.one_of(st.none(), st.text(max_size=5))


def spec_of(kind: type) -> st.SearchStrategy[Any]:
    info = msgspec.inspect.type_info(kind)
    return anything(next(each for each in info.fields if each.name == "spec").type)


ANY_VM, ANY_CLASS, ANY_NET = (spec_of(kind) for kind in (VirtualMachine, VMClass, VMNetworkAttachment))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANY_VM, ANY_CLASS, ANY_NET, st.sampled_from(["libvirt", "vsphere", "proxmox", "fake"]))
def test_any_object_composes_or_is_refused(machine: Any, size: Any, net: Any, provider_type: str):
    """And what is composed can be sent."""
    try:
        item = msgspec.convert({"metadata": META, "spec": machine}, VirtualMachine)
        klass = msgspec.convert({"metadata": {"name": "c"}, "spec": size}, VMClass)
        wires = msgspec.convert({"metadata": {"name": "n"}, "spec": net}, VMNetworkAttachment)
    except msgspec.ValidationError:
        return  # it would never have been decoded
    nics = {nic.name: wires for nic in item.spec.networks if nic.network_ref is not None}
    try:
        found = compose(item, klass, "image-1", nics, BootSources(), "owner", Defaults(provider_type))
    except InvalidSpecError:
        return
    wire.codec(v1.MachineSpec).dumps(found.spec)
