"""Property strings: "local:101/vm-101-disk-0.qcow2,size=1G,discard=on", the values of most keys of a configuration.

One value of a string may stand without its key (the default key), and a key may be another's alias: the model of a NIC
in "virtio=BC:24:11:00:00:01,bridge=vmbr0" is both a value and the key of its address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NIC_MODELS = (
    "e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b", "i82559er",
    "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3",
)  # fmt: skip


@dataclass(frozen=True)
class Alias:
    """What a key stands for.

    Attributes:
        key: that takes the value.
        named: that takes the name of the alias itself, or empty.
    """

    key: str
    named: str = ""


@dataclass(frozen=True)
class Shape:
    """How the strings of one kind are cut into keys; which values are good is no business of it."""

    default: str = ""
    aliases: Mapping[str, Alias] = field(default_factory=lambda: MappingProxyType({}))


PLAIN = Shape()
DISK = Shape("file", {"volume": Alias("file")})
NIC = Shape("model", {model: Alias("macaddr", "model") for model in NIC_MODELS})


def parse(text: str, shape: Shape = PLAIN) -> dict[str, str]:
    """Keys and values in the order of the text.

    Raises:
        ValueError: it is no property string; the text is Proxmox VE's own.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals:
            key, value = shape.default, part
            if not key:
                raise ValueError("value without key, but schema does not define a default key")
        elif not key or not value:
            raise ValueError("missing key in comma-separated list property")
        elif alias := shape.aliases.get(key):
            if alias.named in found:
                raise ValueError(f"key alias '{alias.named}' is already defined")
            if alias.named:
                found[alias.named] = key
            key = alias.key
        if key in found:
            raise ValueError(f"duplicate key in comma-separated list property: {key}")
        found[key] = value
    return found


def render(values: Mapping[str, str | int], shape: Shape = PLAIN) -> str:
    """The string that `parse` reads as `values`: the default key first and bare."""
    rest = {key: str(value) for key, value in values.items()}
    head: list[str] = []
    for name, alias in shape.aliases.items():
        if alias.named and rest.get(alias.named) == name and alias.key in rest:
            del rest[alias.named]
            head.append(f"{name}={rest.pop(alias.key)}")
            break
    if shape.default in rest:
        head.append(rest.pop(shape.default))
    return ",".join([*head, *(f"{key}={value}" for key, value in rest.items())])
