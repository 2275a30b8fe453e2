"""What a user of docker-compose.yml sees, in the order of a day: it runs, is watched, restarted and upgraded."""

from __future__ import annotations

import subprocess

import pytest
from grpcurl import grpcurl

from .checks import HYPERVISORS, OURS, PORTS, WATCHERS, began, complete_trace, identities, runs, settled
from .compose import Stack, version2

pytestmark = pytest.mark.stack


def test_P47_one_machine_runs_on_each_hypervisor(stack: Stack) -> None:
    settled(stack)
    stack.wait("the guest has booted, and has an address", lambda: bool(stack.get("vm", "on-libvirt")["status"]["ips"]))


def test_services_are_locked_down(stack: Stack) -> None:
    """No root, no capability, nothing to write but what is mounted for it; nothing beyond loopback."""
    containers = stack.containers()
    for service in (*OURS, *HYPERVISORS, *WATCHERS):
        found = containers[service]
        host = found["HostConfig"]
        assert found["Config"]["User"] not in ("", "0", "root", "0:0"), service
        assert host["ReadonlyRootfs"], service
        assert not host["Privileged"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), service
        ports = [bound["HostIp"] for each in (host["PortBindings"] or {}).values() for bound in each]
        assert set(ports) <= {"127.0.0.1"}, service


def test_no_service_holds_the_keys_of_another(stack: Stack) -> None:
    """Each mounts its own certificate; the authority's key stays with the one-shots."""
    found = stack.containers()
    mounted = {each: {m.get("Name", "") for m in found[each]["Mounts"]} for each in OURS}
    for service, volumes in mounted.items():
        keys = {name.rpartition("_")[2] for name in volumes if "_tls-" in name or name.endswith(("authority", "admin"))}
        assert len(keys) <= 1, f"{service}: {keys}"
        assert "authority" not in keys, service
        assert "admin" not in keys, service


@pytest.mark.parametrize("provider", PORTS)
def test_a_provider_answers_grpcurl_with_a_certificate_alone(stack: Stack, provider: str) -> None:
    """At its published port, by reflection; without a client's certificate it does not answer at all."""
    keys, address = stack.keys / "operator-admin", f"localhost:{stack.ports[PORTS[provider]]}"
    trust = [str(grpcurl()), "-cacert", str(keys / "ca.crt")]
    mine = ["-cert", str(keys / "tls.crt"), "-key", str(keys / "tls.key")]
    method = "virtrigaud.provider.v1.ProviderService/GetProvider"
    told = subprocess.run([*trust, *mine, address, method], capture_output=True, text=True, check=False, timeout=30)
    assert told.returncode == 0, told.stderr
    assert f'"{provider}"' in told.stdout
    trust += ["-connect-timeout", "3"]  # it tries for as long
    refused = subprocess.run([*trust, address, method], capture_output=True, text=True, check=False, timeout=30)
    assert refused.returncode != 0


def test_prometheus_sees_every_target(stack: Stack) -> None:
    stack.wait("all targets are up", lambda: len(stack.query("up == 1")) == 7)
    for series in (
        "virtrigaud_provider_up == 1",
        "virtrigaud_vms > 0",
        "virtrigaud_manager_reconcile_total > 0",
        "apiserver_requests_total > 0",
    ):
        stack.wait(f"{series} is there", lambda series=series: bool(stack.query(series)))  # type: ignore[misc]  # as above
    stack.wait("three providers are up", lambda: len(stack.query("virtrigaud_provider_up == 1")) == 3)


@pytest.mark.parametrize("provider", PORTS)
def test_W37_P44_one_trace_leads_from_the_controller_to_the_hypervisor(stack: Stack, provider: str) -> None:
    stack.wait("a complete trace", lambda: complete_trace(stack, provider))


@pytest.mark.parametrize("service", [*OURS, *WATCHERS])
def test_a_restart_is_noticed_by_nobody_else(stack: Stack, service: str) -> None:
    """It ends by SIGTERM within its grace and by itself; no other service restarts, and no machine changes."""
    settled(stack)
    machines, before = identities(stack), began(stack)
    stack.compose("stop", service)
    assert stack.container(service)["State"]["ExitCode"] == 0, stack.logs()
    stack.compose("start", service)
    settled(stack)
    after = began(stack)
    assert {each for each in after if after[each] != before[each]} == {service}
    assert identities(stack) == machines


def test_libvirt_comes_back_with_its_machines(stack: Stack) -> None:
    """Its guests end with its container; they are the same machines that run again."""
    machines = identities(stack)
    stack.compose("restart", "libvirt")
    settled(stack)
    assert identities(stack) == machines


def test_one_provider_is_upgraded_alone(stack: Stack) -> None:
    """Another image for one of them: its container is made anew, and no other."""
    settled(stack)
    machines, before = identities(stack), began(stack)
    stack.docker("tag", "virtrigaud/provider-vsphere:dev", "virtrigaud/provider-vsphere:next")
    stack.compose("up", "--detach", "--no-build", "--no-deps", "provider-vsphere", VSPHERE_TAG="next")
    settled(stack)
    after = began(stack)
    assert stack.container("provider-vsphere")["Config"]["Image"] == "virtrigaud/provider-vsphere:next"
    assert {each for each in after if after[each] != before[each]} == {"provider-vsphere"}
    assert identities(stack) == machines


def test_what_was_applied_survives_a_new_stack_of_compose_v2(stack: Stack) -> None:
    """`down` and `up` again: volumes hold objects, keys, and the id by which hypervisors know our machines."""
    uid = stack.get("vm", "on-libvirt")["metadata"]["uid"]
    stack.compose("down")
    stack.tool = version2()
    stack.up()
    stack.wait("the object is there", lambda: stack.get("vm", "on-libvirt")["metadata"]["uid"] == uid)
    stack.wait("the machine runs again", lambda: runs(stack, "on-libvirt"))
    stack.wait("every service is healthy", lambda: stack.healthy(*OURS, *HYPERVISORS, *WATCHERS))
