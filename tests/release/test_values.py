"""Today's controller, as a process, and a provider whose answers hold one value that it does not know."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .peers import LATER_VALUE, Newer, peer, told_values

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services" / "controller" / "tests"))

from controller_harness import (  # a sibling of the controller's own tests
    Cluster,
    api_server,
    condition,
    controller,
    furnish,
    hypervisor,
    machine,
    ready,
)

ASKED = ("ProviderService", "MachineService", "ImageService", "OperationService")
"""Services that the controller calls."""
FIELDS = list(told_values(ASKED))
Item = dict[str, Any]  # Any: an object, as JSON


def power_is_unknown(item: Item) -> bool:
    """Not that it is off, and not that it is well."""
    found = condition(item, "Ready")
    return (
        item["status"].get("powerState") == "Unknown"
        and (found["status"], found["reason"]) == ("Unknown", "PowerUnknown")
        and str(LATER_VALUE) in found["message"]
    )


def change_is_not_passed_over(item: Item) -> bool:
    """A change waits; that nobody knows what for makes it no less of one."""
    pending = item["status"].get("pendingChanges") or []
    found, applied = condition(item, "Ready"), condition(item, "SpecApplied")
    return (
        [change["effect"] for change in pending] == ["Unknown"]
        and (found["status"], applied["status"], applied["reason"]) == ("False", "False", "UnknownEffect")
        and str(LATER_VALUE) in found["message"]
    )


def restart_is_required(item: Item) -> bool:
    """What a change is called does not matter for what it takes."""
    return bool(
        condition(item, "Ready")["reason"] == "RestartRequired" and len(item["status"].get("pendingChanges") or []) == 1
    )


def is_as_ever(item: Item) -> bool:
    """The controller does not act on this value."""
    return bool(ready(item) and item["status"]["powerState"] == "On")


EXPECTED: dict[tuple[str, str], Callable[[Item], bool]] = {
    ("Machine", "power"): power_is_unknown,
    ("Change", "effect"): change_is_not_passed_over,
    ("Change", "kind"): restart_is_required,
}
"""What the status says of a machine; of those that are not named, `is_as_ever`."""


def test_every_enumeration_of_the_answers_is_in_the_table() -> None:
    """A field that is added to the contract is tested as well; one that is renamed must not leave a hole."""
    assert set(EXPECTED) < set(FIELDS)
    assert {("Operation", "state"), ("Capabilities", "disk_buses"), ("Disk", "bus")} < set(FIELDS)


def _told(item: Item) -> bool:
    kinds = {each["type"] for each in item.get("status", {}).get("conditions", [])}
    return {"Ready", "SpecApplied"} <= kinds


async def _lives(cluster: Cluster, field: tuple[str, str]) -> None:
    namespace = "-".join(field).lower().replace("_", "-")
    holds = EXPECTED.get(field, is_as_ever)
    async with hypervisor() as (world, spec), peer(spec["runtime"]["address"], Newer(*field)) as address:
        await furnish(cluster, namespace, **{**spec, "runtime": {**spec["runtime"], "address": address}})
        try:
            await cluster.wait("Provider", namespace, "fake", ready)
            made = await cluster.create("VirtualMachine", namespace, "web", machine())
            if holds in (change_is_not_passed_over, restart_is_required):
                await cluster.wait("VirtualMachine", namespace, "web", ready)
                await cluster.patch("VMClass", namespace, "small", {"spec": {"cpu": 2}})
            await cluster.wait("VirtualMachine", namespace, "web", lambda item: _told(item) and holds(item))
        except TimeoutError as error:
            item = await cluster.get("VirtualMachine", namespace, "web")
            raise AssertionError(f"{field}: the status says {item and item.get('status')}") from error
        assert list(world.machines) == [made["metadata"]["uid"]], f"{field}: one machine, and no other"
        await cluster.delete("VirtualMachine", namespace, "web")
        await cluster.gone("VirtualMachine", namespace, "web")
        assert world.machines == {}, f"{field}: it can be removed"


async def test_a_value_that_is_not_known_neither_ends_the_controller_nor_makes_it_lie(tmp_path: Path) -> None:
    """Each field beside the others, in one controller, which must outlive all of them."""
    home = tmp_path / "home"
    async with (
        api_server(tmp_path / "api") as cluster,
        controller(cluster, home, "--owner", "test-installation", "--runtime", "external"),
        asyncio.TaskGroup() as group,
    ):
        for field in FIELDS:
            group.create_task(_lives(cluster, field), name=".".join(field))
    log = (home / "controller.log").read_text()
    assert "controller.left" in log
    assert "reconcile.bug" not in log
    assert "Traceback" not in log
