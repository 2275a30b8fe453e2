"""Property strings and sizes as Proxmox VE writes them."""

from __future__ import annotations

import pytest
from common.errors import InvalidSpecError
from hypothesis import given
from hypothesis import strategies as st
from provider_proxmox.config import properties, sizes

_KEY = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
_VALUE = st.text(st.characters(codec="ascii", exclude_characters=",\n\r ", min_codepoint=33), min_size=1, max_size=20)
_HEAD = st.from_regex(r"[A-Za-z0-9:/._-]{1,30}", fullmatch=True)


@given(head=_HEAD | st.just(""), options=st.dictionaries(_KEY, _VALUE, max_size=6))
def test_is_written_as_it_was_read(head: str, options: dict[str, str]) -> None:
    """Order and keys that we do not know are kept."""
    text = ",".join(([head] if head else []) + [f"{key}={value}" for key, value in options.items()])
    found = properties.parse(text)
    assert str(found) == text
    assert found.head == head
    assert {key: found.get(key) for key in options} == options


@given(options=st.dictionaries(_KEY, _VALUE, min_size=1, max_size=6), data=st.data())
def test_a_change_touches_its_key_alone(options: dict[str, str], data: st.DataObject) -> None:
    """Everything else stays in its place."""
    key = data.draw(st.sampled_from(sorted(options)))
    before = properties.parse(",".join(f"{name}={value}" for name, value in options.items()))
    assert [name for name, _ in before.having({key: "new"}).items] == list(options)
    assert before.having({key: "new"}).get(key) == "new"
    left = {name: value for name, value in options.items() if name != key}
    assert dict(before.having({key: None}).items) == left


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("local-lvm:vm-101-disk-0,size=8G,discard=on", "size", "8G"),
        ("virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=7", "bridge", "vmbr0"),
        ("virtio,bridge=vmbr0", "", "virtio"),
        ("host,flags=+aes;-pcid", "flags", "+aes;-pcid"),
        ("1,fstrim_cloned_disks=1", "", "1"),
        ("order=scsi0;ide2;net0", "order", "scsi0;ide2;net0"),
        ("a=b,=c", "", "=c"),
        ("uuid=11111111-2222-3333-4444-555555555555", "uuid", "11111111-2222-3333-4444-555555555555"),
    ],
)
def test_reads_what_proxmox_writes(text: str, key: str, value: str) -> None:
    """Shapes of the values that we read."""
    assert properties.parse(text).get(key) == value


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("0", False), ("on", True), ("yes", True), ("off", False)])
def test_switches(text: str, expected: bool) -> None:
    """Proxmox VE writes 1 and 0, and reads more."""
    assert properties.parse(f"a=b,iothread={text}").flag("iothread") is expected


def test_a_value_that_would_become_two_is_refused() -> None:
    """A comma in a value would be another option: nobody injects one."""
    with pytest.raises(InvalidSpecError, match="bridge"):
        properties.of("virtio", bridge="vmbr0,firewall=0")


@given(st.integers(min_value=1, max_value=1 << 50))
def test_sizes_are_read_back_to_the_byte(size: int) -> None:
    """A size never changes by being written."""
    assert sizes.parse(sizes.text(size)) == size


@given(st.integers(min_value=1, max_value=1 << 26))
def test_new_volumes_are_whole_mebibytes(mib: int) -> None:
    """Proxmox VE takes a decimal number of GiB, calculated as a float there: nothing is lost on the way."""
    assert float(sizes.gib(mib << 20)) * 1024 == mib


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 << 30),
        ("528K", 528 << 10),
        ("4M", 4 << 20),
        ("1.5T", 3 << 39),
        ("512", 512),
        (1024, 1024),
        ("nonsense", 0),
        ("", 0),
    ],
)
def test_sizes_of_proxmox(text: object, size: int) -> None:
    """It counts in powers of 1024; what is no size is 0."""
    assert sizes.parse(text) == size


def test_sizes_for_calls() -> None:
    """A new volume in GiB, a resize in MiB, both rounded up."""
    assert [sizes.gib(n) for n in (8 << 30, 1 << 20, (1 << 30) + 1)] == ["8", "0.0009765625", "1.0009765625"]
    assert sizes.resized((10 << 30) - 1) == "10240M"
