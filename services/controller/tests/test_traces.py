"""Where a user finds the trace of what became of an object, with an exporter or without."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from common import tracing, v1
from controller_harness import OWNER, Cluster, controller, figure, furnish, hypervisor, machine, ready, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

VM = "VirtualMachine"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A controller without an exporter."""
    place = tmp_path_factory.mktemp("home")
    async with controller(cluster, place, "--owner", OWNER, "--lease-name", "traces"):
        yield place


async def traces(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    """Trace ids of the object's Events, by reason."""
    return {
        event["reason"]: event["metadata"]["annotations"]["virtrigaud.io/trace-id"]
        for event in await cluster.events(namespace)
        if event["involvedObject"]["name"] == name
    }


async def told(cluster: Cluster, namespace: str, name: str, reason: str) -> str:
    """Trace id of an Event, which is written a moment after the status."""

    async def there() -> bool:
        return reason in await traces(cluster, namespace, name)

    await until(there, f"the Event {reason}")
    return (await traces(cluster, namespace, name))[reason]


def derived(vm: Any) -> str:
    """The trace of an object as it is now: anybody can tell it."""
    meta = vm["metadata"]
    return f"{tracing.root(meta['uid'], str(meta['generation'])).trace_id:032x}"


async def test_object_events_and_the_providers_log_name_one_trace(cluster: Cluster, home: Path, namespace: str):
    """Two processes, neither of which keeps spans."""
    await furnish(cluster, namespace)
    await cluster.create(VM, namespace, "web", machine())
    vm = await cluster.wait(VM, namespace, "web", ready)
    assert vm["metadata"]["annotations"] == {"virtrigaud.io/creation-trace-id": derived(vm)}
    assert await told(cluster, namespace, "web", "Created") == derived(vm)
    log = (home / "logs" / f"provider-{namespace}-fake.log").read_text().splitlines()
    made = [record for record in map(json.loads, log) if record["event"] == "machine.create"]
    assert [record["trace_id"] for record in made] == [derived(vm)]


async def test_each_generation_has_a_trace_and_an_edit_costs_no_write_for_it(
    cluster: Cluster, home: Path, namespace: str
):
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        before = max(0, await figure(cluster, home, "virtrigaud_watch_lag_seconds_count", kind=VM))
        first = await cluster.create(VM, namespace, "web", machine())
        await cluster.wait(VM, namespace, "web", ready)
        await cluster.patch(VM, namespace, "web", {"spec": {"powerState": "Off"}})
        off = await cluster.wait(VM, namespace, "web", lambda i: ready(i) and i["status"]["powerState"] == "Off")
        assert await told(cluster, namespace, "web", "PowerChanged") == derived(off) != derived(first)
        # the object keeps the trace of its creation: another write for each edit is what it is not worth
        assert off["metadata"]["annotations"]["virtrigaud.io/creation-trace-id"] == derived(first)
        lag = await figure(cluster, home, "virtrigaud_watch_lag_seconds_count", kind=VM)
        assert lag - before == 2, "its creation and its edit"


async def test_a_users_trace_is_continued(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.create(VM, namespace, "web", machine(), annotations={"virtrigaud.io/traceparent": PARENT})
        vm = await cluster.wait(VM, namespace, "web", ready)
        assert await told(cluster, namespace, "web", "Created") == PARENT.split("-")[1]
        assert vm["metadata"]["annotations"]["virtrigaud.io/creation-trace-id"] == PARENT.split("-")[1]


async def test_a_traceparent_that_is_none_is_named_and_stops_nothing(cluster: Cluster, home: Path, namespace: str):
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.create(VM, namespace, "web", machine(), annotations={"virtrigaud.io/traceparent": "yes, please"})
        vm = await cluster.wait(VM, namespace, "web", ready)
        assert await told(cluster, namespace, "web", "Created") == derived(vm)
        await told(cluster, namespace, "web", "TraceparentIgnored")


async def test_an_annotation_that_is_taken_away_is_not_fought_for(cluster: Cluster, home: Path, namespace: str):
    """GitOps tools own their objects: what they remove stays removed, and nothing is written."""
    async with hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.create(VM, namespace, "web", machine())
        await cluster.wait(VM, namespace, "web", ready)
        await cluster.patch(VM, namespace, "web", {"metadata": {"annotations": None}})
        await cluster.patch(VM, namespace, "web", {"spec": {"powerState": "Off"}})
        off = await cluster.wait(VM, namespace, "web", lambda i: ready(i) and i["status"]["powerState"] == "Off")
        assert "virtrigaud.io/creation-trace-id" not in off["metadata"].get("annotations", {})


async def test_what_drifts_later_has_a_trace_of_its_own(cluster: Cluster, home: Path, namespace: str):
    """The trace of a creation does not grow for months."""
    async with hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.create(VM, namespace, "web", machine())
        vm = await cluster.wait(VM, namespace, "web", ready)
        world.power_behind_our_back(vm["metadata"]["uid"], v1.PowerState.OFF)
        drifted = await told(cluster, namespace, "web", "PowerDrift")
        assert drifted != derived(vm)
        assert len(drifted) == 32
