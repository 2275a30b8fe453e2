"""One stack for all tests, which take their turns with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .compose import PROJECT, Stack

ENGINE = os.environ.get("STACK_ENGINE", "")
# Without an engine and its images, which `make test-stack` makes, there is nothing to run.
collect_ignore = [] if ENGINE else ["test_stack.py"]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything up, the example applied; nothing of it is left at the end."""
    made = Stack(ENGINE, tmp_path_factory.mktemp("keys"))
    made.compose("down", "--volumes", "--remove-orphans")  # what a killed run left
    try:
        made.compose("up", "--detach", "--no-build")
        made.wait("the administrator's kubeconfig", (made.keys / "kubeconfig").exists)
        made.kubectl("apply", "--filename", "examples/three-hypervisors/")
        yield made
    finally:
        made.compose("down", "--volumes", "--remove-orphans")
    label = f"label=com.docker.compose.project={PROJECT}"
    for kind in ("container", "network", "volume"):
        listed = [kind, "ls", "--quiet", "--filter", label, *(["--all"] if kind == "container" else [])]
        assert made.docker(*listed) == "", f"a {kind} is left"
