"""Credentials come in files. What is secret of them is masked in every log from then on; a user's name is not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from common import redact
from common.errors import CredentialsRefusedError

MAX_BYTES = 1024 * 1024


class SecretError(Exception):
    """A secret's file cannot be used; the message names the file and the cure, never the content."""


PLAIN = frozenset({"username", "token_id", "ca.crt", "tls.crt", "known_hosts", "fingerprint", "thumbprint"})
"""Files of a credentials directory that are no secrets: masked, they would leave holes in every line."""


def read_secret(path: str | Path) -> str:
    """As `read_plain`; from now on no log shows it."""
    value = read_plain(path)
    redact.register(value, slot=str(path))
    return value


def find_credential(directory: Path | None, name: str) -> str | None:
    """A file of a credentials directory without its line end; None if it is not there, or empty.

    If it is a secret, no log shows it from now on.

    Raises:
        CredentialsRefusedError: unreadable, too large or no text.
    """
    path = directory / name if directory is not None else None
    if path is None or not path.is_file() or not path.stat().st_size:
        return None
    try:
        return read_plain(path) if name in PLAIN else read_secret(path)
    except SecretError as error:
        raise CredentialsRefusedError(f"credentials: {error}") from error


def read_plain(path: str | Path) -> str:
    """The content without the line end, of a file that lies beside secrets and is none: a user's name.

    Raises:
        SecretError: missing, unreadable, empty, too large or no text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(f"secret file {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise SecretError(f"secret file {path} is larger than {MAX_BYTES} bytes: is it the right file?")
    try:
        value = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        # Without `from`: the decoding error holds the bytes.
        raise SecretError(f"secret file {path} is no UTF-8 text") from None
    if not value:
        raise SecretError(f"secret file {path} is empty")
    return value


def readable_by_others(path: str | Path) -> bool:
    """Whether the file's mode lets others read it, or a group that is not the process's own, as a pod's fsGroup is."""
    found = os.stat(path)
    own = found.st_gid == os.getegid() == os.geteuid() != 0
    return bool(found.st_mode & (stat.S_IROTH if own else stat.S_IRGRP | stat.S_IROTH))
