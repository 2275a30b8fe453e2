"""Fuzz targets guided by coverage: python -m fuzz SECONDS [TARGET...]; each target in a process of its own."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = "--child"
CACHE = Path(__file__).parents[2] / ".cache" / "fuzz"
"""What was found worth keeping, by target: the next run goes on from there."""


def main() -> int:
    """Returns: how many targets broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("seconds", type=int, help="for each target")
    parser.add_argument("targets", nargs="*", help="all of them unless given")
    parser.add_argument(CHILD, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _fuzz(given.targets[0], given.seconds)
    from fuzz import registry

    known = registry.load()
    if strange := sorted(set(given.targets) - set(known)):
        parser.error(f"there is no target {', '.join(strange)}; there are {', '.join(sorted(known))}")
    broken = [name for name in given.targets or sorted(known) if not _run(name, given.seconds)]
    print(f"{len(broken)} targets broke a promise: {', '.join(broken)}" if broken else "every promise was kept")
    return len(broken)


def _run(name: str, seconds: int) -> bool:
    """One target in a process of its own, whatever ends it."""
    from fuzz.registry import CRASHES, TARGETS

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        crash = Path(directory, "input")
        command = [sys.executable, "-m", "fuzz", CHILD, str(seconds), name]
        done = subprocess.run(command, env=_environment(crash), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            took = f"{time.monotonic() - started:.0f} s"
            print(f"{name}: kept its promises for {took}{_figures(done.stderr)}", flush=True)
            return True
        if not crash.exists():
            print(f"{name}: cannot be fuzzed\n{done.stderr[-3000:]}", flush=True)
            return False
        data = crash.read_bytes()
    kept = CRASHES / TARGETS[name].name / hashlib.sha256(data).hexdigest()[:16]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    told = [line for line in done.stderr.splitlines() if "Error" in line or line.startswith("  File")]
    print(f"{name}: broke a promise; the input is {kept}\n" + "\n".join(told[-12:]), flush=True)
    return False


def _environment(crash: Path) -> dict[str, str]:
    import os

    return {**os.environ, "FUZZ_CRASH": str(crash)}


def _figures(said: str) -> str:
    last = next((line for line in reversed(said.splitlines()) if "cov:" in line), "")
    words = last.split()
    return "".join(
        f", {label} {words[words.index(word) + 1]}"
        for word, label in (("cov:", "edges"), ("exec/s:", "inputs/s"))
        if word in words
    )


def _fuzz(name: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import os
    import random

    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzz import mutate, registry

        target = registry.load(name.partition(".")[0])[name]
    crash = Path(os.environ["FUZZ_CRASH"])
    corpus, seeds = CACHE / name, target.seeds + target.bad
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except BaseException:
            crash.write_bytes(data)
            raise

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        """Half of them blindly, as libFuzzer does; half so that what is around the change stays well-formed."""
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutate.mutated(rng, data, seeds, most)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={registry.LONGEST}",
        "-timeout=60",
        f"-artifact_prefix={crash}.",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run, custom_mutator=mutated)
    atheris.Fuzz()


_INSTRUMENTED = [
    "apiserver",
    "common",
    "controller",
    "kinds",
    "provider_libvirt",
    "provider_proxmox",
    "provider_vsphere",
    "providerkit",
    "vrtg",
]

if __name__ == "__main__":
    sys.exit(main())
