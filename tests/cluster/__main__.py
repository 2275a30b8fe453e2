"""Build what these tests run, before they run: for the first time it takes minutes, which no test should wait for."""

from __future__ import annotations

import os
import sys

from tools.gomodule import GoUnavailableError

from .chart import cert_manager, definitions_of_others, executable, kustomize
from .cluster import programs
from .policies import engine


def main() -> int:
    """Exit status 1 only where nothing may be missing (REQUIRE_REAL=1)."""
    try:
        built = [*programs(), executable(), kustomize(), cert_manager(), engine()]
        definitions_of_others()
    except GoUnavailableError as error:
        print(f"tests on a cluster are skipped: {error}")
        return 1 if os.environ.get("REQUIRE_REAL", "") not in ("", "0") else 0
    print(f"built for tests on a cluster: {', '.join(path.name for path in built)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
