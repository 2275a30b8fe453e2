"""grpcurl itself, built once from its Go module."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from libvirtd.fixtures import missing

VERSION = "v1.9.3"
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "grpcurl" / VERSION
BUILD_SECONDS = 600


def grpcurl() -> Path:
    """Its executable. Where it cannot be built the test is skipped, or fails where nothing may be skipped."""
    target = CACHE / "grpcurl"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes build it once
        if not target.exists():
            _build()
    return target


def _build() -> None:
    go = shutil.which("go")
    if go is None:
        missing("grpcurl cannot be built: no `go` on the path")
    made = subprocess.run(
        [str(go), "install", f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{VERSION}"],
        env={**os.environ, "GOBIN": str(CACHE)},
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    if made.returncode != 0:
        missing(f"grpcurl cannot be built: {made.stderr.strip()[-500:]}")
