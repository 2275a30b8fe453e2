"""Compose v2, a cluster in place of the embedded API server, and hypervisors that are somebody's own."""

from __future__ import annotations

import pytest

from .checks import PORTS, WATCHERS, all_run, complete_trace, identities
from .compose import Stack

pytestmark = pytest.mark.stack

SERVICES = ("k3s", "controller-k3s", "provider-libvirt", "provider-vsphere", "provider-proxmox", *WATCHERS)
ONCE = ("certs", "credentials", "definitions-k3s", "hand-over-k3s", "kubeconfig-k3s")


def test_one_machine_runs_on_each_hypervisor(yours: Stack) -> None:
    """The hypervisors were joined after the providers had begun to look for them."""
    all_run(yours)
    yours.wait("every service is healthy", lambda: yours.healthy(*SERVICES))
    assert set(yours.containers()) == {*SERVICES, *ONCE}


@pytest.mark.parametrize("provider", PORTS)
def test_jaeger_has_one_trace_from_the_controller_to_the_hypervisor(yours: Stack, provider: str) -> None:
    yours.wait("a complete trace", lambda: complete_trace(yours, provider))


def test_prometheus_finds_the_controller_of_this_profile(yours: Stack) -> None:
    yours.wait("all targets are up", lambda: len(yours.query("up == 1")) == 6)


def test_a_restart_of_the_cluster_is_outlived(yours: Stack) -> None:
    """The controller goes on where it was: it calls the cluster by a name."""
    machines, before = identities(yours), yours.container("controller-k3s")["State"]["StartedAt"]
    yours.compose("restart", "k3s")
    yours.wait("k3s is healthy", lambda: yours.healthy(*SERVICES))
    assert identities(yours) == machines
    yours.kubectl("patch", "vm", "on-vsphere", "--type=merge", "--patch", '{"spec":{"powerState":"Off"}}')
    yours.wait("the controller acts", lambda: yours.get("vm", "on-vsphere")["status"].get("powerState") == "Off")
    assert yours.container("controller-k3s")["State"]["StartedAt"] == before
