"""A form with one file in it, sent as it is read: Proxmox VE wants the length first and takes no chunks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import BinaryIO


class Form:
    """multipart/form-data. requests sends what has a length and can be read."""

    def __init__(self, fields: Mapping[str, str], name: str, file: BinaryIO, size: int) -> None:
        """Args: size: bytes that the file gives from where it stands."""
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        lines = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        self._head = (
            f'{lines}--{boundary}\r\nContent-Disposition: form-data; name="filename"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file = file
        self._left = size
        self._length = len(self._head) + size + len(self._tail)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            EOFError: the file ended early; nothing of it is kept then.
        """
        if self._head:
            data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return data
        if self._left:
            data = self._file.read(self._left if size < 0 else min(size, self._left))
            if not data:
                raise EOFError(f"the file ended {self._left} bytes early")
            self._left -= len(data)
            return data
        data, self._tail = (self._tail, b"") if size < 0 else (self._tail[:size], self._tail[size:])
        return data
