"""The embedded stack over simulated vCenters: kubectl in front, another administrator behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyVmomi import vim
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .stack import PATIENCE, SHARED, Embedded, Object, machine, manifest

CLUSTER, NETWORK, TEMPLATE = "DC0_C0", "VM Network", "debian-12"


class VsphereStack(Embedded):
    """With one vCenter, known as the Provider `vcenter`."""

    def __init__(self, home: Path, server: Vcsim, admin: Admin) -> None:
        super().__init__(home)
        self.server, self.admin = server, admin

    def drop_sessions(self) -> None:
        """All sessions end; the administrator's is opened again."""
        self.server.control("sessions/drop")
        self.admin.log_in()

    def provider_pid(self, name: str, namespace: str = SHARED) -> int:
        """Process of a Provider's server."""
        uid = self.get("provider", name, namespace)["metadata"]["uid"]
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = each.read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if b"virtrigaud-provider-vsphere" in command and f"/{uid}/".encode() in command:
                return int(each.parent.name)
        raise AssertionError(f"no process of provider {name}\n{self.logs()}")

    @contextmanager
    def slow_clones(self) -> Iterator[None]:
        """Clones last until the end."""
        self.server.control("requests/reset")
        self.server.control("slow", method="CloneVM_Task", seconds=0)
        try:
            yield
        finally:
            self.server.control("slow/release")

    def wait_cloning(self) -> None:
        """Until a clone was asked for, of which nobody tells us but the simulator's counter."""
        deadline = time.monotonic() + PATIENCE
        while not self.server.requests().get("CloneVM_Task"):
            assert time.monotonic() < deadline, f"no clone was asked for\n{self.logs()}"
            time.sleep(0.02)


@contextmanager
def vcenter(server: Vcsim) -> Iterator[Admin]:
    """Another administrator of a simulator, who has made the template."""
    with Admin(server) as admin:
        make_template(admin)
        yield admin


def make_template(admin: Admin, name: str = TEMPLATE, snapshot: str = "") -> None:
    """A template with one small disk and a card, and with a snapshot if one is named."""
    controller = vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True)
    disk = vim.vm.device.VirtualDisk(key=-2, controllerKey=-1, unitNumber=0, capacityInKB=16 << 10, backing=backing)
    network = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=NETWORK)
    card = vim.vm.device.VirtualVmxnet3(key=-3, backing=network)
    adds = [
        vim.vm.device.VirtualDeviceSpec(operation="add", device=controller),
        vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
        vim.vm.device.VirtualDeviceSpec(operation="add", device=card),
    ]
    vm = admin.create(name, deviceChange=adds)
    if snapshot:
        admin.wait(vm.CreateSnapshot_Task(snapshot, "", False, False))
    vm.MarkAsTemplate()


def credentials(server: Vcsim, name: str, namespace: str = SHARED, **changed: str) -> Object:
    """The Secret of a Provider."""
    data = {"username": server.user, "password": server.password, "ca.crt": server.ca, **changed}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    }


def provider(server: Vcsim, name: str, namespace: str = SHARED, **spec: Any) -> Object:  # Any: whatever the spec takes
    whole: Object = {
        "type": "vsphere",
        "endpoint": server.url,
        "credentialSecretRef": {"name": name},
        "defaults": {"cluster": CLUSTER, "network": NETWORK},
        "runtime": {"mode": "Process"},
    }
    return manifest("Provider", name, {**whole, **spec}, namespace)


def shared_objects(server: Vcsim) -> list[Object]:
    """What all tests use, open to every namespace."""
    everyone: Object = {"consumerNamespaceSelector": {}}
    size: Object = {"cpu": 1, "memory": "64Mi", "diskDefaults": {"size": "32Mi"}}
    image: Object = {"source": {"vsphere": {"templateName": TEMPLATE}}}
    return [
        credentials(server, "vcenter"),
        provider(server, "vcenter", **everyone),
        manifest("VMClass", "tiny", {**size, **everyone}),
        manifest("VMImage", "guest", {**image, **everyone}),
    ]


def wire(namespace: str) -> Object:
    return manifest("VMNetworkAttachment", "wire", {"network": {"vsphere": {"portgroup": NETWORK}}}, namespace)


def box(namespace: str, **spec: Any) -> Object:  # Any: whatever the spec takes
    """A small machine named `box` on the shared vCenter."""
    return machine("box", namespace, **{"providerRef": {"name": "vcenter", "namespace": SHARED}, **spec})
