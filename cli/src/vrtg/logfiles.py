"""Log files of the embedded stack: bounded, and readable while they are written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class RotatingLog:
    """Appends bytes to a file; at `limit` bytes the file becomes FILE.1, FILE.1 becomes FILE.2, and so on."""

    def __init__(self, path: Path, *, limit: int = 10 << 20, keep: int = 3) -> None:
        """Args: limit: bytes of one file. keep: older files kept beside the current one."""
        self._path, self._limit, self._keep = path, limit, keep
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> None:
        if self._size and self._size + len(data) > self._limit:
            self._rotate()
        os.write(self._descriptor, data)
        self._size += len(data)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> RotatingLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        os.close(self._descriptor)
        for number in range(self._keep - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._descriptor = self._open()
        self._size = 0


def tail(path: Path, lines: int) -> tuple[bytes, int]:
    """The last `lines` lines of a file, and the offset at which it ended; read from the end, in blocks."""
    with path.open("rb") as file:
        end = position = file.seek(0, os.SEEK_END)
        data = b""
        while position and data.count(b"\n") <= lines:
            step = min(position, 1 << 16)
            position -= step
            file.seek(position)
            data = file.read(step) + data
    kept = data.splitlines(keepends=True)[-lines:] if lines else []
    return b"".join(kept), end
