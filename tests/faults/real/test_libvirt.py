"""Faults of real processes, on a real libvirtd with QEMU."""

from __future__ import annotations

import pytest

from .playing import Faults, FullStorage, guest_image, pytest_generate_tests, runs

__all__ = ["guest_image", "pytest_generate_tests", "runs"]  # fixtures and a hook

pytestmark = pytest.mark.real


class TestLibvirt(Faults, FullStorage):
    kind = "libvirt"
    seeds = 52
