"""A vCenter (or lone ESXi) for tests: `from simulators.vcsim import Vcsim, own_vcsim, vcsim`."""

from .fixtures import own_vcsim, start_vcsim, vcsim
from .process import Vcsim

__all__ = ["Vcsim", "own_vcsim", "start_vcsim", "vcsim"]
