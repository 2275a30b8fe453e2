"""The bench itself works: its figures are asked for on a small cluster, and judged nowhere."""

from __future__ import annotations

from pathlib import Path

from .proxmox import cluster, latency, operations, session_costs


async def test_costs_and_a_changes_way_are_measured(tmp_path: Path) -> None:
    async with cluster(4, nodes=2, scale=0.02) as server:
        figures = [
            *await session_costs(server, tmp_path, machines=4, idle=0.5, quiet=0.0),
            *await latency(server, tmp_path, changes=2, machines=4, quiet=0.0, tick=0.1),
            *await operations(server, tmp_path, pause=0.1),
        ]
    assert all(figure.value >= 0 for figure in figures)
    assert {figure.unit for figure in figures} == {"s", "ms", "MiB", "requests"}
