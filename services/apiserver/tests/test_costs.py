"""What a write costs the database, in statements."""

from __future__ import annotations

import asyncio
from pathlib import Path

from apiserver.store import NAMESPACES, Change, Store

CREATES = 50


def change(resource: str, namespace: str, name: str, expect: int = 0) -> Change:
    return Change(resource, namespace, name, {"metadata": {"name": name, "namespace": namespace}}, expect)


async def test_changes_that_come_together_share_a_commit(tmp_path: Path) -> None:
    """A commit waits for the disk: one for each change was what a burst of creates waited for."""
    store, statements = Store(tmp_path / "data"), list[str]()
    store.open()
    try:
        await store.commit(change(NAMESPACES, "", "ns"))
        store._writer.set_trace_callback(lambda text: statements.append(text.split()[0]))
        async with asyncio.TaskGroup() as group:
            for number in range(CREATES):
                group.create_task(store.commit(change("things", "ns", f"t-{number}")))
        commits = statements.count("COMMIT")
        assert commits < CREATES / 2
        assert statements.count("INSERT") == CREATES
        assert statements.count("SELECT") == 2 * CREATES, "what is stored now, and whether the namespace is there"
        assert len(statements) == 3 * CREATES + 3 * commits
    finally:
        await store.close()
