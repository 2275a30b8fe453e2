"""A hypervisor in memory that keeps every promise of the contract, and misbehaves on demand."""

from .capable import FAKE_CAPABILITIES
from .driver import FakeDriver
from .world import FakeHypervisor

__all__ = ["FAKE_CAPABILITIES", "FakeDriver", "FakeHypervisor"]
