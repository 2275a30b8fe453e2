"""Faults of real processes, on the fake hypervisor."""

from __future__ import annotations

from .playing import Faults, guest_image, pytest_generate_tests, runs

__all__ = ["guest_image", "pytest_generate_tests", "runs"]  # fixtures and a hook


class TestFake(Faults):
    kind = "fake"
