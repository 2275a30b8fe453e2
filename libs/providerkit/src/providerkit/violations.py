"""What makes a spec impossible on any day: found before anything is touched, and named all at once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from common import v1

MAX_PATH = 4096
MIB = 1 << 20
MAX_DISK_BYTES = 1 << 60
"""No hypervisor has a larger virtual disk; protects drivers from sums that overflow (1 EiB)."""
MAX_TEXT_BYTES = 64 * 1024
MAX_BOOT_DATA_BYTES = 4 * MIB
"""Below the message limit of the wire, and far above what any guest reads as first-boot data."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/:\[\]-]{0,252}[A-Za-z0-9\]])?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")

_WANTED_POWER = (v1.PowerState.UNSPECIFIED, v1.PowerState.ON, v1.PowerState.OFF, v1.PowerState.SUSPENDED)


def is_dns_label(text: str) -> bool:
    """RFC 1123 label: at most 63 of a-z, 0-9 and "-", neither first nor last a dash."""
    return _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Labels joined by dots, at most 253 characters: what Kubernetes takes for a name."""
    return len(text) <= 253 and all(map(is_dns_label, text.split(".")))


def is_uid(text: str) -> bool:
    """Whether this is a UUID in the one spelling that identities use: lower-case with dashes."""
    return _UUID.fullmatch(text) is not None


def has_control(text: str) -> bool:
    """Whether it holds a character that no name on a hypervisor may hold (C0, DEL, C1, lone surrogates)."""
    return any(ch < " " or "\x7f" <= ch <= "\x9f" or "\ud800" <= ch <= "\udfff" for ch in text)


def check_identity(identity: v1.MachineIdentity | None) -> list[str]:
    """Everything wrong with an identity."""
    return list(_identity(identity))


def check(want: v1.MachineSpec, limits: v1.Limits | None = None) -> list[str]:
    """Every violation of a spec as one sentence each, beginning with the field; empty means it may be planned.

    Capabilities are not asked here: what a provider lacks is a reported change, not an impossible spec.
    """
    known = limits or v1.Limits()
    return [
        *_identity(want.identity),
        *_cpu(want.cpu, known),
        *_memory(want.memory, known),
        *_firmware(want.firmware),
        *_disks(want.disks, known),
        *_cdroms(want.cdroms),
        *_nics(want.nics, known),
        *_boot_data(want.boot_data),
        *_customization(want.customization),
        *_power(want.power),
        *_texts(want),
        *_tuning(want),
    ]


def _identity(identity: v1.MachineIdentity | None) -> Iterator[str]:
    if identity is None:
        yield "identity: is missing"
        return
    if not is_uid(identity.uid):
        yield f"identity.uid: {shown(identity.uid)} is not a lower-case UUID"
    if not is_dns_label(identity.namespace):
        yield f"identity.namespace: {shown(identity.namespace)} is not a DNS label (a-z, 0-9, -; at most 63)"
    if not is_dns_subdomain(identity.name):
        yield f"identity.name: {shown(identity.name)} is not a DNS subdomain (a-z, 0-9, - and dots; at most 253)"
    if has_control(identity.owner) or len(identity.owner) > 253:
        yield f"identity.owner: {shown(identity.owner)} has control characters or more than 253 characters"


def _cpu(cpu: v1.CpuSpec | None, limits: v1.Limits) -> Iterator[str]:
    if cpu is None:
        return
    if cpu.count == 0:
        yield "cpu.count: 0 given, a machine has at least 1 CPU"
    if limits.max_cpus and cpu.count > limits.max_cpus:
        yield f"cpu.count: {cpu.count} given, this hypervisor takes at most {limits.max_cpus}"
    if cpu.cores_per_socket and cpu.count % cpu.cores_per_socket:
        yield f"cpu.cores_per_socket: {cpu.count} CPUs do not divide into sockets of {cpu.cores_per_socket} cores"
    if cpu.reservation_mhz is not None and cpu.limit_mhz and cpu.reservation_mhz > cpu.limit_mhz:
        yield f"cpu.reservation_mhz: {cpu.reservation_mhz} is above the limit of {cpu.limit_mhz}"


def _memory(memory: v1.MemorySpec | None, limits: v1.Limits) -> Iterator[str]:
    if memory is None:
        return
    if memory.size_bytes < MIB:
        yield f"memory.size_bytes: {memory.size_bytes} given, a machine has at least 1 MiB"
    if limits.max_memory_bytes and memory.size_bytes > limits.max_memory_bytes:
        most = size(limits.max_memory_bytes)
        yield f"memory.size_bytes: {size(memory.size_bytes)} given, this hypervisor takes at most {most}"
    if memory.reservation_bytes is not None and memory.reservation_bytes > memory.size_bytes:
        reserved = size(memory.reservation_bytes)
        yield f"memory.reservation_bytes: {reserved} is above the size of {size(memory.size_bytes)}"
    if memory.limit_bytes and memory.reservation_bytes and memory.reservation_bytes > memory.limit_bytes:
        reserved = size(memory.reservation_bytes)
        yield f"memory.limit_bytes: {size(memory.limit_bytes)} is below the reservation of {reserved}"


def _firmware(firmware: v1.FirmwareSpec | None) -> Iterator[str]:
    if firmware is None:
        return
    yield from _known_enum("firmware.type", firmware.type)
    if firmware.secure_boot and firmware.type is v1.FirmwareType.BIOS:
        yield "firmware.secure_boot: BIOS has no secure boot; set firmware.type to UEFI"
    if firmware.tpm_version not in ("", "1.2", "2.0"):
        yield f"firmware.tpm_version: {shown(firmware.tpm_version)} is neither 1.2 nor 2.0"


def _cdroms(cdroms: list[v1.CdromSpec]) -> Iterator[str]:
    yield from _names("cdroms", [cdrom.name for cdrom in cdroms])
    for cdrom in cdroms:
        if has_control(cdrom.medium) or len(cdrom.medium) > MAX_PATH:
            yield f"cdroms[{plain(cdrom.name)}].medium: {shown(cdrom.medium)} is no path"


def _disks(disks: list[v1.DiskSpec], limits: v1.Limits) -> Iterator[str]:
    if limits.max_disks and len(disks) > limits.max_disks:
        yield f"disks: {len(disks)} given, this hypervisor takes at most {limits.max_disks}"
    yield from _names("disks", [disk.name for disk in disks])
    for disk in disks:
        where = f"disks[{plain(disk.name)}]"
        yield from _known_enum(f"{where}.bus", disk.bus)
        yield from _known_enum(f"{where}.provisioning", disk.provisioning)
        if disk.size_bytes == 0 and disk.image is None and disk.existing is None:
            yield f"{where}.size_bytes: an empty disk needs a size"
        if 0 < disk.size_bytes < MIB or disk.size_bytes > MAX_DISK_BYTES:
            yield f"{where}.size_bytes: {disk.size_bytes} is outside of 1 MiB to 1 EiB"
        if disk.image is not None and (not disk.image.id or has_control(disk.image.id)):
            yield f"{where}.image.id: {shown(disk.image.id)} is no image id"
        if disk.existing is not None and (not disk.existing.id or has_control(disk.existing.id)):
            yield f"{where}.existing.id: {shown(disk.existing.id)} is no disk id"
        if disk.existing is not None and disk.existing.format and not _WORD.fullmatch(disk.existing.format):
            yield f"{where}.existing.format: {shown(disk.existing.format)} is no disk format"
        if has_control(disk.storage) or "/" in disk.storage:
            yield f"{where}.storage: {shown(disk.storage)} is no storage name"
        if disk.sharing not in ("", "noSharing", "virtualSharing", "physicalSharing"):
            yield f"{where}.sharing: {shown(disk.sharing)} is none of noSharing, virtualSharing, physicalSharing"
        if disk.controller_type and not _WORD.fullmatch(disk.controller_type):
            yield f"{where}.controller_type: {shown(disk.controller_type)} is no type of controller"
        if not _is_text(disk.storage_policy, 255):
            yield f"{where}.storage_policy: {shown(disk.storage_policy)} is no name of a policy"


def _nics(nics: list[v1.NicSpec], limits: v1.Limits) -> Iterator[str]:
    if limits.max_nics and len(nics) > limits.max_nics:
        yield f"nics: {len(nics)} given, this hypervisor takes at most {limits.max_nics}"
    yield from _names("nics", [nic.name for nic in nics])
    macs: set[str] = set()
    for nic in nics:
        where = f"nics[{plain(nic.name)}]"
        yield from _network(f"{where}.network", nic.network)
        yield from _mac(f"{where}.mac", nic.mac)
        if nic.mac and nic.mac in macs:
            yield f"{where}.mac: {nic.mac} is given to two NICs"
        macs.add(nic.mac)
        if nic.model and not _WORD.fullmatch(nic.model):
            yield f"{where}.model: {shown(nic.model)} is no adapter model"
        if nic.mtu and not 68 <= nic.mtu <= 65535:
            yield f"{where}.mtu: {nic.mtu} is outside of 68 to 65535"
        for trunk in nic.trunks:
            if not _is_trunk(trunk):
                yield f"{where}.trunks: {shown(trunk)} is no VLAN; give 1 to 4094, or a range such as 10-19"
        yield from _addressing(f"{where}.addressing", nic.addressing)


def _is_trunk(text: str) -> bool:
    first, _, last = text.partition("-")
    if not all(re.fullmatch(r"[1-9][0-9]{0,3}", part) for part in (first, last or first)) or text.endswith("-"):
        return False
    return int(first) <= int(last or first) <= 4094


def _network(where: str, network: v1.NetworkRef | None) -> Iterator[str]:
    if network is None:
        yield f"{where}: is missing"
        return
    if network.kind is v1.NetworkKind.UNSPECIFIED:
        yield f"{where}.kind: is missing"
    yield from _known_enum(f"{where}.kind", network.kind)
    if network.kind not in (v1.NetworkKind.NAT, v1.NetworkKind.UNSPECIFIED) and not network.name:
        yield f"{where}.name: is missing"
    if has_control(network.name) or has_control(network.switch):
        yield f"{where}.name: {shown(network.name or network.switch)} has control characters"
    if network.kind is v1.NetworkKind.BRIDGE and network.name and ("/" in network.name or len(network.name) > 15):
        yield f"{where}.name: {shown(network.name)} is no bridge device (at most 15 characters, no slash)"
    if network.vlan > 4094:
        yield f"{where}.vlan: {network.vlan} is above 4094"


def _mac(where: str, mac: str) -> Iterator[str]:
    if not mac:
        return
    if not _MAC.fullmatch(mac):
        yield f"{where}: {shown(mac)} is not six lower-case pairs of hexadecimal digits with colons"
    elif int(mac[:2], 16) & 1:
        yield f"{where}: {mac} is a multicast address; the lowest bit of the first byte must be 0"
    elif mac == "00:00:00:00:00:00":
        yield f"{where}: the all-zero address belongs to nobody"


def _addressing(where: str, addressing: v1.GuestAddressing | None) -> Iterator[str]:
    if addressing is None:
        return
    for text in addressing.addresses:
        yield from _cidr(f"{where}.addresses", text)
    yield from _address(f"{where}.gateway4", addressing.gateway4, 4)
    yield from _address(f"{where}.gateway6", addressing.gateway6, 6)
    for text in addressing.nameservers:
        yield from _address(f"{where}.nameservers", text or " ", None)
    for text in addressing.search_domains:
        if not is_dns_subdomain(text.lower().removesuffix(".")):
            yield f"{where}.search_domains: {shown(text)} is no domain name"
    for route in addressing.routes:
        if route.destination != "default":
            yield from _cidr(f"{where}.routes.destination", route.destination)
        yield from _address(f"{where}.routes.via", route.via or " ", None)


def _cidr(where: str, text: str) -> Iterator[str]:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        yield f"{where}: {shown(text)} is no address in CIDR notation (192.0.2.7/24)"
    else:
        if "/" not in text:
            yield f"{where}: {shown(text)} lacks the prefix length (192.0.2.7/24)"


def _address(where: str, text: str, version: int | None) -> Iterator[str]:
    if not text:
        return
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        yield f"{where}: {shown(text)} is no IP address"
        return
    if version is not None and address.version != version:
        yield f"{where}: {text} is an IPv{address.version} address, IPv{version} is meant here"


def _boot_data(boot: v1.BootData | None) -> Iterator[str]:
    """Sizes and shapes only: the content may be secret and is never shown."""
    if boot is None:
        return
    for name in ("user_data", "meta_data", "ignition"):
        length = len(getattr(boot, name).encode(errors="surrogatepass"))
        if length > MAX_BOOT_DATA_BYTES:
            yield f"boot_data.{name}: {size(length)} given, at most {size(MAX_BOOT_DATA_BYTES)} fit"
    if boot.ignition and boot.user_data:
        yield "boot_data.ignition: user_data is given as well; a guest reads one of them"
    if boot.hostname and not is_dns_subdomain(boot.hostname.lower()):
        yield f"boot_data.hostname: {shown(boot.hostname)} is no host name"


def _customization(wish: v1.Customization | None) -> Iterator[str]:
    """Passwords, keys and the answer file are measured and never shown."""
    if wish is None:
        return
    where, windows = "customization", wish.sysprep
    for name in ("stored", "time_zone"):
        if not _is_text(getattr(wish, name), 255):
            yield f"{where}.{name}: {shown(getattr(wish, name))} has control characters or more than 255 characters"
    if wish.domain and not is_dns_subdomain(wish.domain.lower()):
        yield f"{where}.domain: {shown(wish.domain)} is no domain name"
    if windows is None:
        return
    for name in ("full_name", "organization", "join_domain", "join_user", "workgroup"):
        if not _is_text(getattr(windows, name), 255):
            yield f"{where}.sysprep.{name}: {shown(getattr(windows, name))} has control characters or is too long"
    for name in ("product_key", "admin_password", "join_password"):
        if not _is_text(getattr(windows, name), 255):
            yield f"{where}.sysprep.{name}: has control characters or more than 255 characters"
    if len(windows.answer_file.encode(errors="surrogatepass")) > MAX_BOOT_DATA_BYTES:
        yield f"{where}.sysprep.answer_file: more than {size(MAX_BOOT_DATA_BYTES)} given"
    if not all(_is_text(command, MAX_TEXT_BYTES) for command in windows.commands):
        yield f"{where}.sysprep.commands: one has control characters or is longer than 64 KiB"
    if windows.join_domain and windows.workgroup:
        yield f"{where}.sysprep.workgroup: a domain to join is given as well; a guest is in one of them"


def _power(power: v1.PowerSpec | None) -> Iterator[str]:
    if power is None:
        return
    if power.state not in _WANTED_POWER:
        yield f"power.state: {power.state.name or int(power.state)} cannot be asked for; ask for ON, OFF or SUSPENDED"
    if power.graceful_timeout is not None and not 0 <= power.graceful_timeout.total_seconds() <= 86400:
        yield f"power.graceful_timeout: {power.graceful_timeout.total_seconds():g} s is outside of 0 s to 24 h"


def _texts(want: v1.MachineSpec) -> Iterator[str]:
    for tag in want.tags:
        if not tag or has_control(tag) or len(tag) > 255:
            yield f"tags: {shown(tag)} is empty, longer than 255 or has control characters"
    if len(want.description.encode(errors="surrogatepass")) > MAX_TEXT_BYTES or has_control(
        want.description.replace("\n", "").replace("\t", "")
    ):
        yield "description: is longer than 64 KiB or has control characters"
    for key, value in want.extra_config.items():
        if not _KEY.fullmatch(key):
            yield f"extra_config: {shown(key)} is no key"
        if len(value) > MAX_TEXT_BYTES or has_control(value):
            yield f"extra_config[{plain(key)}]: the value is longer than 64 KiB or has control characters"
    for name, value in want.attributes.items():
        if not name or not _is_text(name, 80):
            yield f"attributes: {shown(name)} is empty, longer than 80 or has control characters"
        if not _is_text(value.replace("\n", ""), MAX_TEXT_BYTES):
            yield f"attributes[{plain(name)}]: the value is longer than 64 KiB or has control characters"
    if want.placement is not None:
        yield from _names("placement.affinity", [rule.name for rule in want.placement.affinity])
        for name in ("cluster", "host", "resource_pool", "folder", "datastore", "storage_pod"):
            if has_control(getattr(want.placement, name)):
                yield f"placement.{name}: {shown(getattr(want.placement, name))} has control characters"


def _tuning(want: v1.MachineSpec) -> Iterator[str]:
    tuning = want.tuning or v1.Tuning()
    if tuning.latency_sensitivity not in ("", "low", "normal", "medium", "high"):
        yield f"tuning.latency_sensitivity: {shown(tuning.latency_sensitivity)} is none of low, normal, medium, high"
    if tuning.hyper_threading_policy not in ("", "auto", "prefer", "avoid", "require"):
        policy = shown(tuning.hyper_threading_policy)
        yield f"tuning.hyper_threading_policy: {policy} is none of auto, prefer, avoid, require"
    if want.guest_tools_policy not in ("", "install", "skip", "upgrade", "uninstall"):
        yield f"guest_tools_policy: {shown(want.guest_tools_policy)} is none of install, skip, upgrade, uninstall"
    for gpu in want.gpus:
        if gpu.count == 0:
            yield "gpus: a GPU entry with count 0"


def _names(where: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if not is_dns_label(name):
            yield f"{where}: name {shown(name)} is not a DNS label (a-z, 0-9, -; at most 63)"
        if name in seen:
            yield f"{where}: name {shown(name)} is given twice"
        seen.add(name)


def _is_text(text: str, longest: int) -> bool:
    return len(text) <= longest and not has_control(text)


def _known_enum(
    where: str, value: v1.FirmwareType | v1.DiskBus | v1.DiskProvisioning | v1.NetworkKind
) -> Iterator[str]:
    if not value.name:
        yield f"{where}: {int(value)} is a value that this version does not know"


def shown(text: str) -> str:
    """A stranger's text for a message: quoted, escaped, cut to a readable length."""
    return repr(text if len(text) <= 80 else text[:77] + "...").encode("ascii", "backslashreplace").decode()


def plain(text: str) -> str:
    """A stranger's text inside a field path: as it stands when harmless, else quoted."""
    return text if _KEY.fullmatch(text) else shown(text)


def size(count: int) -> str:
    """Bytes for people, exact when they divide: "10 GiB", "1536 MiB", "1025 bytes"."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    if count >= MIB:
        return f"{count / MIB:.1f} MiB"
    return f"{count} bytes"
