"""A connection to a simulated vCenter, and the small words that the tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from common.clock import SystemClock
from provider_vsphere.__main__ import build
from provider_vsphere.driver import VsphereDriver
from provider_vsphere.session.login import Endpoint
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.settings import VsphereSettings
from provider_vsphere.stamps import stamp
from pyVmomi import vim
from simulators.vcsim import Vcsim, own_vcsim, vcsim

__all__ = ["own_vcsim", "vcsim"]  # fixtures

OWNER = "tests"


@pytest.fixture
def credentials(vcsim: Vcsim, tmp_path: Path) -> Path:
    """What the Secret of a Provider becomes: a directory of files."""
    return credentials_of(vcsim, tmp_path)


def credentials_of(server: Vcsim, directory: Path) -> Path:
    (directory / "username").write_text(server.user)
    (directory / "password").write_text(server.password + "\n")
    (directory / "ca.crt").write_text(server.ca)
    return directory


@asynccontextmanager
async def connected(server: Vcsim, credentials: Path, **settings: Any) -> AsyncIterator[Vsphere]:
    """In session."""
    vsphere = Vsphere(Endpoint(server.url, credentials=credentials), clock=SystemClock(), **settings)
    async with vsphere.session():
        yield vsphere


def driver_on(server: Vcsim, home: Path, **settings: str) -> VsphereDriver:
    """The provider's own driver, as its command builds it; not in session."""
    credentials_of(server, home)
    return build(
        VsphereSettings(endpoint=server.url, credentials_directory=home, owner=OWNER, insecure=True, **settings)  # type: ignore[arg-type]  # texts, all of them
    )


@pytest.fixture
async def vsphere(vcsim: Vcsim, credentials: Path) -> AsyncIterator[Vsphere]:
    """On the module's simulator, whose switches are put back afterwards."""
    async with connected(vcsim, credentials) as vsphere:
        yield vsphere
    vcsim.control("reset")


def one(vsphere: Vsphere, *kinds: str) -> Entity:
    """Any entity of these kinds."""
    return next(vsphere.tree.of_kind(*kinds))


def create(vsphere: Vsphere, uid: str, name: str) -> Callable[..., Any]:
    """Begins the task that makes a small stamped machine."""
    datastore, folder = one(vsphere, "Datastore"), one(vsphere, "Datacenter").facts["vmFolder"]
    pool = one(vsphere, "ClusterComputeResource").facts["resourcePool"]
    record = stamp.Stamp(uid, "lab", name, OWNER)
    spec = vim.vm.ConfigSpec(
        name=name,
        instanceUuid=uid,
        numCPUs=1,
        memoryMB=64,
        guestId="otherGuest64",
        files=vim.vm.FileInfo(vmPathName=f"[{datastore.name}]"),
        extraConfig=[vim.option.OptionValue(key=stamp.KEY, value=record.text())],
    )

    def begin(login: Any) -> Any:
        stub = login.instance._stub
        return vim.Folder(folder, stub).CreateVM_Task(spec, vim.ResourcePool(pool, stub), None)

    return begin


async def eventually(holds: Callable[[], object], changes: Callable[[], Any]) -> None:
    """Wait for changes until something holds."""
    while not holds():
        await changes()
