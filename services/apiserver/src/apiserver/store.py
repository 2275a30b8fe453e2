"""The durable store: one SQLite file, one writer thread, and a mirror in memory that all reads use.

Changes that arrive together share one transaction and one fsync (group commit). A change is acknowledged only
after its COMMIT returned with `synchronous=FULL`, so a killed process never loses one. The mirror and the rings
change on the event loop's thread alone, in commit order: a list and the watch that follows it always agree.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

from .watch import Event, Item, Ring

log = structlog.get_logger(__name__)
Waiting = tuple["Change", "asyncio.Future[Item]"]
Answered = tuple["Change", "asyncio.Future[Item]", "Item | Exception"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  revision INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (resource, namespace, name)
);
CREATE INDEX IF NOT EXISTS objects_namespace ON objects (namespace) WHERE namespace <> '';
"""
FORMAT = "1"
NAMESPACES = "namespaces"
MAX_OBJECT = 3 << 20
"""Bytes of one object; many small patches must not make what no request could send."""


class StoreError(Exception):
    """The database cannot be opened or written."""


class Stale(Exception):
    """The object changed, appeared or vanished since the caller looked."""


class NamespaceMissing(Exception):
    """The namespace was deleted before the object could be created."""


class TooLarge(Exception):
    """The object is above the limit for one object."""


class NamespaceInUse(Exception):
    """The namespace still holds objects and cannot be removed."""


@dataclass(frozen=True)
class Change:
    """One conditional write.

    `expect` is the revision that must be stored now; 0 means that nothing may be. Creating in a namespace and
    removing a namespace check each other inside the transaction, so neither can slip past the other.
    """

    resource: str
    namespace: str
    name: str
    obj: dict[str, Any]
    expect: int
    delete: bool = False


class Store:
    """Objects by (resource, namespace, name), each with the revision of its last change."""

    def __init__(self, directory: Path, *, ring_capacity: int = 8192, ring_bytes: int = 32 << 20) -> None:
        """Name the directory; nothing is touched before `open`."""
        self._directory = directory
        self._ring_capacity = ring_capacity
        self._ring_bytes = ring_bytes
        self._mirror: dict[str, dict[tuple[str, str], Item]] = {}
        self._rings: dict[str, Ring] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # held to accept a change, and to end accepting
        self._accepting = False
        self._revision = 0
        self._boot_revision = 0
        self._written = 0  # belongs to the writer thread
        self._db: sqlite3.Connection | None = None
        self._lock: IO[str] | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    # ---- life ----

    def open(self) -> None:
        """Open the database, load the mirror and start the writer. Call it on the event loop's thread.

        Raises:
            StoreError: the directory is in use, unreadable, or of a newer format.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self.lock()
            self._db = db = self._connect()
            self._load(db)
        except StoreError:
            self._release()
            raise
        except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
            self._release()
            raise StoreError(f"cannot open the store in {self._directory}: {error}") from error
        self._accepting = True
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    def lock(self) -> None:
        """Take the directory for this process; `open` does it too.

        Raises:
            StoreError: another server has it, or it cannot be made.
        """
        if self._lock is not None:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise StoreError(f"cannot open the store in {self._directory}: {error}") from error

    def _take_lock(self) -> IO[str]:
        lock = (self._directory / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise StoreError(
                f"{self._directory} is in use by another server; stop it or choose another --data-dir"
            ) from error
        return lock

    def _connect(self) -> sqlite3.Connection:
        path = self._directory / "state.db"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # before SQLite, which would follow the umask
        path.chmod(0o600)
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(SCHEMA)
        row = db.execute("SELECT value FROM meta WHERE key='format'").fetchone()
        if row is None:
            db.execute("INSERT INTO meta VALUES ('format', ?), ('revision', '1')", (FORMAT,))
        elif row[0] != FORMAT:
            raise StoreError(
                f"{self._directory} has format {row[0]}, this server reads {FORMAT}; use the server that wrote it"
            )

    def _load(self, db: sqlite3.Connection) -> None:
        self._prepare(db)
        (value,) = db.execute("SELECT value FROM meta WHERE key='revision'").fetchone()
        self._revision = self._boot_revision = self._written = int(value)
        for row in db.execute("SELECT resource, namespace, name, revision, data FROM objects"):
            item = Item(*row)
            self._mirror.setdefault(item.resource, {})[item.namespace, item.name] = item

    async def close(self) -> None:
        """Finish what was accepted, then close the file."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self._release()

    def _release(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ---- reading, from memory ----

    @property
    def revision(self) -> int:
        """The revision of the newest change that readers can see."""
        return self._revision

    def get(self, resource: str, namespace: str, name: str) -> Item | None:
        """Return the object, or None."""
        return self._mirror.get(resource, {}).get((namespace, name))

    def items(self, resource: str, namespace: str | None = None) -> list[Item]:
        """Return all objects of a resource, ordered by namespace and name; None means all namespaces."""
        items = self._mirror.get(resource, {})
        keys = sorted(items) if namespace is None else sorted(k for k in items if k[0] == namespace)
        return [items[key] for key in keys]

    def items_at(self, resource: str, namespace: str | None, revision: int) -> list[Item]:
        """Return what `list` would have returned at an earlier revision.

        Raises:
            watch.Expired: changes since then were dropped.
        """
        if revision == self._revision:
            return self.items(resource, namespace)
        items = dict(self._mirror.get(resource, {}))
        for event in reversed(self.ring(resource).after(revision)):
            key = (event.item.namespace, event.item.name)
            if event.before is None:
                items.pop(key, None)
            else:
                items[key] = event.before
        return [items[key] for key in sorted(items) if namespace in (None, key[0])]

    def resources(self) -> Iterable[str]:
        """Return every resource that holds or held an object."""
        return list(self._mirror)

    def ring(self, resource: str) -> Ring:
        """Return the recent changes of a resource."""
        ring = self._rings.get(resource)
        if ring is None:
            ring = Ring(self._boot_revision, self._ring_capacity, self._ring_bytes)
            self._rings[resource] = ring
        return ring

    def listen(self, callback: Callable[[Event], None]) -> None:
        """Call back on the loop's thread after each change; the callback must not wait or raise."""
        self._listeners.append(callback)

    def wake_watchers(self) -> None:
        """Let every watcher look at the world again (used at shutdown)."""
        for ring in self._rings.values():
            ring.wake()

    # ---- writing ----

    async def commit(self, change: Change) -> Item:
        """Make one change durable and visible; the result carries its revision.

        A caller that is cancelled while it waits does not undo the change.

        Raises:
            Stale, NamespaceMissing, NamespaceInUse: see there; nothing was written.
            StoreError: the database failed, or the store takes no changes any more; nothing was written.
        """
        with self._gate:
            if not self._accepting:
                raise StoreError("the store is closed")
            future: asyncio.Future[Item] = self._loop.create_future()
            self._queue.put((change, future))
        return await asyncio.shield(future)

    @property
    def writable(self) -> bool:
        """Whether there is a writer to take changes."""
        return self._accepting

    def _work(self) -> None:
        """Write until told to stop. However that ends, nobody is left waiting for an answer."""
        try:
            self._write_loop()
        finally:
            left: list[Waiting] = []
            with self._gate:
                self._accepting = False
                while not self._queue.empty():
                    if (waiting := self._queue.get()) is not None:
                        left.append(waiting)
            if left:
                self._fail(left, StoreError("the store is closed"))

    def _write_loop(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            last = False
            while len(batch) < 256 and not last:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                else:
                    batch.append(more)
            self._write_batch(batch)
            if last:
                return

    @property
    def _writer(self) -> sqlite3.Connection:
        assert self._db is not None, "the writer runs only while the database is open"
        return self._db

    def _write_batch(self, batch: list[Waiting]) -> None:
        before = self._written
        outcomes: list[Answered] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for change, future in batch:
                outcomes.append((change, future, self._write(change)))
            if self._written != before:
                self._writer.execute("UPDATE meta SET value=? WHERE key='revision'", (str(self._written),))
            self._writer.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # whatever it is, the callers get an answer and the writer goes on
            self._written = before
            undone = self._roll_back()
            known = isinstance(error, sqlite3.Error | OSError)
            # the text of a defect may quote what was to be written
            why = str(error) if known else f"a defect ({type(error).__name__})"
            # told on the loop's thread: a log that cannot be written must not end the writer
            told = partial(log.error, "store.write.failed", error=why, changes=len(batch), undone=undone)
            self._loop.call_soon_threadsafe(partial(told, exc_info=None if known else error))
            self._fail(batch, StoreError(f"the database refused the write: {why}"))
        else:
            self._loop.call_soon_threadsafe(self._publish, outcomes)

    def _roll_back(self) -> bool:
        """End a failed transaction; what cannot be ended now is tried again when the next one fails to begin."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True

    def _fail(self, batch: list[Waiting], failure: StoreError) -> None:
        outcomes: list[Answered] = [(change, future, failure) for change, future in batch]
        self._loop.call_soon_threadsafe(self._publish, outcomes)

    def _write(self, change: Change) -> Item | Exception:
        key = (change.resource, change.namespace, change.name)
        row = self._writer.execute(
            "SELECT revision FROM objects WHERE resource=? AND namespace=? AND name=?", key
        ).fetchone()
        if (row[0] if row else 0) != change.expect:
            return Stale()
        if change.namespace and change.expect == 0 and not self._namespace_exists(change.namespace):
            return NamespaceMissing()
        if change.resource == NAMESPACES and change.delete and self._namespace_used(change.name):
            return NamespaceInUse()
        revision = self._written + 1
        change.obj["metadata"]["resourceVersion"] = str(revision)
        data = msgspec.json.encode(change.obj)
        if len(data) > MAX_OBJECT and not change.delete:
            return TooLarge()
        if change.delete:
            self._writer.execute("DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", key)
        else:
            self._writer.execute("INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?)", (*key, revision, data))
        self._written = revision
        return Item(*key, revision, data)

    def _namespace_exists(self, name: str) -> bool:
        found = self._writer.execute(
            "SELECT 1 FROM objects WHERE resource=? AND namespace='' AND name=?", (NAMESPACES, name)
        ).fetchone()
        return found is not None

    def _namespace_used(self, name: str) -> bool:
        return self._writer.execute("SELECT 1 FROM objects WHERE namespace=? LIMIT 1", (name,)).fetchone() is not None

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a defect in a listener must not leave a durable write unanswered
                log.exception("store.listener.defect", resource=event.item.resource, name=event.item.name)

    def _publish(self, outcomes: list[Answered]) -> None:
        for change, future, outcome in outcomes:
            if isinstance(outcome, Exception):
                if not future.cancelled():
                    future.set_exception(outcome)
                    future.exception()  # a caller that went away must not leave an unread failure behind
                continue
            items = self._mirror.setdefault(outcome.resource, {})
            key = (outcome.namespace, outcome.name)
            before = items.get(key)
            if change.delete:
                items.pop(key, None)
            else:
                items[key] = outcome
            self._revision = outcome.revision
            event = Event(outcome, before, change.delete)
            self.ring(outcome.resource).publish(event)
            self._tell(event)
            if not future.cancelled():
                future.set_result(outcome)
