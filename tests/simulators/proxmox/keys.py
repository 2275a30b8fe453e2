"""The keys of a guest's config: how their values are told and kept, and what right and moment a change needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import bad
from .strings import NET, UNUSED, is_cdrom, is_disk, parse, render


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BOOLEANS = _words(
    "acpi allow-ksm autostart ciupgrade freeze keephugepages kvm localtime numa onboot protection reboot tablet tdf"
    " template"
)
INTEGERS = BOOLEANS | _words("balloon cores cpuunits migrate_speed shares smp snaptime sockets vcpus")
CLOUDINIT = _words("cicustom cipassword citype ciuser ciupgrade nameserver searchdomain sshkeys")
CPU = _words("affinity cores cpu cpulimit cpuunits numa smp sockets vcpus")
MEMORY = _words("allow-ksm balloon hugepages keephugepages memory shares")
OPTIONS = _words(
    "acpi agent autostart bootdisk description freeze hookscript hotplug localtime migrate_downtime migrate_speed name"
    " onboot ostype protection reboot smbios1 startdate startup tablet tags tdf template vmgenid"
)
HARDWARE = _words(
    "amd-sev arch args audio0 bios boot intel-tdx ivshmem keyboard kvm machine rng0 scsihw spice_enhancements vga"
    " vmstatestorage watchdog"
)
INDEXED = re.compile(r"(ide|sata|scsi|virtio|net|ipconfig|hostpci|usb|serial|parallel|numa|unused|virtiofs)\d+")
OWN = _words("lock meta parent vmstate cdrom efidisk0 tpmstate0")
KNOWN = CLOUDINIT | CPU | MEMORY | OPTIONS | HARDWARE | OWN
# Never reach QEMU, or can be set in it: no restart needed. Source: vmconfig_hotplug_pending in PVE::QemuServer.
LIVE = _words(
    "affinity autostart balloon bootdisk cpulimit cpuunits description hookscript hotplug lock migrate_downtime"
    " migrate_speed name onboot protection shares startup tags template vmstatestorage"
)
HOTPLUG_DEFAULT = "network,disk,usb"
TAG = re.compile(r"[a-z0-9_][a-z0-9_\-+.]*", re.IGNORECASE)


def known(key: str) -> bool:
    """Whether Proxmox VE has such a key."""
    return key in KNOWN or INDEXED.fullmatch(key) is not None


def typed(key: str, value: str) -> Any:
    """A value as the API tells it: some numbers are numbers, others text; passwords are stars."""
    if key == "cipassword":
        return "**********"
    if key in INTEGERS and re.fullmatch(r"-?\d+", value):
        return int(value)
    if key in ("cpulimit", "migrate_downtime"):
        return float(value)
    return value or " "


def told(config: Mapping[str, str]) -> dict[str, Any]:
    """A whole config as the API tells it."""
    return {key: typed(key, value) for key, value in config.items()}


def kept(key: str, value: str) -> str:
    """A value as the config file keeps it.

    Raises:
        PveError: it cannot be a value of that key.
    """
    if key == "tags":
        return tags(value)
    if key == "description":
        return value.rstrip("\n")
    if key in BOOLEANS:
        return "1" if value.lower() in ("1", "on", "yes", "true") else "0"
    if key == "sshkeys" and re.search(r"[^A-Za-z0-9%_.~!*'()-]", value):
        raise bad(sshkeys=f"invalid format - invalid urlencoded string: {value}\n")
    return value


def tags(value: str) -> str:
    """Tags in lower case, each once, sorted."""
    found = [tag for tag in re.split(r"[,;\s]+", value) if tag]
    if not all(TAG.fullmatch(tag) for tag in found):
        raise bad(tags="invalid format - invalid characters in tag\n")
    return ";".join(sorted({tag.lower() for tag in found}))


def net(value: str, mac: str) -> str:
    """A NIC with its MAC address; `mac` is taken when the value brings none."""
    parts = parse(value, "model")
    models = [key for key in parts if key not in NET_OPTIONS and key != "model"]
    model = parts.pop("model", "") or (models[0] if models else "virtio")
    address = parts.pop("macaddr", "") or parts.pop(model, "") or mac
    return render({model: address.upper(), **dict(sorted(parts.items()))})


def renewed(config: dict[str, str], mac: Callable[[], str], uuid: str) -> None:
    """Give a copy of a guest identities of its own: MAC addresses and the UUID, but not vmgenid."""
    for key in [key for key in config if NET.fullmatch(key)]:
        parts = parse(config[key])
        config[key] = render({**parts, next(iter(parts)): mac()})  # the model comes first, with the address
    config["smbios1"] = render({**parse(config.get("smbios1", "")), "uuid": uuid})


NET_OPTIONS = frozenset(["bridge", "firewall", "link_down", "macaddr", "mtu", "queues", "rate", "tag", "trunks"])


def bridge(value: str) -> str:
    """The bridge that a NIC is plugged into; empty for one of QEMU's own network."""
    return parse(value).get("bridge", "")


def privilege(key: str, value: str = "") -> str:
    """What a change of a key needs on the guest."""
    if key in CLOUDINIT or key.startswith("ipconfig"):
        return "VM.Config.Network" if key in ("nameserver", "searchdomain") else "VM.Config.Cloudinit"
    if NET.fullmatch(key):
        return "VM.Config.Network"
    if is_disk(key):
        return "VM.Config.CDROM" if is_cdrom(parse(value, "file")) else "VM.Config.Disk"
    if UNUSED.fullmatch(key):
        return "VM.Config.Disk"
    if key in CPU or re.fullmatch(r"numa\d+", key):
        return "VM.Config.CPU"
    if key in MEMORY:
        return "VM.Config.Memory"
    return "VM.Config.Options" if key in OPTIONS else "VM.Config.HWType"


def plugs(config: Mapping[str, str]) -> set[str]:
    """What may be plugged in and out while the guest runs."""
    flag = config.get("hotplug", HOTPLUG_DEFAULT)
    if flag == "0":
        return set()
    return set((HOTPLUG_DEFAULT if flag == "1" else flag).split(","))
