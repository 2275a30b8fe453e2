"""Fixtures; what they are made of is in controller_harness.py."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves siblings out

from controller_harness import Cluster, api_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One API server for all tests that need no fresh one; each test uses a namespace of its own."""
    async with api_server(tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


NUMBERS = itertools.count(1)


@pytest.fixture
def namespace() -> str:
    """A name for this test's namespace."""
    return f"t{next(NUMBERS)}"
