"""Parsers that are broken on purpose, each as a parser might be: the gate's own inputs must find every one of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from common import redact, v1
from common.errors import InvalidSpecError
from kinds import quantity
from provider_libvirt import images, observed
from provider_proxmox import stamp as proxmox_stamp
from provider_proxmox.config import properties
from provider_proxmox.session import tasks
from provider_vsphere.content import vmdk
from providerkit import cloudinit

from fuzz import mutate, registry

TARGETS = registry.load()


def _any_owner(raw: observed.Raw, **given: Any) -> v1.Machine:
    """Whoever's stamp it is, the machine is ours."""
    machine = observed.machine(raw, **given)
    machine.owned = machine.owned or observed.stamp.read(raw.config) is not None
    return machine


def _counts_unbounded(raw: observed.Raw, **given: Any) -> v1.Machine:
    machine = observed.machine(raw, **given)
    assert machine.cpu is not None
    digits = (raw.config.findtext("vcpu") or "").strip()
    machine.cpu.max_count = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else 0
    return machine


def _untyped_marker(data: bytes) -> images.Marker | None:
    try:
        return images.Marker(**json.loads(data))
    except (ValueError, TypeError):
        return None


def _half_a_stamp(description: str) -> tuple[str, proxmox_stamp.Stamp | None]:
    """What follows the stamp is forgotten."""
    text, found = proxmox_stamp.read(description)
    return (text.partition("\n")[0] if found is not None else text), found


def _known_keys_alone(text: object) -> properties.Property:
    found = properties.parse(text)
    return properties.Property(tuple(item for item in found.items if item[1]))


def _progress_of_any_number(line: str) -> float | None:
    found = re.search(r"([\d.]+) ?([KMG]?i?B) of ([\d.]+) ?([KMG]?i?B)", line)
    return min(float(found[1]) / float(found[3]), 1.0) if found else tasks.part_done(line)


def _without_a_key(spec: v1.MachineSpec) -> str:
    merged = yaml.safe_load(cloudinit.meta_data(spec))
    return cloudinit.text({key: value for key, value in merged.items() if key != "nested"})


def _repeating_what_it_was_given(spec: v1.MachineSpec) -> str:
    given = spec.boot_data.meta_data if spec.boot_data is not None else ""
    try:
        return cloudinit.meta_data(spec)
    except InvalidSpecError as error:
        raise InvalidSpecError(f"{error}: {given}") from None


def _quadratic_mask(text: str) -> str:
    return re.sub(r"([a-zA-Z][a-zA-Z0-9+.\-]*://)[^\s/@:]*:[^\s/@]+@", rf"\1{redact.MASK}@", redact.text(text))


class _Trusting(vmdk.Reader):
    """Believes where a grain says that it belongs."""

    def _offset(self, sector: int, grain_size: int, next_offset: int) -> int:
        return sector * vmdk.SECTOR


def _rounds_down(text: str) -> int:
    return int(quantity.parse_decimal(text))


def _forgetful_merge(target: Any, patch: Any) -> Any:
    return dict(patch) if isinstance(patch, dict) else patch


MUTANTS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "a stamp of any owner is ours": ("libvirt.domain", {"machine": _any_owner}),
    "a count that the wire cannot hold": ("libvirt.domain", {"machine": _counts_unbounded}),
    "a marker whose types nobody looked at": ("libvirt.image-marker", {"read": _untyped_marker}),
    "words of people that are lost": ("proxmox.description", {"read": _half_a_stamp}),
    "an unknown key that is dropped": ("proxmox.property-string", {"parse": _known_keys_alone}),
    "a number that is none": ("proxmox.task-log", {"part_done": _progress_of_any_number}),
    "a key of the user that is dropped": ("kit.meta-data", {"merge": _without_a_key}),
    "a refusal that repeats a secret": ("kit.meta-data", {"merge": _repeating_what_it_was_given}),
    "a mask of quadratic cost": ("common.redact", {"mask": _quadratic_mask}),
    "a grain beyond the disk": ("vsphere.vmdk", {"reader": _Trusting}),
    "a fraction that is cut off": ("kinds.quantity", {"parse": _rounds_down}),
    "a merge that forgets": ("apiserver.merge-patch", {"merge": _forgetful_merge}),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_parser_is_found(mutant: str) -> None:
    """Else the target asserts less than it says."""
    name, parsers = MUTANTS[mutant]
    whole = TARGETS[name]
    broken = whole.with_parsers(**parsers)
    assert dataclasses.replace(broken, function=whole.function) == whole
    for data in mutate.inputs(name, whole.seeds + whole.bad, whole.inputs):
        try:
            broken.run(data)
        except Exception:  # noqa: BLE001  # whatever it is, it was found
            return
    pytest.fail(f"no input of {name} finds: {mutant}")
