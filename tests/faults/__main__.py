"""Run seeds, and play failing ones again with as few faults as will do: `python -m faults --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .schedule import Fault
from .seeds import RATES, Failure, run
from .shrink import shrink
from .simulation import Report, simulate


def main() -> int:
    """Exit status 1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("first", type=int, help="the seed")
    parser.add_argument("end", type=int, nargs="?", help="run the seeds from the first to before this one")
    parser.add_argument("--rate", type=float, help=f"how often faults strike (default: by turns {RATES})")
    parser.add_argument("--story", action="store_true", help="tell what went wrong in the run, in order")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.end if arguments.end is not None else arguments.first + 1)
    failures = run(seeds, arguments.rate)
    for failure in failures:
        _explain(failure, story=arguments.story)
    print(f"{len(seeds)} runs, {len(failures)} failed")
    return 1 if failures else 0


def _explain(failure: Failure, *, story: bool) -> None:
    print(f"seed {failure.seed} at {failure.rate:g}: {failure.violation}", flush=True)
    last: list[Report] = []

    def fails(faults: Sequence[Fault]) -> bool:
        report = simulate(failure.seed, only=faults)
        if report.violation:
            last[:] = [report]
        return bool(report.violation)

    for fault in shrink(failure.struck, fails):
        print(f"    {fault}")
    if last:
        print(f"  with these: {last[0].violation}", flush=True)
        if story:
            print("\n".join(last[0].story))


if __name__ == "__main__":
    sys.exit(main())
