"""Property strings as Proxmox VE cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.proxmox.property_strings import DISK, NIC, NIC_MODELS, PLAIN, Shape, parse, render

KEYS = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).filter(
    lambda key: key not in NIC_MODELS and key != "volume"
)
VALUES = st.from_regex(r"[A-Za-z0-9:./;+-]{1,12}", fullmatch=True)
MADDR = "BC:24:11:C2:48:8F"


@pytest.mark.parametrize(
    ("text", "shape", "wanted"),
    [
        ("local:1,format=qcow2,ssd=1", DISK, {"file": "local:1", "format": "qcow2", "ssd": "1"}),
        ("file=local:1", DISK, {"file": "local:1"}),
        ("volume=local:1", DISK, {"file": "local:1"}),
        ("size=1G,local:1", DISK, {"size": "1G", "file": "local:1"}),
        ("virtio,bridge=vmbr0", NIC, {"model": "virtio", "bridge": "vmbr0"}),
        (f"virtio={MADDR},bridge=vmbr0", NIC, {"model": "virtio", "macaddr": MADDR, "bridge": "vmbr0"}),
        (f"model=e1000,macaddr={MADDR}", NIC, {"model": "e1000", "macaddr": MADDR}),
        ("uuid=x=y", PLAIN, {"uuid": "x=y"}),
        ("a=1,,b=2,", PLAIN, {"a": "1", "b": "2"}),
        ("", PLAIN, {}),
    ],
)
def test_parse(text: str, shape: Shape, wanted: dict[str, str]) -> None:
    assert parse(text, shape) == wanted


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("a=1,a=2", PLAIN, "duplicate key in comma-separated list property: a"),
        ("local:1,local:2", DISK, "duplicate key in comma-separated list property: file"),
        ("file=local:1,volume=local:2", DISK, "duplicate key in comma-separated list property: file"),
        (f"virtio={MADDR},e1000={MADDR}", NIC, "key alias 'model' is already defined"),
        ("bare", PLAIN, "value without key, but schema does not define a default key"),
        ("=1", PLAIN, "missing key in comma-separated list property"),
        ("a=", PLAIN, "missing key in comma-separated list property"),
    ],
)
def test_parse_refuses(text: str, shape: Shape, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(text, shape)
    assert str(refused.value) == reason


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_what_is_rendered_parses_to_the_same(values: dict[str, str]) -> None:
    assert parse(render(values)) == values


@given(st.dictionaries(KEYS, VALUES, max_size=4), VALUES)
def test_a_disk_survives_the_round(options: dict[str, str], volume: str) -> None:
    disk = {**options, "file": volume}
    text = render(disk, DISK)
    assert text.split(",")[0] == volume, "PVE puts the volume first and bare"
    assert parse(text, DISK) == disk


@given(st.sampled_from(NIC_MODELS), st.booleans(), st.dictionaries(KEYS, VALUES, max_size=4))
def test_a_nic_survives_the_round(model: str, addressed: bool, options: dict[str, str]) -> None:
    nic = {**options, "model": model} | ({"macaddr": MADDR} if addressed else {})
    text = render(nic, NIC)
    assert text.split(",")[0] == (f"{model}={MADDR}" if addressed else model)
    assert parse(text, NIC) == nic


@given(st.text(), st.sampled_from([PLAIN, DISK, NIC]))
def test_no_text_breaks_the_parser(text: str, shape: Shape) -> None:
    """A client sends what it likes: it gets a refusal or a meaning, and what parsed once parses again."""
    try:
        found = parse(text, shape)
    except ValueError:
        return
    assert parse(render(found, shape), shape) == found
