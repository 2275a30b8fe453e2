"""The named formats of the API schema: what a value must look like, and what Proxmox VE says when it does not.

Source: PVE::JSONSchema, PVE::QemuServer, PVE::Storage. A format that has its own keys is in `DICTIONARIES`, those of
one value in `CHECKS`. Formats that stand in neither are not checked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from .rules import Rule

# Perl's `$` and Python's both let a final newline through, so the patterns may be compared as they stand.
LABEL = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?)"
DNS_NAME = re.compile(rf"^{LABEL}(?:\.{LABEL})*$")
STORAGE_ID = r"[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]"
STORAGE_CONTENT = frozenset({"images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"})
HOTPLUG = re.compile(r"^(?:network|disk|cpu|memory|usb|cloudinit)$")
DEVICES = re.compile(r"^(?:(?:ide|sata|scsi|virtio|net|usb|hostpci)\d+)$")

Check = Callable[[str], None]


def matching(pattern: str, refusal: str, flags: int = re.ASCII) -> Check:
    """A check of the whole value; `{}` in the refusal stands for it."""
    compiled = re.compile(pattern, flags)

    def check(value: str) -> None:
        if not compiled.search(value):
            raise ValueError(refusal.format(value))

    return check


def address(parse: Callable[[str], object], refusal: str) -> Check:
    """A check by one of Python's address types."""

    def check(value: str) -> None:
        try:
            parse(value)
        except ValueError as error:
            raise ValueError(refusal) from error

    return check


def host_address(value: str) -> None:
    """An IP address or a host name."""
    if not DNS_NAME.search(value):
        ipaddress.ip_address(value)


def interface(value: str) -> object:
    """A CIDR with its prefix, as one writes a host's address."""
    if "/" not in value:
        raise ValueError("no prefix length")
    return ipaddress.ip_interface(value)


def ipv4_config(value: str) -> object:
    """ "dhcp", or an address with its prefix."""
    return None if value == "dhcp" else ipaddress.IPv4Interface(value) if "/" in value else interface(value)


def ipv6_config(value: str) -> object:
    """ "dhcp", "auto", or an address with its prefix."""
    return None if value in ("dhcp", "auto") else ipaddress.IPv6Interface(value) if "/" in value else interface(value)


def content_type(value: str) -> None:
    """One of the kinds of volume that a storage may hold."""
    if value not in STORAGE_CONTENT:
        raise ValueError(f"invalid content type '{value}'")


def hotplug(value: str) -> None:
    """ "0", "1", or a list of features."""
    if value not in ("0", "1") and not all(HOTPLUG.search(item) for item in split_list(value)):
        raise ValueError(f"unable to parse hotplug option '{value}'")


def startup(value: str) -> None:
    """ "order=1,up=30,down=60" in any part, or the bare order."""
    for part in value.split(","):
        if part.strip() and not re.search(r"^(?:(?:order|up|down)=)?\d+$", part):
            raise ValueError("unable to parse startup options")


def pool(value: str) -> None:
    """A pool's name, or the path of a nested one."""
    parts = value.split("/")
    if len(parts) > 3:
        raise ValueError(f"pool name '{value}' exceeds maximum nesting depth")
    if not all(re.search(r"^[A-Za-z0-9.\-_]+$", part) for part in parts):
        raise ValueError(f"pool name '{value}' contains invalid characters")


CHECKS: dict[str, Check] = {
    "pve-node": matching(rf"^{LABEL}$", "value does not look like a valid node name"),
    "pve-vmid": matching(r"^[1-9][0-9]{2,8}$", "value does not look like a valid VM ID"),
    "pve-storage-id": matching(rf"^{STORAGE_ID}$", "storage ID '{}' contains illegal characters"),
    "pve-configid": matching(r"^[a-zA-Z][a-zA-Z0-9_-]+$", "invalid configuration ID '{}'"),
    "pve-volume-id": matching(rf"^{STORAGE_ID}:.+$", "unable to parse volume ID '{}'"),
    "pve-volume-id-or-absolute-path": matching(rf"^(?:/|{STORAGE_ID}:.)", "unable to parse volume ID '{}'"),
    "pve-volume-id-or-qm-path": matching(rf"^(?:none$|cdrom$|/|{STORAGE_ID}:.)", "unable to parse volume ID '{}'"),
    "disk-size": matching(r"^\d+(?:\.\d+)?[KMGT]?$", "value does not look like a valid disk size: {}"),
    "urlencoded": matching(r"^[-%a-zA-Z0-9_.!~*'()]*$", "invalid urlencoded string: {}"),
    "pve-userid": matching(r"^[^\s:/]+@[A-Za-z][\w.\-]+$", "value '{}' does not look like a valid user name"),
    "pve-realm": matching(r"^[A-Za-z][A-Za-z0-9.\-_]+$", "value does not look like a valid realm"),
    "pve-groupid": matching(r"^[A-Za-z0-9.\-_]+$", "group name '{}' contains invalid characters"),
    "pve-roleid": matching(r"^[A-Za-z0-9.\-_]+$", "role name '{}' contains invalid characters"),
    "pve-priv": matching(r"^[A-Z][\w.]+$", "invalid privilege '{}'"),
    "pve-tokenid": matching(
        r"^[^\s:/]+@[A-Za-z][\w.\-]+![A-Za-z][\w.\-]+$", "value '{}' does not look like a valid token ID"
    ),
    "pve-iface": matching(r"^[a-zA-Z][a-zA-Z0-9_]{1,20}(?:[:.]\d+)?$", "invalid network interface name '{}'"),
    "pve-bridge-id": matching(r"^[-_.\w]+$", "invalid bridge ID '{}'"),
    "pve-poolid": pool,
    "pve-tag": matching(r"^[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*$", "invalid characters in tag"),
    "pve-ha-resource-or-vm-id": matching(r"^(?:[a-z]+:\S+|\d{3,})$", "value does not look like a valid ha resource id"),
    "pve-ha-resource-id": matching(r"^[a-z]+:\S+$", "value does not look like a valid ha resource id"),
    "pve-ha-node": matching(rf"^{LABEL}(?::\d+)?$", "invalid HA node specification '{}'"),
    "pve-storage-content": content_type,
    "pve-storage-path": matching(r"^/[^;()]+$", "value does not look like a valid absolute path"),
    "storage-pair": matching(rf"^(?:1|{STORAGE_ID}(?::{STORAGE_ID})?)$", "storage ID '{}' contains illegal characters"),
    "pve-hotplug-features": hotplug,
    "pve-startup-order": startup,
    "pve-qm-bootdisk": matching(r"^(?:ide|sata|scsi|virtio)\d+$", "invalid boot disk '{}'"),
    "pve-qm-bootdev": matching(DEVICES.pattern, "invalid boot device '{}'"),
    "pve-task-status-type": matching(r"^(?:ok|error|warning|unknown)$", "invalid status '{}'"),
    "dns-name": matching(DNS_NAME.pattern, "value does not look like a valid DNS name"),
    "mac-addr": matching(
        r"^[a-fA-F0-9][02468aceACE](?::[a-fA-F0-9]{2}){5}$", "value does not look like a valid unicast MAC address"
    ),
    "address": address(host_address, "value does not look like a valid address: "),
    "ipv4": address(ipaddress.IPv4Address, "value does not look like a valid ipv4 address"),
    "ipv6": address(ipaddress.IPv6Address, "value does not look like a valid ipv6 address"),
    "CIDR": address(interface, "value does not look like a valid CIDR network"),
    "pve-ipv4-config": address(ipv4_config, "value does not look like a valid ipv4 network configuration"),
    "pve-ipv6-config": address(ipv6_config, "value does not look like a valid ipv6 network configuration"),
}  # fmt: skip

BASE64 = Rule(pattern=r"[A-Za-z0-9+\/]+={0,2}", optional=True)
FLAG = Rule(type="boolean", optional=True)
COUNT = Rule(type="integer", optional=True, minimum=0)
NUMBER = Rule(type="integer", optional=True)
TEXT = Rule(optional=True)
VOLUME = Rule(format="pve-volume-id", optional=True)
PCI_ADDRESSES = r"(?:(?:[a-fA-F0-9]{4,}:)?[a-fA-F0-9]{2}:[a-fA-F0-9]{2}(?:\.[a-fA-F0-9])?;?)+"
PCI_ID = Rule(pattern=r"(?:0x)[0-9A-Fa-f]{4}", optional=True)

# The dictionaries that the API's description of itself names without listing them.
DICTIONARIES: dict[str, dict[str, Rule]] = {
    "pve-qm-smbios1": {
        "uuid": Rule(pattern=r"[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}", optional=True),
        "base64": FLAG,
        **dict.fromkeys(("version", "serial", "manufacturer", "product", "sku", "family"), BASE64),
    },
    "pve-qm-ipconfig": {
        "ip": Rule(format="pve-ipv4-config", optional=True),
        "gw": Rule(format="ipv4", optional=True, requires="ip"),
        "ip6": Rule(format="pve-ipv6-config", optional=True),
        "gw6": Rule(format="ipv6", optional=True, requires="ip6"),
    },
    "pve-qm-cicustom": dict.fromkeys(("meta", "network", "user", "vendor"), VOLUME),
    "pve-qm-boot": {
        "legacy": Rule(pattern=r"[acdn]{1,4}", optional=True, default_key=True),
        "order": Rule(format="pve-qm-bootdev-list", optional=True),
    },
    "pve-qm-rng": {
        "source": Rule(enum=["/dev/urandom", "/dev/random", "/dev/hwrng"], default_key=True),
        "max_bytes": NUMBER,
        "period": NUMBER,
    },
    "pve-qm-watchdog": {
        "model": Rule(enum=["i6300esb", "ib700"], optional=True, default_key=True),
        "action": Rule(enum=["reset", "shutdown", "poweroff", "pause", "debug", "none"], optional=True),
    },
    "pve-qm-hostpci": {
        "host": Rule(optional=True, default_key=True, pattern=PCI_ADDRESSES),
        "mapping": Rule(format="pve-configid", optional=True),
        **dict.fromkeys(("rombar", "pcie", "x-vga", "legacy-igd"), FLAG),
        **dict.fromkeys(("vendor-id", "device-id", "sub-vendor-id", "sub-device-id"), PCI_ID),
        "romfile": Rule(pattern=r"[^,;]+", optional=True),
        "mdev": Rule(pattern=r"[^/\.:]+", optional=True),
        "driver": Rule(enum=["vfio", "keep"], optional=True),
    },
    "pve-vm-cpu-conf": {
        "cputype": Rule(pattern=r"[a-zA-Z0-9._-]+", optional=True, default_key=True),
        "reported-model": TEXT,
        "hidden": FLAG,
        "hv-vendor-id": Rule(pattern=r"[a-zA-Z0-9]{1,12}", optional=True),
        "flags": Rule(pattern=r"[+-][a-zA-Z0-9\-_.]+(?:;[+-][a-zA-Z0-9\-_.]+)*", optional=True),
        "phys-bits": Rule(pattern=r"host|\d{1,2}", optional=True),
        "guest-phys-bits": Rule(type="integer", minimum=32, maximum=64, optional=True),
    },
    "pve-qemu-sev-fmt": {
        "type": Rule(enum=["std", "es", "snp"], default_key=True),
        **dict.fromkeys(("no-debug", "no-key-sharing", "allow-smt", "kernel-hashes"), FLAG),
    },
    "pve-qemu-tdx-fmt": {
        "type": Rule(enum=["tdx"], default_key=True),
        "attestation": FLAG,
        "vsock-cid": NUMBER,
        "vsock-port": NUMBER,
    },
    "prune-backups": {
        "keep-all": FLAG,
        **dict.fromkeys(
            ("keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly"), COUNT
        ),
    },
}  # fmt: skip


def split_list(value: str) -> list[str]:
    """The items of a list: commas, semicolons, blanks and NUL part them."""
    return [item for item in re.split(r"[,;\s\0]+", value) if item]


def check(name: str, value: str) -> None:
    """Raise ValueError with Proxmox VE's text where `value` is not what the format of that name asks for.

    "-list" and "-opt" at the end of a name mean several values, and one that may be empty.
    """
    if (single := CHECKS.get(name)) is not None:
        single(value)
    elif (base := name.removesuffix("-list")) != name and base in CHECKS:
        for item in split_list(value):
            CHECKS[base](item)
    elif (base := name.removesuffix("-opt")) != name and base in CHECKS and value:
        CHECKS[base](value)
