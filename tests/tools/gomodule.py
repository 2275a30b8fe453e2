"""Programs in Go: built once per state of what they are built from, into .cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
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
    return _once(target, ["build", "-ldflags", f"-s -w {linker}", "-o", "{}", "."], folder)


def released(package: str, version: str) -> Path:
    """The executable of a package that others publish, at this version.

    Args:
        package: its path with the module's, such as "helm.sh/helm/v4/cmd/helm".

    Raises:
        GoUnavailableError: there is no Go, or the module cannot be downloaded.
    """
    name = next(part for part in reversed(package.split("/")) if not re.fullmatch(r"v\d+", part))  # as Go names it
    return _once(CACHE / name / version / name, ["install", "-ldflags", "-s -w", f"{package}@{version}"], CACHE)


def tool(sources: Path, *, linker: str = "") -> Path:
    """The executable of the tool that a module here pins: for what `go install` refuses, as it replaces modules.

    Args:
        sources: the module's folder, whose name the executable gets; its go.mod has one line `tool PACKAGE`.
        linker: flags for Go's linker.

    Raises:
        GoUnavailableError: there is no Go, or a module cannot be downloaded.
    """
    pinned = [(sources / name).read_bytes() for name in ("go.mod", "go.sum")]
    digest = hashlib.sha256(b"\0".join([linker.encode(), *pinned])).hexdigest()[:16]
    (package,) = re.findall(r"^tool (\S+)$", pinned[0].decode(), re.MULTILINE)
    target = CACHE / sources.name / digest / sources.name
    return _once(target, ["build", "-ldflags", f"-s -w {linker}", "-o", "{}", package], sources)


def files(module: str, version: str, folder: str) -> Path:
    """A folder of a module that others publish, at this version, copied into .cache.

    Raises:
        GoUnavailableError: there is no Go, or the module cannot be downloaded.
    """
    target = CACHE / "modules" / f"{module.rpartition('/')[2]}@{version}" / folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            got = _go("download " + module, ["mod", "download", "-json", f"{module}@{version}"], CACHE)
            with tempfile.TemporaryDirectory(dir=target.parent) as place:
                half = Path(place) / "half"
                half.mkdir()
                for source in (Path(json.loads(got)["Dir"]) / folder).iterdir():
                    if source.is_file():
                        shutil.copyfile(source, half / source.name)  # without its mode: modules are read-only
                half.rename(target)
    return target


def _once(target: Path, command: list[str], folder: Path) -> Path:
    """Run Go unless the target is there; {} in the command is where to put it. Two test processes build it once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(target, command, folder)
    return target


def _build(target: Path, command: list[str], folder: Path) -> None:
    """In one step, so that an interrupted build leaves no half binary."""
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        half = Path(place) / target.name
        _go(target.name, [word.replace("{}", str(half)) for word in command], folder, GOBIN=place)
        half.rename(target)


def _go(what: str, command: list[str], folder: Path, **environment: str) -> str:
    """Run Go; answers with what it prints. Raises: GoUnavailableError."""
    go = shutil.which("go")
    if go is None:
        raise GoUnavailableError(f"{what}: no `go` on the path (https://go.dev/dl)")
    made = subprocess.run(
        [go, *command],
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    if made.returncode != 0:
        raise GoUnavailableError(f"{what} cannot be had: {made.stderr.strip()[-500:]}")
    return made.stdout
