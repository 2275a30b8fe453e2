"""Command `virtrigaud-provider-vsphere`."""

from __future__ import annotations

import sys

from common.clock import SystemClock
from providerkit.runner import run_provider

from provider_vsphere.around.tagging import Tags
from provider_vsphere.cloning import Cloner
from provider_vsphere.content.disks import Disks
from provider_vsphere.content.nfc import Nfc
from provider_vsphere.content.uploads import Uploads
from provider_vsphere.creating import Creator
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.images.images import Images
from provider_vsphere.images.importing import Importer
from provider_vsphere.images.library import Library
from provider_vsphere.places import Places
from provider_vsphere.session.login import Endpoint
from provider_vsphere.session.transfers import Transfers
from provider_vsphere.session.vapi import Vapi
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.settings import VsphereSettings
from provider_vsphere.snapshots import Snapshots


def build(settings: VsphereSettings) -> VsphereDriver:
    """Every object of the provider, from its settings; nothing is opened."""
    clock = SystemClock()
    endpoint = Endpoint(
        settings.endpoint,
        thumbprint=settings.thumbprint,
        insecure_skip_verify=settings.insecure_skip_verify,
        credentials=settings.credentials_directory,
    )
    vsphere = Vsphere(
        endpoint,
        clock=clock,
        call_timeout=settings.call_timeout,
        task_timeout=settings.task_timeout,
        concurrency=settings.concurrency,
    )
    places = Places(vsphere.tree, settings.defaults())
    transfers = Transfers(endpoint)
    nfc = Nfc(vsphere, transfers, clock)
    vapi = Vapi(vsphere, call_timeout=settings.call_timeout)
    importer = Importer(
        vsphere,
        places,
        nfc,
        clock,
        owner=settings.owner,
        directories=settings.image_directory,
        policy=settings.image_policy(),
        limit=settings.image_limit,
        library=Library(vapi, transfers, clock),
    )
    images = Images(vsphere, places, importer, owner=settings.owner)
    snapshots = Snapshots(vsphere, owner=settings.owner)
    creator = Creator(vsphere, places, images, clock, owner=settings.owner)
    cloner = Cloner(vsphere, places, creator, snapshots, clock, owner=settings.owner)
    tags = Tags(vsphere, vapi, owner=settings.owner)
    disks = Disks(vsphere, nfc, transfers, snapshots, owner=settings.owner)
    uploads = Uploads(vsphere, nfc, disks, owner=settings.owner)
    return VsphereDriver(
        vsphere, places, images, creator, tags, disks, uploads, snapshots, cloner, clock,
        owner=settings.owner, options=settings.extra_config_keys, concurrency=settings.concurrency,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    return run_provider(build, VsphereSettings, "virtrigaud-provider-vsphere", argv)


if __name__ == "__main__":
    sys.exit(main())
