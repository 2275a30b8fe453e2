"""`python -m stack`: an engine, the images, and the tests that need both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.gomodule import GoUnavailableError

from .engine import Engine, EngineUnavailableError
from .images import build_all


def main() -> int:
    """The tests' exit status; where no engine can run, 0 unless nothing may be missing (REQUIRE_REAL=1)."""
    try:
        with Engine() as engine:
            build_all(engine)
            tests = [sys.executable, "-m", "pytest", str(Path(__file__).parent), *sys.argv[1:]]
            environment = {**engine.environment(), "STACK_ENGINE": engine.host}
            status = subprocess.run(tests, env=environment, check=False, cwd=Path(__file__).parents[2]).returncode
            if engine.own:
                engine.run("image", "prune", "--force", "--filter", "dangling=true")
            return status
    except (EngineUnavailableError, GoUnavailableError) as error:
        print(f"tests of the stack are skipped: {error}")
        return 1 if os.environ.get("REQUIRE_REAL", "") not in ("", "0") else 0


if __name__ == "__main__":
    sys.exit(main())
