"""grpcurl itself, built once from its Go module."""

from __future__ import annotations

from pathlib import Path

from libvirtd.fixtures import missing
from tools.gomodule import GoUnavailableError, released

VERSION = "v1.9.3"


def built() -> Path:
    """Its executable. Raises: GoUnavailableError."""
    return released("github.com/fullstorydev/grpcurl/cmd/grpcurl", VERSION)


def grpcurl() -> Path:
    """Its executable. Where it cannot be built the test is skipped, or fails where nothing may be skipped."""
    try:
        return built()
    except GoUnavailableError as error:
        reason = str(error)
    missing(reason)
