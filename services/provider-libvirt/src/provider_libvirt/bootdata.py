"""First-boot data: a NoCloud ISO with exactly what the spec says, and no credential of anybody's.

Sources: cloud-init, "NoCloud" (label `cidata`, files user-data, meta-data, network-config) and "Networking config
version 2".
"""

from __future__ import annotations

import io
from typing import Any

import pycdlib
import yaml
from common import v1
from common.errors import InvalidSpecError

LABEL = "cidata"
PADDING = 150 * 2048
"""Zero bytes after the image, as mkisofs writes them: drives read ahead, and tools that look for labels (busybox) read
the first 68 KiB of a device and give up on a smaller one."""


def needed(spec: v1.MachineSpec) -> bool:
    """Whether there is anything to hand over."""
    empty = (None, v1.GuestAddressing())
    return spec.boot_data not in (None, v1.BootData()) or any(nic.addressing not in empty for nic in spec.nics)


def iso(spec: v1.MachineSpec, macs: dict[str, str]) -> bytes:
    """The ISO image.

    Args:
        macs: MAC of each NIC by its name.
    Raises:
        InvalidSpecError: meta_data is no YAML mapping; the text itself is never repeated.
    """
    files = {
        "user-data": user_data(spec),
        "meta-data": meta_data(spec),
        "network-config": network_config(spec, macs),
    }
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for name, text in files.items():
        if text:
            data = text.encode()
            plain = "/" + name.upper().replace("-", "_") + ".;1"
            image.add_fp(io.BytesIO(data), len(data), plain, rr_name=name, joliet_path="/" + name)
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue() + bytes(PADDING)


def user_data(spec: v1.MachineSpec) -> str:
    """What the spec says, as it stands; cloud-init wants the file even where there is nothing to say."""
    given = spec.boot_data.user_data if spec.boot_data else ""
    return given or "#cloud-config\n{}\n"


def meta_data(spec: v1.MachineSpec) -> str:
    """Instance metadata: ours, under whatever the spec gives."""
    identity, boot = spec.identity or v1.MachineIdentity(), spec.boot_data or v1.BootData()
    merged: dict[str, Any] = {  # YAML that a person wrote: any value
        "instance-id": identity.uid,
        "local-hostname": boot.hostname or identity.name,
    }
    if boot.meta_data.strip():
        try:
            given = yaml.safe_load(boot.meta_data)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark is not None else ""
            raise InvalidSpecError(f"boot_data.meta_data: not valid YAML{where}") from None  # the text may be secret
        if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
            raise InvalidSpecError("boot_data.meta_data: must be a YAML mapping with text keys")
        merged |= given
    return _yaml(dict(sorted(merged.items())))


def network_config(spec: v1.MachineSpec, macs: dict[str, str]) -> str:
    """Network configuration, version 2, NICs found by their MAC; empty where the guest shall do as it likes (DHCP)."""
    if not any(nic.addressing not in (None, v1.GuestAddressing()) for nic in spec.nics):
        return ""
    ethernets = {f"nic{i}": _ethernet(nic, macs[nic.name]) for i, nic in enumerate(spec.nics)}
    return _yaml({"version": 2, "ethernets": ethernets})


class _Quoting(yaml.SafeDumper):
    """Quotes every text: what a plain one means depends on who reads it. A MAC such as 52:54:00:46:81:97 is text to
    PyYAML and a number in base 60 to others, and `1e3` is text in YAML 1.1 and a number in 1.2."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _yaml(value: object) -> str:
    """Escapes, too, because YAML folds the line breaks of Unicode."""
    return yaml.dump(value, Dumper=_Quoting, sort_keys=False, width=1 << 20)


def _ethernet(nic: v1.NicSpec, mac: str) -> dict[str, Any]:  # nested YAML
    wish = nic.addressing or v1.GuestAddressing()
    config: dict[str, Any] = {"match": {"macaddress": mac}}
    config["dhcp4"] = not wish.addresses if wish.dhcp4 is None else wish.dhcp4
    if wish.dhcp6 is not None:
        config["dhcp6"] = wish.dhcp6
    if wish.addresses:
        config["addresses"] = list(wish.addresses)
    routes: list[dict[str, Any]] = []
    if wish.gateway4:
        routes.append({"to": "0.0.0.0/0", "via": wish.gateway4})
    if wish.gateway6:
        routes.append({"to": "::/0", "via": wish.gateway6})
    for route in wish.routes:
        routes.append({"to": route.destination, "via": route.via} | ({"metric": route.metric} if route.metric else {}))
    if routes:
        config["routes"] = routes
    names = {"addresses": list(wish.nameservers), "search": list(wish.search_domains)}
    if nameservers := {key: value for key, value in names.items() if value}:
        config["nameservers"] = nameservers
    if nic.mtu:
        config["mtu"] = nic.mtu
    return config
