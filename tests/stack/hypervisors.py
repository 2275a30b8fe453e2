"""Three hypervisors of somebody's own, for profile `real`: no compose file knows of them, .env names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import asyncssh

from .images import BASE, ROOT

KVM, VCENTER, PVE = "kvm1.example.org", "vcenter.example.org", "pve1.example.org"
PREFIX = "virtrigaud-test-"
USER = "65532"
"""Who reads the credentials: the user that every service of ours runs as."""

Docker = Callable[..., str]
"""Runs docker, which must succeed."""


class Hypervisors:
    """A libvirt behind SSH, a simulated vCenter and a simulated cluster."""

    def __init__(self, home: Path) -> None:
        """Args: home: for the credentials."""
        self._home = home

    def settings(self) -> dict[str, str]:
        """What their owner writes into .env."""
        return {
            "LIBVIRT_ENDPOINT": f"qemu+ssh://virtrigaud@{KVM}:2222/session",
            "LIBVIRT_CREDENTIALS": str(self._home / "libvirt"),
            "IMAGES": str(ROOT / ".cache" / "images"),
            "VSPHERE_ENDPOINT": f"https://{VCENTER}:8989",
            "VSPHERE_CREDENTIALS": str(self._home / "vsphere"),
            "PROXMOX_ENDPOINT": f"https://{PVE}:8006",
            "PROXMOX_CREDENTIALS": str(self._home / "proxmox"),
        }

    def start(self, docker: Docker) -> None:
        """Run them, and let them write what their users log in with."""
        self.close(docker)  # what a killed run left
        self._make_keys()
        for each in ("vsphere", "proxmox"):
            (self._home / each).mkdir(mode=0o700)
        docker("run", "--rm", f"--volume={self._home}:/home", BASE, "sh", "-c", f"chown -R {USER}:{USER} /home/*")

        def run(name: str, image: str, *options: str, command: tuple[str, ...] = ()) -> None:
            docker("run", "--detach", f"--name={PREFIX}{name}", *options, image, *command)

        run(KVM, "virtrigaud-test/kvm", "--init", f"--volume={self._home}/keys:/keys:ro")
        vcenter = ("-listen=0.0.0.0:8989", f"-host={VCENTER}", "-credentials=/credentials", "-template=debian-12")
        into = f"--volume={self._home}/vsphere:/credentials"
        run(VCENTER, "virtrigaud/sim-vcsim:dev", "--interactive", into, command=vcenter)
        address = ("--host=0.0.0.0", "--port=8006", f"--name={PVE}")
        guests = ("--vms=1", "--template=debian-12", "--scale=0.05")
        into = f"--volume={self._home}/proxmox:/credentials"
        pve = (*address, *guests, "--credentials=/credentials", "--stay")
        run(PVE, "virtrigaud/sim-proxmox:dev", into, command=pve)

    def join(self, docker: Docker, network: str) -> None:
        """Be found under their names from there on."""
        for name in (KVM, VCENTER, PVE):
            docker("network", "connect", "--alias", name, network, PREFIX + name)

    def close(self, docker: Docker) -> None:
        """End them."""
        docker("rm", "--force", *(PREFIX + name for name in (KVM, VCENTER, PVE)))

    def _make_keys(self) -> None:
        """Of SSH: the host's, and its user's."""
        host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        credentials, keys = self._home / "libvirt", self._home / "keys"
        for place in (credentials, keys):
            place.mkdir(mode=0o700)
        for path, key in ((keys / "host", host), (credentials / "ssh-privatekey", user)):
            path.touch(mode=0o600)
            key.write_private_key(path)
        (keys / "authorized").write_bytes(user.export_public_key())
        public = host.export_public_key().decode().strip()
        (credentials / "known_hosts").write_text(f"[{KVM}]:2222 {public}\n")
