"""A TPM is refused before anything is made, with the cure in the refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from common.clock import ManualClock
from common.errors import ResourceNotFoundError
from provider_vsphere.around import keyproviders
from provider_vsphere.around.keyproviders import REMEMBERED_SECONDS, KeyProviders
from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin
from simulators.vcsim.fixtures import start_vcsim

from .conftest import connected, credentials_of, one


def provider(
    id: str, *entities: str, everywhere: bool = False, kind: str = "vCenter", backup: bool | None = None
) -> Any:
    return vim.encryption.KmipClusterInfo(
        clusterId=vim.encryption.KeyProviderId(id=id),
        useAsDefault=everywhere,
        useAsEntityDefault=[vim.ManagedEntity(moid) for moid in entities],
        managementType=kind,
        hasBackup=backup,
    )


@pytest.mark.parametrize(
    ("providers", "found"),
    [
        ([], None),
        ([provider("a")], None),
        ([provider("a", everywhere=True)], "a"),
        ([provider("a", everywhere=True), provider("b", "datacenter-1")], "b"),
        ([provider("b", "datacenter-1"), provider("c", "cluster-1")], "c"),
        ([provider("d", "cluster-2")], None),
    ],
)
def test_the_nearest_default_counts(providers: list[Any], found: str | None) -> None:
    assert keyproviders.default(providers, ["cluster-1", "folder-1", "datacenter-1"]) == found


def test_a_native_provider_must_be_backed_up() -> None:
    kinds = [provider("a", kind="nativeProvider", backup=False), provider("b", kind="nativeProvider", backup=True)]
    assert [each.clusterId.id for each in keyproviders.usable([*kinds, provider("c")])] == ["b", "c"]


@pytest.mark.real
async def test_a_key_provider_makes_the_tpm_possible(own_vcsim: Vcsim, tmp_path: Path) -> None:
    clock = ManualClock()
    async with connected(own_vcsim, credentials_of(own_vcsim, tmp_path)) as vsphere:
        keys, cluster = KeyProviders(vsphere, clock), one(vsphere, "ClusterComputeResource")
        assert not await keys.are_there()
        with pytest.raises(
            ResourceNotFoundError, match=r"create x: a TPM needs a key provider, and .* has none; config"
        ):
            await keys.require(cluster, "create x")
        with Admin(own_vcsim) as admin:
            admin.add_key_provider()
        own_vcsim.control("requests/reset")
        assert not await keys.are_there(), "remembered for a while"
        assert not own_vcsim.requests().get("ListKmipServers")
        await clock.advance(REMEMBERED_SECONDS)
        assert await keys.are_there()
        await keys.require(cluster, "create x")


@pytest.mark.real
async def test_an_esxi_host_has_none(tmp_path: Path) -> None:
    for host in start_vcsim(esx=True):
        async with connected(host, credentials_of(host, tmp_path)) as vsphere:
            keys = KeyProviders(vsphere, ManualClock())
            assert not await keys.are_there()
            with pytest.raises(ResourceNotFoundError):
                await keys.require(one(vsphere, "ComputeResource"), "create x")
