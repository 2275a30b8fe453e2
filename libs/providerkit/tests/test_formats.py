"""Image files judged by their first bytes."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from common.errors import BrokenImageError
from hypothesis import given
from hypothesis import strategies as st
from providerkit.formats import HEADER_BYTES, Format, examine

MIB = 1 << 20


def qcow2(*, version: int = 3, backing: int = 0, crypt: int = 0, size: int = MIB, incompatible: int = 0) -> bytes:
    head = b"QFI\xfb" + struct.pack(">IQIIQ", version, backing, 0, 16, size)
    head += struct.pack(">IIQQIIQ", crypt, 1, 0x30000, 0x10000, 1, 0, 0)
    return (head + struct.pack(">QQQII", incompatible, 0, 0, 4, 104)).ljust(HEADER_BYTES, b"\0")


@pytest.mark.parametrize(
    ("head", "length", "wanted", "complaint"),
    [
        (qcow2(backing=0x200), MIB, "", "backing file"),
        (qcow2(incompatible=4), MIB, "", "another file"),
        (qcow2(incompatible=2), MIB, "", "corrupt"),
        (qcow2(crypt=1), MIB, "", "encrypted"),
        (qcow2(version=1), MIB, "", "version 1"),
        (qcow2(size=0), MIB, "", "impossible capacity"),
        (qcow2(size=1 << 63), MIB, "", "impossible capacity"),
        (qcow2(), 1024, "", "cut off"),
        (qcow2()[:60], 60, "", "cut off"),
        (qcow2(), MIB, "raw", "declared as raw"),
        (b"\0" * 512, 512, "qcow2", "declared as qcow2"),
        (b"\0" * 512, 512, "vmdk", "not supported"),
        (b"<!DOCTYPE html><html>", 4096, "", "web page"),
        (b'{"error": 1}', 12, "", "web page or a document"),
        (b"KDMV" + bytes(508), 4096, "", "vmdk"),
        (b"\x1f\x8b" + bytes(510), 4096, "", "gzip"),
        (b"", 0, "", "empty"),
        (bytes(100), 100, "raw", "multiple of 512"),
    ],
)
def test_what_must_not_become_a_base_image_is_refused(head: bytes, length: int, wanted: str, complaint: str) -> None:
    with pytest.raises(BrokenImageError, match=complaint):
        examine(head, length, wanted)


@pytest.mark.parametrize("wanted", ["", "qcow2"])
def test_a_qcow2_tells_its_capacity(wanted: str) -> None:
    assert examine(qcow2(size=5 * MIB), MIB, wanted) == Format("qcow2", 5 * MIB)


def test_a_raw_disk_is_as_large_as_its_file() -> None:
    assert examine(bytes(HEADER_BYTES), MIB, "") == Format("raw", MIB)


@given(st.binary(max_size=HEADER_BYTES), st.integers(0, 1 << 40), st.sampled_from(["", "raw", "qcow2"]))
def test_any_bytes_are_judged(head: bytes, length: int, wanted: str) -> None:
    try:
        found = examine(head, max(length, len(head)), wanted)
    except BrokenImageError:
        return
    assert found.capacity % 512 == 0


@pytest.mark.real
def test_what_qemu_img_makes_is_judged_right(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    data_file = tmp_path / "external.qcow2"
    run = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*run, str(base), "3M"], check=True)
    subprocess.run([*run, "-b", str(base), "-F", "qcow2", str(overlay)], check=True)
    subprocess.run([*run, "-o", f"data_file={tmp_path / 'data.raw'}", str(data_file), "3M"], check=True)
    judge = lambda path: examine(path.read_bytes()[:HEADER_BYTES], path.stat().st_size, "")  # noqa: E731
    assert judge(base) == Format("qcow2", 3 * MIB)
    for path, complaint in ((overlay, "backing file"), (data_file, "another file")):
        with pytest.raises(BrokenImageError, match=complaint):
            judge(path)
