"""A fleet that is there already: one machine is made the ordinary way, and what is stored of it is written down again
under other names and UIDs, in the API server's database and in the fake hypervisor's file.

Making 50,000 machines one by one takes longer than anybody waits for what a controller does that finds them. That it
writes nothing when it finds them shows that they are what it would have made.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from apiserver.store import Change, Store

from .following import following
from .rig import Process, Rig, rig
from .throughput import create, quiet

MODEL = "model-machine"
BATCH = 2000


@asynccontextmanager
async def prepared(home: Path, size: int) -> AsyncIterator[tuple[Rig, Process]]:
    """A stack without a controller, whose API server and provider "one" have so many machines, all Ready."""
    world = home / "world.json"
    async with (
        rig(home) as found,
        found.provider("one", "--world", str(world)),
        found.controller(),
        following(found.api, str(await found.revision())) as followed,
    ):
        await found.many([create(MODEL)])
        await followed.wait([MODEL])
        await quiet(found)
    uids = [str(uuid.uuid4()) for _ in range(size - 1)]
    model = await _multiply_objects(home / "data", uids)
    _multiply_machines(world, model, uids)
    async with rig(home, furnished=True) as found, found.provider("one", "--world", str(world)) as provider:
        yield found, provider


async def _multiply_objects(directory: Path, uids: list[str]) -> str:
    """Store the model's object again for each UID; answers with the model's own."""
    store = Store(directory)
    store.open()
    try:
        resource = next(name for name in store.resources() if "virtualmachines" in name)
        (item,) = store.items(resource)
        model: str = msgspec.json.decode(item.data)["metadata"]["uid"]
        text = item.data.decode()
        copies = iter(list(_copies(text, model, uids)))
        while batch := [copy for _, copy in zip(range(BATCH), copies, strict=False)]:
            async with asyncio.TaskGroup() as group:
                for name, copy in batch:
                    change = Change(resource, item.namespace, name, msgspec.json.decode(copy), 0)
                    group.create_task(store.commit(change))
    finally:
        await store.close()
    return model


def _multiply_machines(world: Path, model: str, uids: list[str]) -> None:
    """Keep the model's machine and volumes again for each UID."""
    kept = json.loads(world.read_text())
    machine = json.dumps(kept["machines"][model])
    volumes = json.dumps({key: volume for key, volume in kept["volumes"].items() if volume["uid"] == model})
    for (_, text), uid in zip(_copies(machine, model, uids), uids, strict=True):
        kept["machines"][uid] = json.loads(text)
    for _, text in _copies(volumes, model, uids):
        kept["volumes"].update(json.loads(text))
    world.write_text(json.dumps(kept))


def _copies(text: str, model: str, uids: list[str]) -> Iterator[tuple[str, str]]:
    """Name and text of what is written of another machine."""
    for number, uid in enumerate(uids):
        name = f"vm-{number}"
        yield name, text.replace(model, uid).replace(MODEL, name)
