"""A form with one file in it, sent as it is read: Proxmox VE wants the length first and takes no chunks."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import BinaryIO

from common.errors import HypervisorUnavailableError

# Proxmox VE finds the fields of a form in this order alone, all of them before the file.
# Source: file_upload_multipart in PVE::APIServer::AnyEvent
ORDER = ("content", "checksum-algorithm", "checksum")


def forms(fields: Mapping[str, str], name: str, file: BinaryIO, size: int) -> Callable[[], Form]:
    """Makes the form, from the file's place of now each time.

    Args:
        size: bytes that the file gives from there on.
    """
    start = file.tell() if file.seekable() else None
    made = False

    def form() -> Form:
        """Raises: HypervisorUnavailableError: it would have to be sent again, and cannot be read again."""
        nonlocal made
        if start is not None:
            file.seek(start)
        elif made:
            raise HypervisorUnavailableError(f"send {name}: the upload broke off", retry_after=2.0)
        made = True
        return Form(fields, name, file, size)

    return form


class Form:
    """multipart/form-data. requests sends what has a length and can be read."""

    def __init__(self, fields: Mapping[str, str], name: str, file: BinaryIO, size: int) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        lines = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in sorted(fields.items(), key=lambda field: ORDER.index(field[0]))
        )
        self._head = (
            f'{lines}--{boundary}\r\nContent-Disposition: form-data; name="filename"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._name = name
        self._file = file
        self._left = size
        self._length = len(self._head) + size + len(self._tail)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            HypervisorUnavailableError: the file ended early; Proxmox VE keeps nothing of it then.
        """
        if self._head:
            data, self._head = _cut(self._head, size)
            return data
        if self._left:
            data = self._file.read(self._left if size < 0 else min(size, self._left))
            if not data:
                raise HypervisorUnavailableError(f"send {self._name}: the file ended {self._left} bytes early")
            self._left -= len(data)
            return data
        data, self._tail = _cut(self._tail, size)
        return data


def _cut(data: bytes, size: int) -> tuple[bytes, bytes]:
    return (data, b"") if size < 0 else (data[:size], data[size:])
