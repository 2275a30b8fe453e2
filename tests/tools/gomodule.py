"""Programs in Go: built once per state of what they are built from, into .cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"
BUILD_SECONDS = 1800


class GoUnavailableError(Exception):
    """A program cannot be built here; the text says why."""


def program(sources: Path, package: str = ".", *, linker: str = "") -> Path:
    """The executable of a package of a module, named as the package's folder is.

    Args:
        sources: the module's folder, with go.mod and go.sum.
        package: a folder in it.
        linker: flags for Go's linker.

    Raises:
        GoUnavailableError: there is no Go, or the modules cannot be downloaded.
    """
    folder = (sources / package).resolve()
    digest = hashlib.sha256(linker.encode())
    for source in sorted([*folder.glob("*.go"), sources / "go.mod", sources / "go.sum"]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    target = CACHE / sources.name / digest.hexdigest()[:16] / folder.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes build it once
        if not target.exists():
            _build(folder, target, linker)
    return target


def _build(folder: Path, target: Path, linker: str) -> None:
    """Compile into `target` in one step, so that an interrupted build leaves no half binary."""
    go = shutil.which("go")
    if go is None:
        raise GoUnavailableError(f"{target.name} cannot be built: no `go` on the path (https://go.dev/dl)")
    half = target.with_suffix(f".{os.getpid()}")
    made = subprocess.run(
        [go, "build", "-ldflags", f"-s -w {linker}", "-o", str(half), "."],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    if made.returncode != 0:
        raise GoUnavailableError(f"{target.name} cannot be built: {made.stderr.strip()[-500:]}")
    half.rename(target)
