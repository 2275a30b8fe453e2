"""A vCenter (or lone ESXi) for tests: `from simulators.vcsim import Vcsim, own_vcsim, vcsim`."""

from .fixtures import own_vcsim, start_vcsim, vcsim
from .process import Vcsim, VcsimUnavailableError

__all__ = ["Vcsim", "VcsimUnavailableError", "own_vcsim", "start_vcsim", "vcsim"]
