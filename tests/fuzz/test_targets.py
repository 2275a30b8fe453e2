"""Every target, in the gate: its seeds, what was a bug once, and the same few hundred broken inputs each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import mutate, registry

TARGETS = registry.load()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_W26_target(name: str, tmp_path: Path) -> None:
    """Whatever it is fed, the parser refuses in its own words or keeps its promises."""
    target = TARGETS[name]
    for data in (*target.crashes(), *mutate.inputs(name, target.seeds + target.bad, target.inputs)):
        try:
            target.run(data)
        except Exception as error:
            path = tmp_path / "input"
            path.write_bytes(data)
            error.add_note(f"target {name}; the input is {path}: {data[:500]!r}")
            raise


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_seeds_reach_the_parser(name: str) -> None:
    """A seed that is refused would leave all that is made of it at the parser's door."""
    target = TARGETS[name]
    for seed in target.seeds:
        target.function(seed)
