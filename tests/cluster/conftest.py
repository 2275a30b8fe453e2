"""One cluster, with one stack on it, for all tests; one namespace for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import mark, namespace, shared_objects
from libvirtd.fixtures import guest_image, libvirtd, missing
from libvirtd.private import PrivateLibvirtd
from tools.gomodule import GoUnavailableError

from .cluster import Cluster
from .stack import ClusterStack

__all__ = ["guest_image", "libvirtd", "namespace"]  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, Path(__file__).parent)


def start_cluster(home: Path, **options: Any) -> Iterator[Cluster]:
    """The body of a fixture of any scope: a real Kubernetes API. Building it takes minutes, once.

    Args:
        options: as Cluster takes them.
    """
    running, reason = Cluster(home, **options), ""
    try:
        running.__enter__()
    except GoUnavailableError as error:
        reason = str(error)
    if reason:
        missing(reason)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that the stack is on."""
    yield from start_cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def stack(
    cluster: Cluster, libvirtd: PrivateLibvirtd, guest_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterStack]:
    """The controller on the cluster, with a provider on the private libvirtd, a tiny class and the guest image."""
    stack = ClusterStack(tmp_path_factory.mktemp("stack"), libvirtd, guest_image, cluster)
    try:
        stack.up()
        stack.apply(*shared_objects(libvirtd.uri))
        stack.wait("provider", "local", "condition=Ready")
        yield stack
        log = (stack.home / "logs" / "controller.log").read_text()
        assert "forbidden" not in log, "the chart gives the controller too few rights"
    finally:
        stack.down()
