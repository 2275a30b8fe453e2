"""What the collector subscribes to fits the server's API."""

from __future__ import annotations

from typing import Any

import pytest
from provider_vsphere import watched
from pyVmomi import SoapAdapter, vim

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
