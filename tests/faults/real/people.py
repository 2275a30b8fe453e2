"""Users at kubectl, and what they have a right to expect."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from e2e.stack import Object

from .installation import Installation
from .kubectl import condition
from .sites import Found
from .sites.site import SIZES
from .stories import Spec, Step, Story

SPACE = "shop"
WAIT_SECONDS = 150.0


class People:
    """Everybody who works with one installation, over all of its runs.

    Attributes:
        wanted: by name, the spec that was last acknowledged, of every machine that shall be there.
        kept: UIDs of machines that must outlive their objects, with their names.
        retained: UIDs of all whose object said Retain: one that was still being made may be there, or not.
    """

    def __init__(self, installation: Installation, say: Callable[[str], None]) -> None:
        self._installation, self._say = installation, say
        self._kubectl = installation.kubectl
        self.wanted: dict[str, Spec] = {}
        self.kept: dict[str, str] = {}
        self.retained: set[str] = set()

    async def settle_in(self) -> None:
        """Everything that machines of theirs refer to."""
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}
        await self._kubectl.apply(space, self._installation.site.wire(SPACE))

    async def live(self, story: Story) -> None:
        """Do what the story says."""
        for step in story.steps:
            await asyncio.sleep(step.after)
            await self._take(story.name, step)

    async def _take(self, name: str, step: Step) -> None:
        if step.verb == "delete":
            await self.delete(name)
            return
        if step.verb == "recreate":
            await self.wait(name, lambda body: not body)
        await self.apply(name, step.spec)

    async def apply(self, name: str, spec: Spec) -> None:
        """Write it down, until it is acknowledged."""
        await self._kubectl.apply(self._installation.site.machine(name, SPACE, **spec))
        self.wanted[name] = spec
        self._say(f"apply {name}: {_short(spec)}")

    async def delete(self, name: str) -> None:
        """Its object shall go, and the machine as its policy says."""
        body = await self._kubectl.get("vm", name, SPACE)
        if body.get("spec", {}).get("deletionPolicy") == "Retain":
            self.retained.add(body["metadata"]["uid"])
            if body.get("status", {}).get("id"):
                self.kept[body["metadata"]["uid"]] = name
        await self._kubectl.delete("vm", name, SPACE)
        self.wanted.pop(name, None)
        self._say(f"delete {name}")

    async def clear(self) -> None:
        """Delete everything."""
        for name in list(self.wanted):
            await self.delete(name)

    async def wait(self, name: str, holds: Callable[[Object], bool], kind: str = "vm") -> Object:
        """Look until something holds of the object, which is empty while there is none."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                body = await self._kubectl.get(kind, name, SPACE)
                if holds(body):
                    return body
                await asyncio.sleep(0.5)

    # -- what they expect ----------------------------------------------------------------------------------------------

    async def objects(self) -> list[Object]:
        """Their VirtualMachines, as the API has them."""
        return [body for body in await self._kubectl.every("vm") if body["metadata"]["namespace"] == SPACE]

    async def told(self) -> list[Object]:
        """The same as far as the API server answers now; nothing while it does not."""
        done, text = await self._kubectl.once("get", "vm", "-n", SPACE, "-o", "json")
        items: list[Object] = json.loads(text)["items"] if done else []
        return items

    async def lacking(self) -> str:
        """The first thing that is not as they want it; empty when all is well."""
        objects = {body["metadata"]["name"]: body for body in await self.objects()}
        found = await asyncio.to_thread(self._installation.site.found)
        for name, spec in self.wanted.items():
            if name not in objects:
                return f"{name} is gone from the API, though its last write was acknowledged"
            if why := self._unlike(objects[name], spec, found):
                return f"{name}: {why}"
        for name, body in objects.items():
            if name not in self.wanted:
                return f"{name} is still in the API: {condition(body, 'DeleteBlocked') or condition(body, 'Ready')}"
        return await self._left_over({body["metadata"]["uid"] for body in objects.values()}, found)

    async def _left_over(self, uids: set[str], found: list[Found]) -> str:
        for machine in found:
            if machine.ours and machine.uid not in uids:
                return f"machine {machine.name} ({machine.uid}) is on the hypervisor and belongs to no object"
            if not machine.ours and machine.uid not in self.retained:
                return f"machine {machine.name} ({machine.uid}) lost its stamp"
        orphans = await asyncio.to_thread(self._installation.site.orphans, uids | self.retained)
        return f"left behind: {', '.join(orphans)}" if orphans else ""

    def _unlike(self, body: Object, spec: Spec, found: list[Found]) -> str:
        meta, status, ready = body["metadata"], body.get("status", {}), condition(body, "Ready")
        acknowledged = {key: body["spec"].get(key) for key in spec if key != "disks"}
        if acknowledged != {key: value for key, value in spec.items() if key != "disks"}:
            return f"an acknowledged write is lost: {_short(spec)} was written, the API has {_short(body['spec'])}"
        machines = [machine for machine in found if machine.uid == meta["uid"]]
        if len(machines) != 1:
            return f"it has {len(machines)} machines: {machines}; {ready}"
        if why := self._differs(spec, machines[0]):
            return f"{why}; {ready}"
        if ready.get("status") != "True" or status.get("observedGeneration") != meta["generation"]:
            return f"it is not Ready: {json.dumps(status)}"
        if status.get("powerState") != spec["powerState"]:
            return f"its status lies: it tells of {status.get('powerState')}, and the machine is {spec['powerState']}"
        return ""

    def _differs(self, spec: Spec, machine: Found) -> str:
        size = SIZES[spec["classRef"]["name"]]
        disks = sorted([self._installation.site.root_mib, *(disk["sizeGiB"] << 10 for disk in spec["disks"])])
        for what, wanted, have in (
            ("stamp", True, machine.ours),
            ("power", spec["powerState"], "On" if machine.on else "Off"),
            ("CPUs", size.cpus, machine.cpus),
            ("memory", size.memory_mib, machine.memory_mib),
            ("disks", disks, list(machine.disks_mib)),
        ):
            if wanted != have:
                return f"its {what}: {wanted} wanted, {have} found"
        return ""

    async def silent(self, seconds: float, limit: float) -> str:
        """Wait until nothing has been written to a machine's object for so long; says what went on when it does not."""
        loop = asyncio.get_running_loop()
        before, since, noise = await self._revisions(), loop.time(), ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while loop.time() - since < seconds:
                    await asyncio.sleep(0.5)
                    if (now := await self._revisions()) != before:
                        noise = f"written again and again: {sorted(set(now.items()) ^ set(before.items()))}"
                        before, since = now, loop.time()
                return ""
        return noise

    async def _revisions(self) -> dict[str, Any]:  # Any: a resourceVersion is opaque
        return {body["metadata"]["name"]: body["metadata"]["resourceVersion"] for body in await self.objects()}


def _short(spec: Spec) -> str:
    disks = "+".join(f"{disk['sizeGiB']}G" for disk in spec.get("disks", []))
    words = [spec["classRef"]["name"], spec["powerState"], spec["deletionPolicy"], disks]
    return " ".join(word for word in [*words, spec.get("imageRef", {}).get("name", "")] if word)
