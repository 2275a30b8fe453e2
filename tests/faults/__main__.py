"""Run seeds, and play failing ones again with as few faults as will do: `python -m faults --help`."""

from __future__ import annotations

import argparse
import sys

from .seeds import RATES, Failure, Rows, Shrunk, rows

MOST_SHRUNK = 20
"""Failures that are shrunk; of a row in which everything fails, so many tell enough."""


def main() -> int:
    """Exit status 1 when a seed failed, 130 when somebody lost patience."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("first", type=int, help="the seed")
    parser.add_argument("end", type=int, nargs="?", help="run the seeds from the first to before this one")
    parser.add_argument("--rate", type=float, help=f"how often faults strike (default: by turns {RATES})")
    parser.add_argument("--workers", type=int, default=1, help="processes to run them in (default: %(default)s)")
    parser.add_argument("--story", action="store_true", help="tell what went wrong in failing runs, in order")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.end if arguments.end is not None else arguments.first + 1)
    ended, failures, interrupted = 0, [], False
    with rows(max(1, arguments.workers)) as row:
        try:
            for failure in row.run(seeds, arguments.rate):
                ended += 1
                if failure is not None:
                    failures.append(failure)
                    print(failure, flush=True)
            _explain(row, failures[:MOST_SHRUNK], story=arguments.story)
        except KeyboardInterrupt:
            interrupted = True
    print(f"{ended} runs, {len(failures)} failed" + (f"; {len(seeds) - ended} were not run" if interrupted else ""))
    return 130 if interrupted else 1 if failures else 0


def _explain(row: Rows, failures: list[Failure], *, story: bool) -> None:
    """Shrink what failed, the lowest seed first."""
    for each in row.shrink(sorted(failures, key=lambda failure: failure.seed)):
        _print(each, story=story)


def _print(shrunk: Shrunk, *, story: bool) -> None:
    print(f"{shrunk.failure}\n  fails with these {len(shrunk.faults)} faults already: {shrunk.violation}")
    for fault in shrunk.faults:
        print(f"    {fault}")
    if story:
        print("\n".join(shrunk.story))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
