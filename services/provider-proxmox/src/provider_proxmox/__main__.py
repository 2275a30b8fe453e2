"""Command `virtrigaud-provider-proxmox`."""

from __future__ import annotations

import sys
from pathlib import Path

from common.clock import SystemClock
from providerkit.runner import run_provider

from provider_proxmox.adoption import Adoption
from provider_proxmox.claiming import Claims
from provider_proxmox.cloning import Cloner
from provider_proxmox.console import Consoles
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.content.disks import Disks
from provider_proxmox.content.mounted import Mounted
from provider_proxmox.content.snippets import Snippets
from provider_proxmox.content.ssh import Ssh
from provider_proxmox.content.uploads import Uploads
from provider_proxmox.creating import Creator, Defaults
from provider_proxmox.driver import ProxmoxDriver
from provider_proxmox.guests import Guests
from provider_proxmox.ha import Ha
from provider_proxmox.images.building import Builder
from provider_proxmox.images.fetching import Fetcher
from provider_proxmox.images.images import Images
from provider_proxmox.images.importing import Importer
from provider_proxmox.keeping import Keeper
from provider_proxmox.migrating import Moving
from provider_proxmox.placing import Places
from provider_proxmox.power import Power
from provider_proxmox.reconfiguring import Reconfiguring
from provider_proxmox.removing import Remover
from provider_proxmox.session.login import Endpoint
from provider_proxmox.session.pve import Pve
from provider_proxmox.settings import ProxmoxSettings
from provider_proxmox.snapshots import Snapshots


def build(settings: ProxmoxSettings) -> ProxmoxDriver:
    """Every object of the provider, from its settings; nothing is opened."""
    clock, owner = SystemClock(), settings.owner
    endpoint = Endpoint(
        tuple(settings.endpoint),
        fingerprints=tuple(settings.fingerprint),
        insecure_skip_verify=settings.insecure_skip_verify,
        credentials=settings.credentials_directory,
    )
    pve = Pve(
        endpoint,
        clock=clock,
        call_timeout=settings.call_timeout,
        task_timeout=settings.task_timeout,
        tick=settings.tick,
        concurrency=settings.concurrency,
    )
    guests = Guests(pve, owner=owner)
    places = Places(pve.index, clock, default_nodes=settings.default_nodes)
    snippets = Snippets(settings.snippets_storage, Path(settings.snippets_directory))
    boot = BootData(
        pve,
        way=settings.boot_delivery,
        iso_storage=settings.iso_storage,
        snippets=snippets if settings.snippets_storage and settings.snippets_directory else None,
    )
    fetcher = Fetcher(
        pve,
        directories=settings.image_directory,
        policy=settings.image_policy(),
        limit=settings.image_limit,
        spool=settings.spool_directory,
        by_node=settings.node_downloads,
    )
    builder = Builder(pve, owner=owner, ids=settings.vmids, pool=settings.default_pool)
    importer = Importer(
        pve,
        fetcher,
        builder,
        clock,
        owner=owner,
        nodes=settings.default_nodes,
        storage=settings.default_storage,
        import_storage=settings.import_storage,
    )
    images = Images(pve, builder, importer, owner=owner)
    power = Power(pve, guests, clock)
    claims = Claims(pve, guests, clock, ids=settings.vmids)
    remover = Remover(pve, guests, claims, power, boot, Keeper(pve, ids=settings.vmids))
    snapshots = Snapshots(pve, guests, owner=owner)
    defaults = Defaults(settings.default_storage, settings.default_pool, settings.default_bridge)
    creator = Creator(pve, guests, claims, places, images, boot, remover, clock, owner=owner, defaults=defaults)
    ssh = Ssh(pve, user=settings.ssh_user, credentials=settings.credentials_directory, port=settings.ssh_port)
    found = Disks(pve, guests, snapshots, ssh, Mounted(settings.disk_directories))
    uploads = Uploads(pve, guests, found, directory=settings.spool_directory, import_storage=settings.import_storage)
    change = Reconfiguring(
        pve, guests, places, boot, snapshots,
        default_bridge=settings.default_bridge, default_storage=settings.default_storage,
    )  # fmt: skip
    return ProxmoxDriver(
        pve, guests, images, creator, remover, power, change, snapshots, Consoles(pve, guests, clock),
        Adoption(pve, guests, clock), Ha(pve, guests, change), Moving(pve, guests, change, clock),
        Cloner(pve, guests, snapshots, creator), found, uploads,
        owner=owner, concurrency=settings.concurrency,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    return run_provider(build, ProxmoxSettings, "virtrigaud-provider-proxmox", argv)


if __name__ == "__main__":
    sys.exit(main())
