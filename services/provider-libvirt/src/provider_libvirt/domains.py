"""Domain XML, built from elements: whatever a name holds, it stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from common import v1
from common.errors import InvalidSpecError

from provider_libvirt.host import Host
from provider_libvirt.stamp import Stamp

DISK_ALIAS: Final = "ua-disk-"
BOOT_DATA_ALIAS: Final = "ua-boot-data"
AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
SPARE_PORTS = 8
"""PCIe ports left free, each for one NIC or virtio disk that is plugged in while the machine runs."""
HOT_ADD_FACTOR, HOT_ADD_MOST = 4, 64
"""Ceiling of CPUs where hot-add is asked for: a multiple of the count, and never more than this."""

BUSES: Final = {
    v1.DiskBus.UNSPECIFIED: "scsi",
    v1.DiskBus.VIRTIO: "virtio",
    v1.DiskBus.SCSI: "scsi",
    v1.DiskBus.SATA: "sata",
}
_TARGET_PREFIX: Final = {"virtio": "vd", "scsi": "sd", "sata": "sd"}


@dataclass(frozen=True)
class DiskDevice:
    """A disk that exists, as the domain sees it."""

    name: str
    path: str
    format: str
    bus: str
    read_only: bool = False


def domain(
    spec: v1.MachineSpec,
    name: str,
    host: Host,
    stamp: Stamp,
    *,
    disks: list[DiskDevice],
    interfaces: list[ET.Element],
    boot_data: str,
    serial_log: str,
) -> str:
    """The whole definition of a machine.

    Args:
        boot_data: path of the NoCloud ISO; empty for none.
        serial_log: path of the file that keeps what the serial console says; empty for none.
    """
    identity, memory, cpu = spec.identity or v1.MachineIdentity(), spec.memory or v1.MemorySpec(), spec.cpu
    root = ET.Element("domain", {"type": host.virtualization})
    _text(root, "name", name)
    _text(root, "uuid", identity.uid)
    if spec.description:
        _text(root, "description", printable(spec.description))
    ET.SubElement(root, "metadata").append(stamp.element())
    _text(root, "memory", str((memory.size_bytes or 512 << 20) // 1024), unit="KiB")
    _cpu(root, cpu or v1.CpuSpec(count=1), host)
    _os(root, spec.firmware or v1.FirmwareSpec(), host)
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if host.arch in ("x86_64", "i686"):
        ET.SubElement(features, "apic")
    ET.SubElement(root, "clock", {"offset": "utc"})
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, event, action)
    devices = ET.SubElement(root, "devices")
    if host.emulator:
        _text(devices, "emulator", host.emulator)
    targets: set[str] = set()
    for index, disk in enumerate(disks):
        element = disk_element(disk, targets)
        targets.add(target_of(element))
        if index == 0 and not host.is_test:
            ET.SubElement(element, "boot", {"order": "1"})
        devices.append(element)
    if boot_data:
        devices.append(boot_data_element(boot_data, targets))
    devices.extend(interfaces)
    _platform(devices, host, len(interfaces), serial_log)
    return ET.tostring(root, encoding="unicode")


Shape = frozenset[tuple[str, str]]
"""Where each element of a definition is, and the names of its attributes."""


def shape(xml: str) -> Shape:
    """Two definitions of one shape have the same elements, with the same attributes, in the same places.

    That is what libvirt's schema is needed for: without it, libvirt ignores what it does not know. Values it checks in
    every definition that it takes.
    """
    found: set[tuple[str, str]] = set()

    def walk(element: ET.Element, above: str) -> None:
        where = f"{above}/{element.tag}"
        found.add((where, " ".join(sorted(element.attrib))))
        for child in element:
            walk(child, where)

    walk(ET.fromstring(xml), "")  # noqa: S314  # it is ours
    return frozenset(found)


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def printable(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return "".join(
        ch for ch in text if ch in "\t\n\r" or " " <= ch <= "\ud7ff" or "\ue000" <= ch <= "\ufffd" or ch > "\uffff"
    )


def cpu_ceiling(cpu: v1.CpuSpec, host: Host) -> int:
    """CPUs that the machine could have without a restart; whole sockets."""
    if not cpu.hot_add:
        return cpu.count
    most = min(max(cpu.count, min(cpu.count * HOT_ADD_FACTOR, HOT_ADD_MOST)), host.max_cpus)
    per_socket = cpu.cores_per_socket or 1
    return max(most - most % per_socket, cpu.count)


def _cpu(root: ET.Element, cpu: v1.CpuSpec, host: Host) -> None:
    count, ceiling = cpu.count or 1, cpu_ceiling(cpu, host) or 1
    if count > host.max_cpus:
        raise InvalidSpecError(f"cpu.count: {count} given, this hypervisor takes at most {host.max_cpus}")
    attributes = {"current": str(count)} if ceiling != count else {}
    _text(root, "vcpu", str(ceiling), placement="static", **attributes)
    if not host.cpu_mode and not cpu.cores_per_socket:
        return
    element = ET.SubElement(root, "cpu", {"mode": host.cpu_mode, "check": "none"} if host.cpu_mode else {})
    if cpu.cores_per_socket:
        if ceiling % cpu.cores_per_socket:
            size = cpu.cores_per_socket
            raise InvalidSpecError(f"cpu.cores_per_socket: {ceiling} CPUs do not divide into sockets of {size}")
        sockets = ceiling // cpu.cores_per_socket
        topology = {"sockets": str(sockets), "cores": str(cpu.cores_per_socket), "threads": "1"}
        ET.SubElement(element, "topology", topology)


def _os(root: ET.Element, firmware: v1.FirmwareSpec, host: Host) -> None:
    efi = firmware.type is v1.FirmwareType.UEFI
    element = ET.SubElement(root, "os", {"firmware": "efi"} if efi else {})
    machine = {"machine": host.machine} if host.machine else {}
    _text(element, "type", "hvm", arch=host.arch, **machine)
    if efi:
        features = ET.SubElement(element, "firmware")
        ET.SubElement(features, "feature", {"enabled": "no", "name": "secure-boot"})
        ET.SubElement(features, "feature", {"enabled": "no", "name": "enrolled-keys"})


def disk_element(disk: DiskDevice, taken: Iterable[str]) -> ET.Element:
    """The device, on the first free target of its bus."""
    prefix = _TARGET_PREFIX[disk.bus]
    used = set(taken)
    index = next(i for i in range(1024) if prefix + letters(i) not in used)
    element = ET.Element("disk", {"type": "file", "device": "disk"})
    driver = {"name": "qemu", "type": disk.format, "discard": "unmap"}
    ET.SubElement(element, "driver", driver)
    ET.SubElement(element, "source", {"file": disk.path})
    ET.SubElement(element, "target", {"dev": prefix + letters(index), "bus": disk.bus})
    if disk.read_only:
        ET.SubElement(element, "readonly")
    _text(element, "serial", disk.name[:20])
    ET.SubElement(element, "alias", {"name": DISK_ALIAS + disk.name})
    if disk.bus == "scsi":
        address = {"type": "drive", "controller": "0", "bus": "0", "target": "0", "unit": str(index)}
        ET.SubElement(element, "address", address)
    return element


def boot_data_element(path: str, taken: Iterable[str]) -> ET.Element:
    """The CD drive with the NoCloud ISO: on virtio-scsi, since cloud kernels have its driver, and some no other."""
    used = set(taken)
    target = next("sd" + letters(i) for i in range(25, -1, -1) if "sd" + letters(i) not in used)
    element = ET.Element("disk", {"type": "file", "device": "cdrom"})
    ET.SubElement(element, "driver", {"name": "qemu", "type": "raw"})
    ET.SubElement(element, "source", {"file": path})
    ET.SubElement(element, "target", {"dev": target, "bus": "scsi"})
    ET.SubElement(element, "readonly")
    ET.SubElement(element, "alias", {"name": BOOT_DATA_ALIAS})
    address = {"type": "drive", "controller": "0", "bus": "0", "target": "0", "unit": "255"}
    ET.SubElement(element, "address", address)
    return element


def target_of(element: ET.Element) -> str:
    """Target of a disk element: "sda"."""
    target = element.find("target")
    return target.get("dev", "") if target is not None else ""


def letters(index: int) -> str:
    """a..z, aa..zz, ... as device names count."""
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _platform(devices: ET.Element, host: Host, nics: int, serial_log: str) -> None:
    """What every machine has: controllers, serial console, channel to the agent, entropy."""
    ET.SubElement(devices, "controller", {"type": "scsi", "index": "0", "model": "virtio-scsi"})
    if host.is_test:
        return
    ET.SubElement(devices, "controller", {"type": "usb", "model": "none"})
    if host.machine == "q35":
        ET.SubElement(devices, "controller", {"type": "pci", "index": "0", "model": "pcie-root"})
        for _ in range(nics + 4 + SPARE_PORTS):
            ET.SubElement(devices, "controller", {"type": "pci", "model": "pcie-root-port"})
    serial = ET.SubElement(devices, "serial", {"type": "pty"})
    if serial_log:
        ET.SubElement(serial, "log", {"file": serial_log, "append": "on"})
    ET.SubElement(serial, "target", {"port": "0"})
    if host.agent:
        channel = ET.SubElement(devices, "channel", {"type": "unix"})
        ET.SubElement(channel, "target", {"type": "virtio", "name": AGENT_CHANNEL})
    if host.rng:
        rng = ET.SubElement(devices, "rng", {"model": "virtio"})
        _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", {"model": "virtio"})
