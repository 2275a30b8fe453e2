"""Faults of real processes, on a simulated Proxmox VE cluster."""

from __future__ import annotations

from .playing import Faults, FullStorage, guest_image, pytest_generate_tests, runs

__all__ = ["guest_image", "pytest_generate_tests", "runs"]  # fixtures and a hook


class TestProxmox(Faults, FullStorage):
    kind = "proxmox"
