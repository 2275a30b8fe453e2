"""What this endpoint can do, measured: libvirt's capabilities and domain capabilities, read once per connection."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import libvirt

from provider_libvirt.numbers import count

_HARDWARE_VIRTUALIZATION = {"x86_64": {"vmx", "svm"}, "i686": {"vmx", "svm"}}
"""CPU features of which the host needs one for KVM to be more than an emulation."""


@dataclass(frozen=True)
class Host:
    """Facts about one connection."""

    driver: str
    """libvirt driver: "QEMU", "TEST", ..."""
    hypervisor: str
    hostname: str
    arch: str
    virtualization: str
    """Domain type of new machines: kvm, qemu or test."""
    virtualization_reason: str
    """Why it is not kvm, for people; empty when it is."""
    emulator: str
    machine: str
    session: bool
    """The per-user daemon: no networks of its own, storage under the user's home."""
    cpu_mode: str
    """Mode of the guest's CPU; empty leaves it to libvirt."""
    max_cpus: int
    efi: bool
    disk_buses: tuple[str, ...]
    nic_models: tuple[str, ...]
    streams: bool
    """Volumes can be uploaded."""
    rng: bool
    agent: bool

    @property
    def is_test(self) -> bool:
        """libvirt's mock driver: definitions and states, no guests."""
        return self.driver == "TEST"


def measure(connection: libvirt.virConnect, virtualization: str) -> Host:
    """Ask the hypervisor; blocking.

    Args:
        virtualization: auto, kvm or qemu.
    Raises:
        libvirt.libvirtError: the connection failed; a driver without an answer is not an error.
    """
    driver = connection.getType()
    capabilities = ET.fromstring(connection.getCapabilities())  # noqa: S314  # from libvirt, which we must trust anyway
    arch = capabilities.findtext("host/cpu/arch") or "x86_64"
    common = {
        "driver": driver,
        "hypervisor": f"{driver} {_version(connection.getVersion())} (libvirt {_version(connection.getLibVersion())})",
        "hostname": connection.getHostname(),
        "session": connection.getURI().partition("?")[0].endswith("/session"),
    }
    if driver != "QEMU":
        guest_arch, machine = _guest(capabilities, "", "hvm")
        return Host(
            **common, arch=guest_arch, virtualization=driver.lower(), virtualization_reason="", emulator="",
            machine=machine, cpu_mode="", max_cpus=_max_cpus(connection, driver.lower()), efi=False,
            disk_buses=("scsi", "virtio"), nic_models=("virtio",), streams=False, rng=False, agent=False,
        )  # fmt: skip
    kind, reason = _domain_type(connection, capabilities, arch, virtualization)
    machine = "q35" if arch == "x86_64" else _guest(capabilities, arch, kind)[1]
    offered = ET.fromstring(connection.getDomainCapabilities(None, arch, machine or None, kind))  # noqa: S314  # as above
    modes = {e.get("name"): e.get("supported") == "yes" for e in offered.iterfind("cpu/mode")}
    preferred = ("host-passthrough", "host-model", "maximum") if kind == "kvm" else ("maximum",)
    cpu_max = offered.find("vcpu")
    return Host(
        **common,
        arch=arch,
        virtualization=kind,
        virtualization_reason=reason,
        emulator=offered.findtext("path") or "",
        machine=machine,
        cpu_mode=next((mode for mode in preferred if modes.get(mode)), ""),
        max_cpus=(count(cpu_max.get("max")) if cpu_max is not None else 0) or 1,
        efi="efi" in _values(offered, "os/enum[@name='firmware']") and _supported(offered, "os/loader"),
        disk_buses=tuple(_values(offered, "devices/disk/enum[@name='bus']")),
        nic_models=("virtio", "e1000e", "e1000", "rtl8139") if arch == "x86_64" else ("virtio",),
        streams=True,
        rng=_supported(offered, "devices/rng"),
        agent=True,
    )


def _domain_type(connection: libvirt.virConnect, capabilities: ET.Element, arch: str, wish: str) -> tuple[str, str]:
    """kvm only where it is real: some hosts list KVM, and start guests with it, without hardware support behind it."""
    offered = {e.get("type") for e in capabilities.iterfind(f"guest/arch[@name='{arch}']/domain")}
    if wish == "qemu":
        return "qemu", "software emulation was chosen by setting"
    if wish == "kvm":
        return "kvm", ""
    if "kvm" not in offered:
        return "qemu", "the host offers no KVM: is /dev/kvm there, and may libvirt open it?"
    needed = _HARDWARE_VIRTUALIZATION.get(arch)
    if needed and not needed & _cpu_features(connection, capabilities):
        return (
            "qemu",
            f"the host's CPU has neither of {', '.join(sorted(needed))}: its KVM is an emulation too",
        )
    return "kvm", ""


def _cpu_features(connection: libvirt.virConnect, capabilities: ET.Element) -> set[str]:
    """Every feature of the host's CPU, those that its model implies included; empty when libvirt cannot tell."""
    cpu = capabilities.find("host/cpu")
    if cpu is None:
        return set()
    with contextlib.suppress(libvirt.libvirtError):
        flags = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        expanded = ET.fromstring(connection.baselineCPU([ET.tostring(cpu, encoding="unicode")], flags))  # noqa: S314
        return {e.get("name", "") for e in expanded.iterfind("feature") if e.get("policy") != "disable"}
    return {e.get("name", "") for e in cpu.iterfind("feature")}


def _guest(capabilities: ET.Element, arch: str, kind: str) -> tuple[str, str]:
    for guest in capabilities.iterfind("guest"):
        offered = guest.find("arch")
        if offered is not None and (not arch or offered.get("name") == arch):
            return offered.get("name", ""), offered.findtext("machine") or ""
    return arch, ""


def _max_cpus(connection: libvirt.virConnect, kind: str) -> int:
    with contextlib.suppress(libvirt.libvirtError):
        return int(connection.getMaxVcpus(kind))
    return 1


def _values(offered: ET.Element, path: str) -> list[str]:
    return [value.text or "" for value in offered.iterfind(f"{path}/value")]


def _supported(offered: ET.Element, path: str) -> bool:
    found = offered.find(path)
    return found is not None and found.get("supported") == "yes"


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
