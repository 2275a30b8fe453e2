"""What alerts read, when their conditions are real."""

from __future__ import annotations

from pathlib import Path

import pytest
from controller_harness import OWNER, Cluster, because, controller, figure, furnish, hypervisor, machine, ready, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

VM = "VirtualMachine"


async def test_a_hypervisor_that_goes_lowers_its_provider_and_opens_the_breaker(
    cluster: Cluster, tmp_path: Path, namespace: str
):
    """VirtrigaudProviderDown and VirtrigaudCircuitBreakerOpen; both are over when it is back."""
    label = {"provider": f"{namespace}/fake"}

    async def shows(up: float, breaker: float) -> bool:
        return (
            await figure(cluster, tmp_path, "virtrigaud_provider_up", **label),
            await figure(cluster, tmp_path, "virtrigaud_circuit_breaker_state", **label),
        ) == (up, breaker)

    flags = ("--owner", OWNER, "--namespace", namespace, "--lease-name", namespace)
    async with controller(cluster, tmp_path, *flags), hypervisor() as (world, provider):
        await furnish(cluster, namespace, **provider)
        for number in range(8):
            await cluster.create(VM, namespace, f"web{number}", machine())
        for number in range(8):
            await cluster.wait(VM, namespace, f"web{number}", ready)
        await until(lambda: shows(1, 0), "a Provider that is well")
        world.away()
        for number in range(8):  # calls that fail in a row
            await cluster.patch(VM, namespace, f"web{number}", {"spec": {"powerState": "Off"}})
        await until(lambda: shows(0, 2), "an open breaker")
        assert await figure(cluster, tmp_path, "virtrigaud_circuit_breaker_failures_total", **label) >= 5
        world.back()
        await until(lambda: shows(1, 0), "a Provider that is well again")
        for number in range(8):
            await cluster.wait(VM, namespace, f"web{number}", ready)
        assert await figure(cluster, tmp_path, "virtrigaud_time_to_ready_seconds_count", kind=VM, cause="spec") == 16


async def test_a_server_that_is_gone_lowers_its_provider(cluster: Cluster, tmp_path: Path, namespace: str):
    """VirtrigaudProviderDown, as it is when the pod is gone; and no series is left of a Provider that is deleted."""
    label = {"provider": f"{namespace}/fake"}

    async def up(value: float) -> bool:
        return await figure(cluster, tmp_path, "virtrigaud_provider_up", **label) == value

    flags = ("--owner", OWNER, "--namespace", namespace, "--lease-name", namespace)
    async with controller(cluster, tmp_path, *flags):
        assert await figure(cluster, tmp_path, "virtrigaud_leader") == 1
        async with hypervisor() as (_, provider):
            await furnish(cluster, namespace, **provider)
            await until(lambda: up(1), "a Provider that is well")
        await until(lambda: up(0), "a Provider that is down")
        await cluster.delete("Provider", namespace, "fake")
        await until(lambda: up(-1), "no Provider")


async def test_of_a_provider_whose_finalizer_is_taken_away_nothing_is_left(
    cluster: Cluster, tmp_path: Path, namespace: str
):
    """As people do with what does not go; VirtrigaudProviderDown would fire for ever."""
    label = {"provider": f"{namespace}/fake"}

    async def up(value: float) -> bool:
        return await figure(cluster, tmp_path, "virtrigaud_provider_up", **label) == value

    flags = ("--owner", OWNER, "--namespace", namespace, "--lease-name", namespace)
    async with controller(cluster, tmp_path, *flags), hypervisor() as (_, provider):
        await furnish(cluster, namespace, **provider)
        await cluster.create(VM, namespace, "web", machine())
        await cluster.wait(VM, namespace, "web", ready)
        await until(lambda: up(1), "a Provider that is well")
        await cluster.delete("Provider", namespace, "fake")
        await cluster.wait("Provider", namespace, "fake", because("InUse", "DeleteBlocked"))
        await cluster.patch("Provider", namespace, "fake", {"metadata": {"finalizers": None}})
        await until(lambda: up(-1), "no Provider")
