"""Real processes and faults: play some seeds together, or soak.

    python -m faults.real libvirt 7 8 9
    python -m faults.real vsphere --soak 10

Exit status 1: something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from .installation import LEASE, Installation
from .runs import Runs, Violation, first
from .sites import SITES
from .soak import Soak


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="faults.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(SITES), help="the provider")
    parser.add_argument("seeds", type=int, nargs="*", help="played at the same time")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="random work and faults for so long")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the soak")
    arguments = parser.parse_args()
    if bool(arguments.seeds) == bool(arguments.soak):
        parser.error("give seeds, or --soak")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))  # so that everything is put away
    try:
        with Installation(arguments.kind, lease=() if arguments.soak else LEASE) as installation:
            asyncio.run(_work(Runs(installation, loud=True), arguments))
    except Violation as violation:
        print(violation)
        return 1
    if left := leftovers(installation.root):
        print("left behind:", *left, sep="\n  ")
        return 1
    return 0


async def _work(runs: Runs, arguments: argparse.Namespace) -> None:
    await runs.begin()
    if arguments.seeds:
        await runs.play(arguments.seeds)
        return
    soak = Soak(runs, arguments.seed, arguments.soak * 60)
    print(f"seed {arguments.seed}; pid {os.getpid()}")
    try:
        await soak.run()
    except Exception as error:
        text = "\n".join([*runs.story, runs.installation.said(), str(first(error)), f"seed {arguments.seed}"])
        raise Violation(text) from error
    finally:
        print(", ".join(f"{what}: {count}" for what, count in sorted(soak.done.items())))


def leftovers(root: Path) -> list[str]:
    """What is there of an installation that has ended: its directory, and processes that we or it started."""
    left = [str(root)] if root.exists() else []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        if str(root) in command or parent == os.getpid():
            left.append(f"process {entry.name}: {command}")
    return left


if __name__ == "__main__":
    sys.exit(main())
