"""`make bench`: measure, print the table of each section, and publish them under docs/performance.

python -m bench [SECTION...] [--large] [--into DIRECTORY] [--render]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from . import create, drift, fairness, fleet, proxmox, throughput, vsphere
from .figures import PERFORMANCE, Figure, publish, render

Measure = Callable[[], Coroutine[Any, Any, list[Figure]]]


def sections(large: bool) -> dict[str, Measure]:
    """What can be measured, in the order in which it is.

    Args:
        large: with what takes much longer.
    """
    found = [*fleet.FOUND, *([fleet.LARGE] if large else [])]
    return {
        "create": create.measure,
        "drift": drift.measure,
        "throughput": throughput.measure,
        "fairness": fairness.measure,
        "idle": fleet.measure_idle,
        "growth": partial(fleet.measure_growth, found=found),
        "proxmox": proxmox.measure,
        "vsphere": vsphere.measure,
    }


def main(argv: list[str] | None = None) -> int:
    """Measure the sections that were named, or all."""
    known = sections(large=False)
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"one of {', '.join(known)}; all by default")
    parser.add_argument("--large", action="store_true", help="with 50,000 machines besides")
    parser.add_argument("--into", type=Path, default=PERFORMANCE, metavar="DIRECTORY", help="where to publish")
    parser.add_argument("--render", action="store_true", help="measure nothing; draw what the JSON says")
    options = parser.parse_args(argv)
    if unknown := set(options.sections) - set(known):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.render:
        render(options.into)
        return 0
    for name, measure in sections(options.large).items():
        if name in options.sections or not options.sections:
            print(f"== {name}", flush=True)
            publish(name, asyncio.run(measure()), options.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
