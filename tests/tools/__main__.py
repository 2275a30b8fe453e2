"""`python -m tools`: build the programs in Go that tests run, before they run.

The first time it takes minutes, which is longer than a test may take. `python -m tools cluster` builds those of
tests/cluster alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from cluster.chart import cert_manager, definitions_of_others, executable, kustomize
from cluster.cluster import programs
from cluster.policies import engine
from grpcurl import built as grpcurl
from simulators.vcsim.process import built as vcsim
from stack.images import collector, compose2

from .gomodule import GoUnavailableError

Build = Callable[[], object]
SETS: dict[str, tuple[Build, ...]] = {
    "cluster": (programs, executable, kustomize, cert_manager, engine, definitions_of_others),
    "others": (vcsim, grpcurl, collector, compose2),
}


def main() -> int:
    """Exit status 1 only where nothing may be missing (REQUIRE_REAL=1), or a set is asked for that is none."""
    asked = sys.argv[1:] or list(SETS)
    if unknown := set(asked) - set(SETS):
        print(f"no set is called {', '.join(sorted(unknown))}: there are {', '.join(SETS)}", file=sys.stderr)
        return 1
    lacking = [problem for name in asked for build in SETS[name] if (problem := failure(build))]
    for problem in lacking:
        print(f"tests are skipped for want of a program: {problem}")
    if not lacking:
        print("programs in Go for tests: all are built")
    return 1 if lacking and os.environ.get("REQUIRE_REAL", "") not in ("", "0") else 0


def failure(build: Build) -> str:
    """Why it cannot be built here; empty: it is built."""
    try:
        build()
    except GoUnavailableError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
