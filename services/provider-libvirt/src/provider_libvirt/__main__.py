"""Command `virtrigaud-provider-libvirt`."""

from __future__ import annotations

import sys

from common.clock import SystemClock
from providerkit.runner import run_provider

from provider_libvirt.driver import LibvirtDriver
from provider_libvirt.guests import Guests
from provider_libvirt.hypervisor import Hypervisor
from provider_libvirt.images import Images
from provider_libvirt.making import Config
from provider_libvirt.reading import Reader
from provider_libvirt.settings import LibvirtSettings


def build(settings: LibvirtSettings) -> LibvirtDriver:
    """Every object of the provider, from its settings; nothing is opened."""
    clock = SystemClock()
    hypervisor = Hypervisor(
        settings.endpoint,
        clock=clock,
        credentials=settings.credentials_directory,
        call_timeout=settings.call_timeout,
    )
    images = Images(
        hypervisor,
        pool=settings.pool,
        directories=settings.image_directory,
        policy=settings.image_policy(),
        limit=settings.image_limit,
        spool=settings.spool_directory,
        privileged=not settings.session,
    )
    config = Config(
        owner=settings.owner,
        pool=settings.pool,
        pool_path=settings.default_pool_path(),
        serial_log=settings.serial_log,
    )
    return LibvirtDriver(
        hypervisor, images, Guests(hypervisor, clock), Reader(hypervisor, clock), config, settings.virtualization
    )


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    return run_provider(build, LibvirtSettings, "virtrigaud-provider-libvirt", argv)


if __name__ == "__main__":
    sys.exit(main())
