"""Private files: 0600 in a 0700 directory; whole directories change in one step, as the kubelet mounts Secrets."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def private_directory(path: Path) -> Path:
    """Make it, for us alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read, all of it or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)


def digest_of(files: Mapping[str, bytes]) -> str:
    """Changes with any name or content."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(len(name).to_bytes(4, "big") + name.encode() + len(files[name]).to_bytes(8, "big") + files[name])
    return digest.hexdigest()[:32]


def replace_directory(link: Path, files: Mapping[str, bytes]) -> bool:
    """Make `link` a symbolic link to a directory with exactly these files, in one step; whether anything changed.

    Raises:
        ValueError: a name is no plain file name.
    """
    for name in files:
        if not name or name.startswith("..") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name of a file")
    target = link.with_name(f"{link.name}.{digest_of(files)}")
    before = Path(os.readlink(link)).name if link.is_symlink() else ""
    if before == target.name and target.is_dir():
        return False
    shutil.rmtree(target, ignore_errors=True)  # what a crash left half-written
    private_directory(target)
    for name, content in files.items():
        write_private(target / name, content)
    partial = link.with_name(f".{link.name}.link")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target.name)
    partial.replace(link)
    if before and before != target.name:
        shutil.rmtree(link.with_name(before), ignore_errors=True)
    return True


def remove_tree(path: Path) -> None:
    """Delete a directory of private files; none is as good. Raises: OSError: something of it is left."""
    if path.exists():
        shutil.rmtree(path)


def remove_directory(link: Path) -> None:
    """Delete what `replace_directory` made, and what a crash left of it. Raises: OSError: something of it is left."""
    link.unlink(missing_ok=True)
    link.with_name(f".{link.name}.link").unlink(missing_ok=True)
    for left in link.parent.glob(f"{link.name}.*"):
        shutil.rmtree(left)
