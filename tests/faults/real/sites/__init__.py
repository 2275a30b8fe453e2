"""The providers that are put through the faults: a new one is one line here and a Site of its own."""

from __future__ import annotations

from .fake import FakeSite
from .libvirt import LibvirtSite
from .proxmox import ProxmoxSite
from .site import Found, Site
from .vsphere import VsphereSite

__all__ = ["SITES", "Found", "Site"]

SITES: dict[str, type[Site]] = {
    "libvirt": LibvirtSite,
    "vsphere": VsphereSite,
    "proxmox": ProxmoxSite,
    "fake": FakeSite,
}
