"""Changes of a machine's shape. A live change goes to the running machine and its definition in one call of libvirt's;
any other is an edit of the definition. Every function blocks, is handed a live connection, and repeats harmlessly.
"""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import libvirt
from common import v1
from common.errors import (
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    ResourceNotFoundError,
    WrongPowerStateError,
)
from providerkit import nocloud
from providerkit.planner import DESCRIPTION_SETTING, boot_data_digest

from provider_libvirt import domains, making, networks, numbers, observed
from provider_libvirt.host import Host
from provider_libvirt.making import Config
from provider_libvirt.reading import parse
from provider_libvirt.stamp import Stamp

_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


@dataclass(frozen=True)
class Machine:
    """A machine of ours at hand."""

    connection: libvirt.virConnect
    domain: libvirt.virDomain
    mark: Stamp
    host: Host
    config: Config

    @property
    def uid(self) -> str:
        return self.mark.uid

    def live(self) -> ET.Element:
        """What runs now."""
        return parse(self.domain.XMLDesc(0))

    def definition(self) -> ET.Element:
        """What starts next time."""
        return parse(self.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def affects(self, live: bool) -> int:
        """libvirt's flags for a change."""
        return int(_CONFIG | (_LIVE if live and self.domain.isActive() else 0))

    def redefine(self, edit: Callable[[ET.Element], None]) -> None:
        """Edit the definition."""
        root = parse(self.domain.XMLDesc(_INACTIVE))
        edit(root)
        flags = 0 if self.host.is_test else libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        self.connection.defineXMLFlags(ET.tostring(root, encoding="unicode"), flags)

    def stamped(self, mark: Stamp) -> None:
        """Replace the stamp."""
        if mark != self.mark:
            making.write_stamp(self.domain, mark)


def machine(connection: libvirt.virConnect, uid: str, host: Host, config: Config) -> Machine:
    """A machine of ours.

    Raises:
        MachineNotFoundError, ForeignMachineError.
    """
    found = making.ours(connection, uid, config.owner)
    if found is None:
        raise MachineNotFoundError(f"there is no machine {uid}")
    return Machine(connection, found[0], found[1], host, config)


# -- processor and memory ----------------------------------------------------------------------------------------------


def set_cpu(at: Machine, cpu: v1.CpuSpec, *, live: bool) -> None:
    """CPUs of the definition; with `live`, plug more into the running machine too."""
    if live and at.domain.isActive():
        at.domain.setVcpusFlags(cpu.count, _LIVE | _CONFIG)
        return
    if cpu.count > at.host.max_cpus:
        raise InvalidSpecError(f"cpu.count: {cpu.count} given, this hypervisor takes at most {at.host.max_cpus}")

    def edit(root: ET.Element) -> None:
        for tag in ("vcpu", "vcpus"):
            for old in root.findall(tag):
                root.remove(old)
        per_socket = cpu.cores_per_socket or _per_socket(root, cpu.count)
        wish = replace_cpu(cpu, per_socket)
        ceiling = domains.cpu_ceiling(wish, at.host)
        element = ET.SubElement(root, "vcpu", {"placement": "static"})
        element.text = str(ceiling)
        if ceiling != cpu.count:
            element.set("current", str(cpu.count))
        model = root.find("cpu")
        if model is not None:
            for old in model.findall("topology"):
                model.remove(old)
        if per_socket:
            model = model if model is not None else ET.SubElement(root, "cpu")
            topology = {"sockets": str(ceiling // per_socket), "cores": str(per_socket), "threads": "1"}
            ET.SubElement(model, "topology", topology)

    at.redefine(edit)


def replace_cpu(cpu: v1.CpuSpec, per_socket: int) -> v1.CpuSpec:
    """The same with this topology."""
    return v1.CpuSpec(count=cpu.count, cores_per_socket=per_socket, hot_add=cpu.hot_add)


def _per_socket(root: ET.Element, count: int) -> int:
    """The topology that is there, as long as the count still divides by it."""
    topology = root.find("cpu/topology")
    cores = numbers.count(topology.get("cores")) if topology is not None else 0
    return cores if cores and count % cores == 0 else 0


def set_memory(at: Machine, memory: v1.MemorySpec, *, live: bool) -> None:
    """Memory of the definition."""
    if live:
        raise NotSupportedError("memory of a running machine cannot be changed here yet")

    def edit(root: ET.Element) -> None:
        for tag in ("memory", "currentMemory", "maxMemory"):
            for old in root.findall(tag):
                root.remove(old)
        ET.SubElement(root, "memory", {"unit": "KiB"}).text = str(memory.size_bytes // 1024)

    at.redefine(edit)


# -- disks -------------------------------------------------------------------------------------------------------------


def attach_disk(at: Machine, disk: v1.DiskSpec, *, live: bool) -> None:
    """Make the disk and plug it in; the stamp is first, so that the file is known as ours whatever happens next."""
    active = bool(at.domain.isActive())
    definition, running = at.definition(), at.live()
    have = observed.disk_by_name(definition, disk.name)
    if have is not None and (not (live and active) or observed.disk_by_name(running, disk.name) is not None):
        return
    made: list[tuple[str, str]] = []
    pool = disk.storage or at.config.pool
    device, record = making.provide_disk(at.connection, at.uid, disk, pool, made)
    taken = {*_targets(definition), *_targets(running)}
    try:
        at.stamped(at.mark.with_disk(record))
        element = have if have is not None else domains.disk_element(device, taken)
        _plug(at, element, only_live=have is not None, live=live)
    except BaseException:
        making.undo(at.connection, made)
        raise


def _targets(root: ET.Element) -> set[str]:
    return {domains.target_of(element) for element in root.iterfind("devices/disk")}


def _plug(at: Machine, element: ET.Element, *, only_live: bool, live: bool) -> None:
    if at.host.is_test:
        at.redefine(lambda root: _devices(root).append(element))
        return
    flags = _LIVE if only_live else at.affects(live)
    at.domain.attachDeviceFlags(ET.tostring(element, encoding="unicode"), flags)


def _devices(root: ET.Element) -> ET.Element:
    found = root.find("devices")
    return found if found is not None else ET.SubElement(root, "devices")


def grow_disk(at: Machine, name: str, size: int, *, live: bool) -> None:
    """Grow a disk; a size already reached is success."""
    element = observed.disk_by_name(at.live() if live else at.definition(), name)
    if element is None:
        raise ResourceNotFoundError(f"grow disk {name}: the machine has no such disk")
    path = observed.disk_source(element)
    if at.domain.isActive():
        if not live:
            raise WrongPowerStateError(f"grow disk {name}: the machine is running")
        target = domains.target_of(element)
        if at.domain.blockInfo(target)[0] < size:
            at.domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        return
    volume = at.connection.storageVolLookupByPath(path)
    if volume.info()[1] < size:
        volume.resize(size, 0)


def detach_disk(at: Machine, name: str, *, live: bool) -> None:
    """Unplug a disk; its volume stays, and stays ours."""
    if at.host.is_test:
        at.redefine(lambda root: _drop(root, observed.disk_by_name(root, name)))
        return
    _unplug(at, lambda root: observed.disk_by_name(root, name), live=live)


def _drop(root: ET.Element, element: ET.Element | None) -> None:
    if element is not None:
        _devices(root).remove(element)


def _unplug(at: Machine, find: Callable[[ET.Element], ET.Element | None], *, live: bool) -> None:
    """From the running machine first: the guest may refuse, and then the definition stays as it is too.

    The guest lets go of a device some time after it was asked; an event tells when it has.
    """
    if live and at.domain.isActive() and (running := find(at.live())) is not None:
        with _gone_is_fine():
            at.domain.detachDeviceFlags(ET.tostring(running, encoding="unicode"), _LIVE)
    if (defined := find(at.definition())) is not None:
        with _gone_is_fine():
            at.domain.detachDeviceFlags(ET.tostring(defined, encoding="unicode"), _CONFIG)


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_DEVICE_MISSING:
            raise


# -- network adapters --------------------------------------------------------------------------------------------------


def attach_nic(at: Machine, nic: v1.NicSpec, *, live: bool) -> None:
    """Plug a NIC in."""
    active = live and at.domain.isActive()
    definition, running = at.definition(), at.live()
    have = observed.nic_by_name(definition, nic.name)
    if have is not None and (not active or observed.nic_by_name(running, nic.name) is not None):
        return
    source = _source(at, nic)
    mac = nic.mac or networks.mac_address(at.uid, nic.name, making.taken_macs(at.connection))
    at.stamped(at.mark.with_nic(networks.stamp(nic, source)))
    element = have if have is not None else networks.interface(nic, source, mac)
    _plug(at, element, only_live=have is not None, live=live)


def _source(at: Machine, nic: v1.NicSpec) -> networks.Source:
    ref = nic.network or v1.NetworkRef(kind=v1.NetworkKind.NAT)
    return networks.resolve(at.connection, ref, nic.name, session=at.host.session)


def update_nic(at: Machine, nic: v1.NicSpec, *, live: bool) -> None:
    """Put a NIC on another network (also live), or change its model or MAC (only in the definition)."""
    source = _source(at, nic)
    at.stamped(at.mark.with_nic(networks.stamp(nic, source)))
    if live and at.domain.isActive() and (running := observed.nic_by_name(at.live(), nic.name)) is not None:
        moved = _moved(running, source)
        at.domain.updateDeviceFlags(ET.tostring(moved, encoding="unicode"), _LIVE)

    def edit(root: ET.Element) -> None:
        element = observed.nic_by_name(root, nic.name)
        if element is None:
            raise ResourceNotFoundError(f"update NIC {nic.name}: the machine has no such NIC")
        mac = nic.mac or networks.mac_of(element)
        fresh = networks.interface(nic, source, mac)
        if (address := element.find("address")) is not None and networks.model_of(element) == (nic.model or "virtio"):
            fresh.append(address)  # the guest finds it in the same slot
        devices = _devices(root)
        devices[list(devices).index(element)] = fresh

    at.redefine(edit)


def _moved(running: ET.Element, source: networks.Source) -> ET.Element:
    """The running device on another network: libvirt demands that all else stays as it is."""
    element = ET.fromstring(ET.tostring(running))  # noqa: S314  # a copy
    for tag in ("source", "target", "portgroup"):
        for old in element.findall(tag):
            element.remove(old)
    element.set("type", source.kind)
    if source.kind != "user":
        ET.SubElement(element, "source", {source.kind: source.name})
    return element


def detach_nic(at: Machine, name: str, *, live: bool) -> None:
    """Unplug a NIC."""
    if at.host.is_test:
        at.redefine(lambda root: _drop(root, observed.nic_by_name(root, name)))
    else:
        _unplug(at, lambda root: observed.nic_by_name(root, name), live=live)
    at.stamped(at.mark.without_nic(name))


# -- texts and first-boot data -----------------------------------------------------------------------------------------


def set_tags(at: Machine, tags: list[str]) -> None:
    """Replace the tags."""
    at.stamped(replace(at.mark, tags=tuple(sorted(domains.printable(tag) for tag in set(tags)))))


def set_description(at: Machine, description: str) -> None:
    """Replace the text for people. While it is there, the stamp says that it is ours: noted first, forgotten last."""
    text = domains.printable(description)
    flags = _CONFIG | (_LIVE if at.domain.isActive() else 0)
    if text:
        at.stamped(at.mark.with_setting(DESCRIPTION_SETTING, "true"))
    at.domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, text or None, None, None, flags)
    if not text:
        at.stamped(at.mark.with_setting(DESCRIPTION_SETTING, ""))


def note(at: Machine, key: str, value: str) -> None:
    """Keep a note in the stamp, or take it away."""
    at.stamped(at.mark.with_setting(key, value))


def set_boot_data(at: Machine, spec: v1.MachineSpec) -> None:
    """Replace the NoCloud ISO; its content changes in place, so that the definition need not."""
    macs = {
        networks.name_of(element): networks.mac_of(element) for element in at.definition().iterfind("devices/interface")
    }
    used = making.taken_macs(at.connection)
    for nic in spec.nics:
        if nic.name not in macs:
            macs[nic.name] = nic.mac or networks.mac_address(at.uid, nic.name, used)
    if not nocloud.needed(spec):
        return
    if at.domain.isActive():
        raise WrongPowerStateError("replace the first-boot data: the machine is running")
    path = making.write_boot_data(at.connection, at.uid, nocloud.iso(nocloud.files(spec, macs)), at.config, [])
    if not observed.boot_data_source(at.definition()):
        element = domains.boot_data_element(path, _targets(at.definition()))
        at.redefine(lambda root: _devices(root).append(element))
    at.stamped(replace(at.mark, boot_digest=boot_data_digest(spec), boot_path=path))
