"""The servers that targets keep are ended with the module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz import apiserver, wire


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:
    yield
    apiserver.close()
    wire.close()
