"""One stack at a time, for all tests of a file, which take their turns with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .compose import PROFILES, Stack
from .hypervisors import Hypervisors

ENGINE = os.environ.get("STACK_ENGINE", "")
# Without an engine and its images, which `make test-stack` makes, there is nothing to run.
collect_ignore = [] if ENGINE else ["test_stack.py", "test_yours.py"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """What `docker-compose up` starts, with the example; nothing of it is left at the end."""
    made = Stack(ENGINE, tmp_path_factory.mktemp("keys"))
    made.clear()  # what a killed run left
    try:
        made.compose("build", COMPOSE_PROFILES=PROFILES)  # as v2 did before: the layers are there
        made.up()
        made.wait("the administrator's kubeconfig", (made.keys / "kubeconfig").exists)
        made.kubectl("apply", "--filename", "examples/three-hypervisors/")
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def yours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Under Compose v2, with k3s and with hypervisors that are somebody's own; the example is applied."""
    hypervisors = Hypervisors(tmp_path_factory.mktemp("secrets"))
    settings = {"COMPOSE_PROFILES": "k3s,real,jaeger", **hypervisors.settings()}
    made = Stack(ENGINE, tmp_path_factory.mktemp("keys"), settings, project="virtrigaud-test-yours", v2=True)
    made.clear()
    try:
        hypervisors.start(made.docker)
        made.up()
        hypervisors.join(made.docker, f"{made.project}_default")
        example = ("apply", "--filename", "examples/three-hypervisors/")
        made.wait("the cluster takes the example", lambda: bool(made.kubectl(*example)))
        yield made
    finally:
        hypervisors.close(made.docker)
        made.clear()
