"""Faults of real processes, on a simulated vCenter."""

from __future__ import annotations

from .playing import Faults, FullStorage, guest_image, pytest_generate_tests, runs

__all__ = ["guest_image", "pytest_generate_tests", "runs"]  # fixtures and a hook


class TestVsphere(Faults, FullStorage):
    kind = "vsphere"
