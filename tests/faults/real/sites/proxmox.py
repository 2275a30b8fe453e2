"""A simulated Proxmox VE cluster. What it knows dies with it, so it is stopped and never killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any

from e2e.proxmox import TEMPLATE, Cluster, cluster
from e2e.stack import Object
from provider_proxmox import stamp

from .site import IMAGE, OWNER, Found, Site

STORAGE = "local-lvm"
NODES = ("pve1", "pve2", "pve3")
_DISK = re.compile(r"(?:scsi|virtio|sata|ide)\d+")
_SIZE = re.compile(r"\bsize=(\d+)([MGT])")
_UNITS = {"M": 1, "G": 1 << 10, "T": 1 << 20}


class ProxmoxSite(Site):
    """Machines are clones of a template, on three nodes."""

    kind, module = "proxmox", "provider_proxmox"
    root_mib = 8 << 10
    pausable = fillable = True
    points = (
        "proxmox.cloned", "proxmox.vmid.judged", "proxmox.vmid.claimed", "proxmox.create.shaped",
        "proxmox.create.finishing", "proxmox.create.made", "proxmox.destroy.spared", "proxmox.destroy.done",
    )  # fmt: skip

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._cluster: Cluster | None = None
        self._home = Path()
        self._theirs: list[str] = []
        self._total = 0

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None, "not open"
        return self._cluster

    def open(self, home: Path) -> None:
        self._home = home
        self._cluster = self._stack.enter_context(cluster())
        self._theirs = list(self.cluster.ask("guests"))
        told = self.cluster.told
        for name, key in (("token_id", "token_id"), ("token_secret", "token_secret"), ("ca.crt", "certificate")):
            (home / name).write_text(told[key])

    def close(self) -> None:
        if self._cluster is not None:
            self.resume()  # one that stands still cannot leave
        self._stack.close()

    def flags(self) -> list[str]:
        placed = [f"--default-storage={STORAGE}", "--default-bridge=vmbr0", "--spool-directory", str(self._home)]
        return ["--endpoint", self.cluster.url, "--credentials-directory", str(self._home), *placed]

    def spec(self) -> Object:
        return {"endpoint": self.cluster.url}

    def images(self) -> dict[str, Object]:
        return {IMAGE: {"proxmox": {"templateName": TEMPLATE}}}

    def network(self) -> Object:
        return {"proxmox": {"bridge": "vmbr0"}}

    # -- what is there -------------------------------------------------------------------------------------------------

    def found(self) -> list[Found]:
        return [
            _found(guest["config"], guest["status"])
            for vmid, guest in self.cluster.ask("guests").items()
            if vmid not in self._theirs
        ]

    def orphans(self, living: Collection[str]) -> list[str]:
        guests = set(self.cluster.ask("guests"))
        return sorted({volid for volid, of in self._volumes() if of not in guests})

    def _volumes(self) -> list[tuple[str, str]]:
        """Every volume with the VMID that it belongs to; ISOs, which name none, with that in their own name."""
        listed = []
        for node in NODES:
            for storage in self._api(f"nodes/{node}/storage"):
                for volume in self._api(f"nodes/{node}/storage/{storage['storage']}/content"):
                    of = volume.get("vmid") or (re.findall(r"\d+", volume["volid"]) or ["?"])[0]
                    listed.append((str(volume["volid"]), str(of)))
        return listed

    def _api(self, path: str) -> Any:  # Any: JSON
        told = self.cluster.told
        token = {"Authorization": f"PVEAPIToken={told['token_id']}={told['token_secret']}"}
        request = urllib.request.Request(f"{self.cluster.url}/api2/json/{path}", headers=token)
        context = ssl.create_default_context(cadata=told["certificate"])
        with urllib.request.urlopen(request, timeout=20, context=context) as reply:
            return json.load(reply)["data"]

    def theirs(self) -> str:
        guests = self.cluster.ask("guests")
        return json.dumps([guests[vmid] for vmid in self._theirs])

    # -- what may be done to it ----------------------------------------------------------------------------------------

    def pause(self) -> None:
        os.kill(self.cluster.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.cluster.pid, signal.SIGCONT)

    def fill(self, spare_bytes: int) -> None:
        had: int = self.cluster.switch("storage", storage=STORAGE, total=0)["total"]
        self._total = had or self._total

    def make_room(self) -> None:
        if self._total:
            self.cluster.switch("storage", storage=STORAGE, total=self._total)


def _found(config: dict[str, str], status: str) -> Found:
    mark = stamp.read(config.get("description", ""))[1]
    uid = re.search(r"uuid=([0-9a-f-]{36})", config.get("smbios1", ""))
    sizes = [
        int(size[1]) * _UNITS[size[2]]
        for key, value in config.items()
        if _DISK.fullmatch(key) and "media=cdrom" not in value and (size := _SIZE.search(value))
    ]
    return Found(
        uid=uid[1] if uid else mark.uid if mark else "",
        name=config.get("name", ""),
        ours=mark is not None and mark.owner == OWNER,
        on=status == "running",
        cpus=int(config.get("cores", "1")) * int(config.get("sockets", "1")),
        memory_mib=int(config.get("memory", "0")),
        disks_mib=tuple(sorted(sizes)),
        busy="lock" in config,
    )
