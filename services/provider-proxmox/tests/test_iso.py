"""The first-boot ISO of a machine: its name."""

from __future__ import annotations

import re

from provider_proxmox.content import iso

UID, OTHER = "7a1e2f30-0000-4000-8000-000000000001", "7a1e2f30-0000-4000-8000-000000000002"
CONTENT = {"user-data": "#cloud-config\n{}\n", "meta-data": "instance-id: x\n"}


def test_name_follows_from_machine_and_content() -> None:
    """The same data are uploaded once, others never overwrite what a guest reads now."""
    name = iso.name(101, UID, CONTENT)
    assert name == iso.name(101, UID, dict(reversed(CONTENT.items())))
    assert len({name, iso.name(102, UID, CONTENT), iso.name(101, OTHER, CONTENT), iso.name(101, UID, {})}) == 4


def test_name_is_one_that_proxmox_keeps() -> None:
    """It replaces every other character, and then nobody would find the file."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]+\.iso", iso.name(999_999_999, UID, CONTENT))


def test_content_does_not_show_in_the_name() -> None:
    """Equal data of two machines do not show as equal: names of files are no secrets."""
    mine, other = (iso.name(101, uid, CONTENT).rpartition("-")[2] for uid in (UID, OTHER))
    assert mine != other


def test_finds_those_of_a_machine_among_all() -> None:
    """Of an earlier VMID, too: a create may have tried another one first."""
    ours = [f"local:iso/{iso.name(vmid, UID, CONTENT)}" for vmid in (101, 102)]
    others = [f"local:iso/{iso.name(101, OTHER, CONTENT)}", "local:iso/debian.iso", f"local:iso/{UID}.iso"]
    assert iso.of(UID, [*others, *ours]) == ours
    assert [iso.is_one(volume) for volume in (ours[0], others[0], others[1])] == [True, True, False]


def test_image_is_equally_long_whenever_it_is_made() -> None:
    """The length tells a whole file from one that a node stopped copying."""
    assert len(iso.made(CONTENT)) == len(iso.made(CONTENT)) > 68 * 1024
