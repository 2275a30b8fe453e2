"""What cloud-init reads, whatever way a provider hands it over: instance metadata and network configuration.

Source: cloud-init, "Instance metadata" and "Networking config version 2".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from common import v1
from common.errors import InvalidSpecError

_UNASKED = (None, v1.GuestAddressing())


def addressed(spec: v1.MachineSpec) -> bool:
    """Whether any NIC says more than that the guest shall do as it likes (DHCP)."""
    return any(nic.addressing not in _UNASKED for nic in spec.nics)


def meta_data(spec: v1.MachineSpec, network: dict[str, Any] | None = None) -> str:
    """Instance metadata: ours, under whatever the spec gives.

    Args:
        network: network configuration, where it is part of the metadata.
    Raises:
        InvalidSpecError: boot_data.meta_data is no YAML mapping, or says what the NICs say too; the text, which may be
            secret, is never repeated.
    """
    identity, boot = spec.identity or v1.MachineIdentity(), spec.boot_data or v1.BootData()
    merged: dict[str, Any] = {  # YAML that a person wrote: any value
        "instance-id": identity.uid,
        "local-hostname": boot.hostname or identity.name,
    }
    given = _given(boot.meta_data)
    if network is not None:
        if "network" in given:
            raise InvalidSpecError("boot_data.meta_data: has `network`, and so have the NICs of the spec; keep one")
        merged["network"] = network
    return text(dict(sorted((merged | given).items())))


def network(spec: v1.MachineSpec, macs: Mapping[str, str]) -> dict[str, Any]:
    """Network configuration, version 2, NICs found by their MAC.

    Args:
        macs: MAC of each NIC by its name.
    """
    return {
        "version": 2,
        "ethernets": {f"nic{i}": _ethernet(nic, macs[nic.name]) for i, nic in enumerate(spec.nics)},
    }


class _Quoting(yaml.SafeDumper):
    """Quotes every text: what a plain one means depends on who reads it. A MAC such as 52:54:00:46:81:97 is text to
    PyYAML and a number in base 60 to others, and `1e3` is text in YAML 1.1 and a number in 1.2."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def text(value: object) -> str:
    """As YAML that every parser reads alike; escaped, too, because YAML folds the line breaks of Unicode."""
    return yaml.dump(value, Dumper=_Quoting, sort_keys=False, width=1 << 20)


def _given(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InvalidSpecError(f"boot_data.meta_data: not valid YAML{where}") from None  # the text may be secret
    except (ValueError, RecursionError):  # a date of month 13, a number of 5,000 digits, a thousand brackets
        raise InvalidSpecError("boot_data.meta_data: holds a value that YAML cannot read") from None
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InvalidSpecError("boot_data.meta_data: must be a YAML mapping with text keys")
    return given


def _ethernet(nic: v1.NicSpec, mac: str) -> dict[str, Any]:  # nested YAML
    wish = nic.addressing or v1.GuestAddressing()
    config: dict[str, Any] = {"match": {"macaddress": mac}}
    config["dhcp4"] = not wish.addresses if wish.dhcp4 is None else wish.dhcp4
    if wish.dhcp6 is not None:
        config["dhcp6"] = wish.dhcp6
    if wish.addresses:
        config["addresses"] = list(wish.addresses)
    if routes := _routes(wish):
        config["routes"] = routes
    names = {"addresses": list(wish.nameservers), "search": list(wish.search_domains)}
    if nameservers := {key: value for key, value in names.items() if value}:
        config["nameservers"] = nameservers
    if nic.mtu:
        config["mtu"] = nic.mtu
    return config


def _routes(wish: v1.GuestAddressing) -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = []
    if wish.gateway4:
        routes.append({"to": "0.0.0.0/0", "via": wish.gateway4})
    if wish.gateway6:
        routes.append({"to": "::/0", "via": wish.gateway6})
    for route in wish.routes:
        routes.append({"to": route.destination, "via": route.via} | ({"metric": route.metric} if route.metric else {}))
    return routes
