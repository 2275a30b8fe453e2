"""What tests of every stack ask of it."""

from __future__ import annotations

from typing import Any

from .compose import Object, Stack

OURS = ("apiserver", "controller", "provider-libvirt", "provider-vsphere", "provider-proxmox")
HYPERVISORS = ("libvirt", "vcsim", "proxmox")
WATCHERS = ("otel-collector", "jaeger", "prometheus")
MACHINES = ("on-libvirt", "on-vsphere", "on-proxmox")
PORTS = {"libvirt": "LIBVIRT_PORT", "vsphere": "VSPHERE_PORT", "proxmox": "PROXMOX_PORT"}


def runs(stack: Stack, name: str) -> bool:
    """A machine is on, and as its spec says."""
    status: Object = stack.get("vm", name).get("status", {})
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))
    return ready and status.get("powerState") == "On"


def identities(stack: Stack) -> dict[str, Any]:
    """What a machine that was made anew would not have: its object's UID, and its id on the hypervisor."""
    machines = {name: stack.get("vm", name) for name in MACHINES}
    return {name: (body["metadata"]["uid"], body["status"]["id"]) for name, body in machines.items()}


def began(stack: Stack) -> dict[str, str]:
    """When each service was started last."""
    found = stack.containers()
    return {each: found[each]["State"]["StartedAt"] for each in (*OURS, *HYPERVISORS, *WATCHERS)}


def settled(stack: Stack) -> None:
    """Everything is healthy and each machine runs."""
    stack.wait("every service is healthy", lambda: stack.healthy(*OURS, *HYPERVISORS, *WATCHERS))
    all_run(stack)


def all_run(stack: Stack) -> None:
    for name in MACHINES:
        stack.wait(f"{name} runs", lambda name=name: runs(stack, name))  # type: ignore[misc]  # mypy and defaults


def complete_trace(stack: Stack, provider: str) -> bool:
    """Jaeger has a create of which each span has its parent, up to the reconcile that began it."""
    service, create = f"virtrigaud-provider-{provider}", "driver.create"
    for trace in stack.traces(service, create):
        spans = {span["spanID"]: span for span in trace["spans"]}
        services = {name: process["serviceName"] for name, process in trace["processes"].items()}
        for span in trace["spans"]:
            if (services[span["processID"]], span["operationName"]) == (service, create):
                line = [span]
                while line[-1]["references"] and (parent := spans.get(line[-1]["references"][0]["spanID"])):
                    line.append(parent)
                names = [each["operationName"] for each in line]
                call = any(name.endswith("/ApplyMachine") for name in names)
                if call and "reconcile VirtualMachine" in names and not line[-1]["references"]:
                    return True
    return False
