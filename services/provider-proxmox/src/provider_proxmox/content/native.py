"""First-boot data in Proxmox VE's own fields (ciuser, sshkeys, ipconfig0 ...), for templates that expect its drive.

The fields carry a part of what cloud-init can be told. What they cannot carry is refused with every reason: a guest
that lacks half of what was asked for is worse than none. Source: PVE::QemuServer::Cloudinit.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import yaml
from common import v1
from common.errors import NotSupportedError

KEYS = ("cicustom", "cipassword", "citype", "ciupgrade", "ciuser", "nameserver", "searchdomain", "sshkeys")
"""Every field of Proxmox VE's own besides ipconfigN."""

_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_UNASKED = (None, v1.GuestAddressing())


def fields(spec: v1.MachineSpec, slots: Mapping[str, str]) -> dict[str, object]:
    """What the spec says, by configuration key.

    Args:
        slots: key ("net0") of each NIC by its name.
    Raises:
        NotSupportedError: something has no field; what is secret is never repeated.
    """
    faults = [*_boot_faults(spec), *_nic_faults(spec)]
    config: dict[str, object] = {"ciupgrade": 0}
    try:
        config |= _user(spec)
    except NotSupportedError as error:
        faults.append(str(error))
    if faults:
        raise NotSupportedError(f"boot_data: Proxmox VE's own fields cannot carry it: {'; '.join(faults)}")
    for nic in spec.nics:
        config[slots[nic.name].replace("net", "ipconfig")] = _ipconfig(nic.addressing or v1.GuestAddressing())
    names = _shared(spec, "nameservers"), _shared(spec, "search_domains")
    for key, values in zip(("nameserver", "searchdomain"), names, strict=True):
        if values:
            config[key] = " ".join(values)
    return config


def _boot_faults(spec: v1.MachineSpec) -> Iterator[str]:
    boot = spec.boot_data or v1.BootData()
    if boot.meta_data:
        yield "meta_data has no field"
    if boot.ignition:
        yield "ignition has no field"
    if boot.hostname:
        yield "hostname has no field, the guest gets the name of its VM"


def _nic_faults(spec: v1.MachineSpec) -> Iterator[str]:
    for nic in spec.nics:
        wish = nic.addressing or v1.GuestAddressing()
        for version in (4, 6):
            found = [each for each in wish.addresses if _version(each) == version]
            if len(found) > 1:
                yield f"NIC {nic.name} has {len(found)} IPv{version} addresses, there is a field for one"
        if wish.routes:
            yield f"NIC {nic.name} has routes, which have no field"
        if _version_count(wish, 4) and wish.dhcp4:
            yield f"NIC {nic.name} has an IPv4 address and DHCP, there is a field for one"
        if _version_count(wish, 6) and wish.dhcp6:
            yield f"NIC {nic.name} has an IPv6 address and DHCP, there is a field for one"
    for field in ("nameservers", "search_domains"):
        said = {tuple(getattr(nic.addressing, field)) for nic in spec.nics if nic.addressing not in _UNASKED}
        if len(said - {()}) > 1:
            yield f"NICs differ in {field}, there is one field for all"


def _version(address: str) -> int:
    return ipaddress.ip_interface(address).version


def _version_count(wish: v1.GuestAddressing, version: int) -> int:
    return sum(_version(each) == version for each in wish.addresses)


def _shared(spec: v1.MachineSpec, field: str) -> list[str]:
    """What the NICs that say anything of this say together."""
    for nic in spec.nics:
        if nic.addressing is not None and getattr(nic.addressing, field):
            return list(getattr(nic.addressing, field))
    return []


def _ipconfig(wish: v1.GuestAddressing) -> str:
    """ip=192.0.2.7/24,gw=192.0.2.1,ip6=dhcp."""
    four = next((each for each in wish.addresses if _version(each) == 4), "")
    six = next((each for each in wish.addresses if _version(each) == 6), "")
    dhcp4 = not wish.addresses if wish.dhcp4 is None else wish.dhcp4
    parts = {
        "ip": four or ("dhcp" if dhcp4 else ""),
        "gw": wish.gateway4,
        "ip6": six or ("dhcp" if wish.dhcp6 else ""),
        "gw6": wish.gateway6,
    }
    return ",".join(f"{key}={value}" for key, value in parts.items() if value)


# -- user-data -----------------------------------------------------------------------------------------------------


def _user(spec: v1.MachineSpec) -> dict[str, object]:
    """Raises:
    NotSupportedError: user-data is no cloud-config, or says more than the fields can.
    """
    text = spec.boot_data.user_data if spec.boot_data else ""
    if not text.strip():
        return {}
    said = _cloud_config(text)
    if more := sorted(set(said) - set(_READERS)):
        raise NotSupportedError(f"user_data: {', '.join(more)} has no field")
    config: dict[str, object] = {}
    for key, value in said.items():
        config |= _READERS[key](value)
    if "cipassword" in config and said.get("chpasswd") != {"expire": False}:
        raise NotSupportedError(
            "user_data: a password that expires at once has no field; say chpasswd: {expire: false}"
        )
    return config


def _cloud_config(text: str) -> dict[str, Any]:  # YAML that a person wrote: any value
    if not text.startswith("#cloud-config"):
        raise NotSupportedError("user_data: is no #cloud-config")
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date of month 13, a thousand brackets
        raise NotSupportedError("user_data: is no YAML") from None  # the text may be secret
    if said is None:
        return {}
    if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
        raise NotSupportedError("user_data: is no mapping with text keys")
    return said


def _name(value: object) -> dict[str, object]:
    if not isinstance(value, str) or not _USER.fullmatch(value):  # Proxmox VE puts it into YAML as it stands
        raise NotSupportedError("user_data: user must be a plain name: letters, digits, '_', '-' and '.'")
    return {"ciuser": value}


def _password(value: object) -> dict[str, object]:
    if not isinstance(value, str) or not value or any(character < " " for character in value):
        raise NotSupportedError("user_data: password must be a text of one line")
    return {"cipassword": value}


def _keys(value: object) -> dict[str, object]:
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise NotSupportedError("user_data: ssh_authorized_keys must be a list of texts")
    return {"sshkeys": encoded(value)} if value else {}


def encoded(keys: list[str]) -> str:
    """SSH keys as Proxmox VE takes them: percent-encoded, a blank as %20 and never as "+"."""
    return quote("\n".join(key.strip() for key in keys), safe="")


def _upgrade(value: object) -> dict[str, object]:
    if not isinstance(value, bool):
        raise NotSupportedError("user_data: package_upgrade must be true or false")
    return {"ciupgrade": int(value)}


def _expiry(value: object) -> dict[str, object]:
    if value != {"expire": False}:
        raise NotSupportedError("user_data: of chpasswd, only {expire: false} has a field")
    return {}


_READERS = {
    "user": _name,
    "password": _password,
    "chpasswd": _expiry,
    "ssh_authorized_keys": _keys,
    "package_upgrade": _upgrade,
}
"""Keys of a cloud-config that have a field."""
