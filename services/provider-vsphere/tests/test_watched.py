"""What the collector subscribes to fits the server's API."""

from __future__ import annotations

from typing import Any

import pytest
from provider_vsphere.session import watched
from pyVmomi import SoapAdapter, vim
from pyVmomi.Version import IsChildVersion

NEWER = "guest.customizationInfo"


@pytest.mark.parametrize(
    ("version", "there"),
    [("vim.version.v7_0", False), ("vim.version.v7_0_2_0", True), ("vim.version.v8_0_3_0", True)],
)
def test_paths_that_a_server_lacks_are_left_out(version: str, there: bool) -> None:
    """One of them would be refused with the whole filter, and nothing be seen at all."""
    stub = SoapAdapter.SoapStubAdapter(host="localhost", version=version)
    filters: list[Any] = [
        watched.machine_filter([vim.VirtualMachine("vm-1", stub)]),
        watched.inventory_filter(vim.view.ContainerView("view", stub), vim.Folder("root", stub)),
    ]
    for each in filters:
        (paths,) = (spec.pathSet for spec in each.propSet if spec.type is vim.VirtualMachine)
        assert (NEWER in paths) is there
        assert "name" in paths


OLDEST = "vim.version.v7_0"
"""The first API of the servers that we support."""
READS: list[tuple[Any, tuple[str, ...]]] = [
    *watched.PROPERTIES.items(),
    (vim.Task, (*watched.TASK, *watched.RECENT_TASK)),
    (vim.HttpNfcLease, watched.LEASE),
    (vim.event.EventHistoryCollector, (watched.LATEST_EVENTS,)),
    (vim.alarm.Alarm, ("info.name",)),
    (vim.vm.Snapshot, ("config.hardware.device", watched.STAMP)),
]


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in READS for path in paths])
def test_every_path_is_one_of_the_declared_types(kind: Any, path: str) -> None:
    """A server judges a path by the types that its API declares, whatever the object at hand may be more than that."""
    declared = kind
    for step in path.partition("[")[0].split("."):
        found = next((each for each in _properties(declared) if each.name == step), None)
        assert found is not None, f"{declared.__name__} has no {step}"
        assert IsChildVersion(OLDEST, found.version) or path == NEWER, f"{step} came with {found.version}"
        declared = found.type


def _properties(declared: Any) -> list[Any]:
    properties: list[Any] = list(declared._GetPropertyList(True))
    return properties
