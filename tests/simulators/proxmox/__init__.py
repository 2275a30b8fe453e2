"""A Proxmox VE cluster for tests: `from simulators.proxmox import proxmox, pve`."""

from .faults import Fault
from .fixtures import pve
from .pace import Pace
from .server import Proxmox, proxmox
from .world import World

__all__ = ["Fault", "Pace", "Proxmox", "World", "proxmox", "pve"]
