"""pytest fixtures around the private libvirtd and the test guest.

Use them from a test module or conftest: `from libvirtd.fixtures import guest_image, libvirtd`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from .private import LibvirtdUnavailableError, PrivateLibvirtd

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"


def require_real() -> bool:
    """Whether a missing real part fails a test (REQUIRE_REAL=1) rather than skipping it."""
    return os.environ.get("REQUIRE_REAL", "") not in ("", "0")


def missing(reason: str) -> NoReturn:
    """Skip the test for want of a real part, or fail it where REQUIRE_REAL=1 says that all must be there."""
    if require_real():
        pytest.fail(f"REQUIRE_REAL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def start_private_libvirtd() -> Iterator[PrivateLibvirtd]:
    """The body of a fixture of any scope: a private libvirtd, ended with all its guests when the generator closes."""
    try:
        daemon = PrivateLibvirtd(CACHE / "libvirt-capabilities").__enter__()
        reason = ""
    except LibvirtdUnavailableError as error:
        reason = str(error)
    if reason:
        missing(reason)
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    """One private libvirtd for the session; a test that ends or pauses it must start or resume it again."""
    yield from start_private_libvirtd()


@pytest.fixture
def own_libvirtd() -> Iterator[PrivateLibvirtd]:
    """A private libvirtd for this test alone (0.1 s)."""
    yield from start_private_libvirtd()


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """The bootable test guest, built if it is not in the cache; its file is read-only."""
    build = subprocess.run(
        [str(REPOSITORY / "images" / "guest" / "build.sh")], check=False, capture_output=True, text=True, timeout=300
    )
    if build.returncode != 0:
        missing(build.stderr.strip())
    return Path(build.stdout.splitlines()[-1])
