"""One stack for all tests; one namespace for each."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from libvirtd.fixtures import guest_image, libvirtd, missing
from libvirtd.private import PrivateLibvirtd

from .stack import Object, Stack, manifest

__all__ = ["guest_image", "libvirtd"]  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, Path(__file__).parent)


def mark(items: list[pytest.Item], folder: Path) -> None:
    """Every test of a folder is one of the whole stack, with real parts."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def stack(libvirtd: PrivateLibvirtd, guest_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded stack with a provider on the private libvirtd, a tiny class and the guest image, for all."""
    if shutil.which("kubectl") is None:
        missing("kubectl is not installed (make setup installs it)")
    stack = Stack(tmp_path_factory.mktemp("stack"), libvirtd, guest_image)
    stack.up()
    try:
        stack.apply(*shared_objects(libvirtd.uri))
        stack.wait("provider", "local", "condition=Ready")
        yield stack
    finally:
        stack.down()


def shared_objects(uri: str) -> list[Object]:
    """What all tests use, open to every namespace."""
    everyone: Object = {"consumerNamespaceSelector": {}}
    return [
        manifest("Provider", "local", {"type": "libvirt", "endpoint": uri, **everyone}),
        manifest("VMClass", "tiny", {"cpu": 1, "memory": "192Mi", **everyone}),
        manifest("VMImage", "guest", {"source": {"libvirt": {"path": "virtrigaud-guest.qcow2"}}, **everyone}),
    ]


@pytest.fixture
def namespace(stack: Stack, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own with a network named `wire`; its machines are gone at the end."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    name = f"{words[:40].strip('-')}-{zlib.crc32(request.node.nodeid.encode()):08x}"
    stack.kubectl("create", "namespace", name)
    wire = {"network": {"libvirt": {"networkName": stack.libvirtd.network}}}
    stack.apply(manifest("VMNetworkAttachment", "wire", wire, name))
    yield name
    for kind in ("vm", "vmimage", "provider"):  # a provider goes last: the others need it to go
        stack.kubectl("delete", kind, "--all", "-n", name, "--timeout=90s")
