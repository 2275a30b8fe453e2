"""Logs stay bounded, and their end is found without reading all of them."""

from __future__ import annotations

from pathlib import Path

from vrtg.logfiles import RotatingLog, tail


def test_a_log_rotates_and_keeps_a_bounded_number(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with RotatingLog(path, limit=10, keep=2) as log:
        for number in range(6):
            log.write(b"%d23456789" % number)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert [path.read_bytes()[:1], (tmp_path / "a.log.1").read_bytes()[:1]] == [b"5", b"4"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_tail_is_the_last_lines_also_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"".join(b"line %d %s\n" % (i, b"x" * 1000) for i in range(300)))
    text, end = tail(path, 200)
    assert text.startswith(b"line 100 ")
    assert text.count(b"\n") == 200
    assert end == path.stat().st_size
    assert tail(path, 0)[0] == b""
    assert tail(path, 1000)[0] == path.read_bytes()
