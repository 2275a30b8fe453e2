"""A hypervisor in memory that keeps every promise of the contract, and misbehaves on demand."""

from .driver import FAKE_CAPABILITIES, FakeDriver
from .world import FakeHypervisor

__all__ = ["FAKE_CAPABILITIES", "FakeDriver", "FakeHypervisor"]
