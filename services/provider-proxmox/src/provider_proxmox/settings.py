"""Settings of the Proxmox VE provider."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from common.settings import Seconds
from providerkit.imagesettings import ImageSettings, state_images

LOWEST_VMID, HIGHEST_VMID = 100, 999_999_999
"""Source: the API schema of Proxmox VE 9.2."""


@dataclass(frozen=True)
class ProxmoxSettings(ImageSettings):
    """What this provider is told, besides what every provider is."""

    endpoint: Annotated[
        list[str], "URLs of nodes of one cluster, https://pve1.example.org:8006; the next one is asked when one fails"
    ] = field(default_factory=list)
    fingerprint: Annotated[
        list[str], "SHA-256 of a node's certificate, which then needs no authority; one per node, colons are allowed"
    ] = field(default_factory=list)
    insecure_skip_verify: Annotated[
        bool, "believe any certificate; whoever sits in between then reads the credentials"
    ] = False
    vmid_first: Annotated[int, "first VMID that new machines may get"] = 1_000
    vmid_last: Annotated[int, "last VMID that new machines may get"] = 999_999
    default_nodes: Annotated[list[str], "nodes that new machines may be put on; empty means all"] = field(
        default_factory=list
    )
    default_storage: Annotated[str, "storage of disks that name none; empty means the one with most free space"] = ""
    default_pool: Annotated[str, "pool of new machines"] = ""
    default_bridge: Annotated[str, "bridge or vnet of NICs that name none"] = "vmbr0"
    iso_storage: Annotated[
        str, "storage for first-boot ISOs; empty means a shared one if there is, else one of the machine's node"
    ] = ""
    import_storage: Annotated[str, "storage that images are fetched into; empty means one that takes imports"] = ""
    snippets_storage: Annotated[str, "storage for cicustom snippets"] = ""
    snippets_directory: Annotated[str, "where that storage is mounted here; without it there are no snippets"] = ""
    boot_delivery: Annotated[
        Literal["iso", "snippets", "native"],
        "how first-boot data reach a guest: an ISO of our own, cicustom snippets, or Proxmox VE's own fields",
    ] = "iso"
    node_downloads: Annotated[
        bool, "nodes fetch images by themselves where a checksum tells them what is right; they follow any redirect"
    ] = False
    spool_directory: Annotated[Path, "where content waits whose length Proxmox VE has to be told first"] = field(
        default_factory=lambda: state_images().with_name("spool")
    )
    ssh_user: Annotated[
        str, "user on the nodes who may read disks; empty takes the file `ssh_user` of the credentials directory"
    ] = ""
    ssh_port: Annotated[int, "port of SSH on the nodes"] = 22
    disk_directory: Annotated[
        list[str], "STORAGE=DIRECTORY: a storage of files that is mounted here, so that its disks are read without SSH"
    ] = field(default_factory=list)
    call_timeout: Annotated[Seconds, "how long Proxmox VE may take for an answer"] = 30.0
    task_timeout: Annotated[Seconds, "how long a task may run before it counts as hanging"] = 3600.0
    tick: Annotated[Seconds, "pause between two looks at the guests of each node of a quiet cluster"] = 2.85
    concurrency: Annotated[int, "calls that Proxmox VE is asked for at the same time"] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.endpoint:
            raise ValueError("endpoint is missing: give --endpoint https://NODE:8006 of a node or of several")
        for url in self.endpoint:
            _check_endpoint(url, insecure=self.insecure_skip_verify)
        for fingerprint in self.fingerprint:
            digits = fingerprint.replace(":", "")
            if len(digits) != 64 or set(digits) - set(string.hexdigits):
                raise ValueError("fingerprint: is not the SHA-256 (64 hexadecimal digits) of a certificate")
        if self.fingerprint and self.insecure_skip_verify:
            raise ValueError("insecure_skip_verify contradicts fingerprint: leave one of them out")
        if self.credentials_directory is None:
            raise ValueError(
                "credentials_directory is missing: give one with the files `token_id` and `token_secret`, "
                "or `username` and `password`"
            )
        if not LOWEST_VMID <= self.vmid_first <= self.vmid_last <= HIGHEST_VMID:
            raise ValueError(f"vmid_first, vmid_last: give a range within {LOWEST_VMID} to {HIGHEST_VMID}")
        for entry in self.disk_directory:
            storage, equals, directory = entry.partition("=")
            if not storage or not equals or not directory.startswith("/"):
                raise ValueError(f"disk_directory: {entry!r} is not STORAGE=/DIRECTORY")
        if self.boot_delivery == "snippets" and not (self.snippets_storage and self.snippets_directory):
            raise ValueError("boot_delivery: snippets need snippets_storage and snippets_directory")
        for name in ("call_timeout", "task_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1s")
        if self.tick <= 0:
            raise ValueError("tick: more than 0s")
        if self.concurrency < 1:
            raise ValueError("concurrency: at least 1")

    @property
    def disk_directories(self) -> dict[str, Path]:
        """Where storages are mounted here."""
        return {
            storage: Path(directory) for storage, _, directory in (each.partition("=") for each in self.disk_directory)
        }

    @property
    def vmids(self) -> range:
        """VMIDs that new machines may get."""
        return range(self.vmid_first, self.vmid_last + 1)


def _check_endpoint(url: str, *, insecure: bool) -> None:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("endpoint: holds credentials; put them into files of the credentials directory")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"endpoint: {url!r} is not the URL of a node; give https://NODE:8006")
    if parts.scheme == "http" and not insecure:
        raise ValueError("endpoint: http sends the credentials in plaintext; use https, or set insecure_skip_verify")
