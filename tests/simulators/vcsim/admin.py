"""Another administrator of the simulated vCenter: what tests do behind a provider's back. Every call blocks."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from .process import Vcsim


class Admin:
    """A login of its own; leave its context to log out."""

    def __init__(self, server: Vcsim) -> None:
        self.server = server
        context = ssl.create_default_context(cadata=server.ca)
        self.si: Any = SmartConnect(
            host=server.host,
            port=server.port,
            user=server.user,
            pwd=server.password,
            sslContext=context,
            connectionPoolTimeout=-1,
        )

    def log_in(self) -> None:
        """Open the session again, which somebody has ended."""
        self.si.content.sessionManager.Login(self.server.user, self.server.password, None)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.si._stub.poolSize = 0  # a call of another thread closes its connection when it comes back
        Disconnect(self.si)

    def every(self, kind: Any = vim.VirtualMachine) -> list[Any]:
        """All objects of a kind."""
        view = self.si.content.viewManager.CreateContainerView(self.si.content.rootFolder, [kind], True)
        try:
            return list(view.view)
        finally:
            view.Destroy()

    def with_uuid(self, uid: str) -> list[Any]:
        """Every VM with this `instanceUuid`."""
        return [vm for vm in self.every() if vm.config is not None and vm.config.instanceUuid == uid]

    def wait(self, task: Any) -> Any:
        """The result of a task, or its error raised."""
        while task.info.state not in ("success", "error"):  # milliseconds, here
            time.sleep(0.01)
        if task.info.state == "error":
            raise task.info.error
        return task.info.result

    def create(self, name: str, *, uid: str = "", datastore: str = "LocalDS_0", disks: int = 0, **spec: Any) -> Any:
        """A small machine in the first datacenter's own folder, on its first cluster."""
        datacenter = self.every(vim.Datacenter)[0]
        compute = next(iter(self.every(vim.ClusterComputeResource)), None) or self.every(vim.ComputeResource)[0]
        config = vim.vm.ConfigSpec(
            name=name,
            numCPUs=1,
            memoryMB=64,
            guestId="otherGuest64",
            files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
            **({"deviceChange": _disks(datastore, disks)} if disks else {}),
            **({"instanceUuid": uid} if uid else {}),
            **spec,
        )
        return self.wait(datacenter.vmFolder.CreateVM_Task(config, compute.resourcePool, None))

    def add_key_provider(self, name: str = "keys") -> None:
        """A key provider that everything uses; machines can have a TPM then."""
        manager, id = self.si.RetrieveContent().cryptoManager, vim.encryption.KeyProviderId(id=name)
        manager.RegisterKmsCluster(id, "trustAuthority")
        manager.MarkDefault(id)

    def find(self, text: str) -> Any:
        """The VM with this object id or `instanceUuid`."""
        return next(vm for vm in self.every() if text in (vm._moId, vm.config.instanceUuid))

    def fingerprint(self, text: str) -> str:
        """Definition and power state of a VM, by object id or `instanceUuid`: equal as long as nobody touches it."""
        vm = self.find(text)
        config = vm.config
        extra = sorted((str(each.key), str(each.value)) for each in config.extraConfig)
        devices = [
            (each.key, type(each).__name__, getattr(each, "capacityInKB", None)) for each in config.hardware.device
        ]
        return repr((vm.name, config.changeVersion, config.instanceUuid, vm.runtime.powerState, extra, devices))

    def path_of(self, text: str) -> Path:
        """Where the simulator keeps a datastore path: "[ds] directory/file"."""
        name, _, rest = text[1:].partition("] ")
        store = next(store for store in self.every(vim.Datastore) if store.name == name)
        return Path(store.info.url) / rest

    def orphans(self) -> list[str]:
        """Directories and disks on the datastores that belong to no VM."""
        taken: set[str] = set()
        for vm in self.every():
            for file in vm.layoutEx.file if vm.layoutEx is not None else ():
                taken.add(str(file.name))
            taken.add(str(vm.config.files.vmPathName))
        roots = {store.name: Path(store.info.url) for store in self.every(vim.Datastore)}
        directories = {path.partition("/")[0] for path in taken}
        return sorted(
            f"[{name}] {entry.name}"
            for name, root in roots.items()
            for entry in root.iterdir()
            if f"[{name}] {entry.name}" not in directories
        )


def _disks(datastore: str, count: int) -> list[Any]:
    """So many disks of 8 MiB on a controller of their own."""
    device = vim.vm.device
    controller = device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    changes = [device.VirtualDeviceSpec(operation="add", device=controller)]
    for unit in range(count):
        backing = device.VirtualDisk.FlatVer2BackingInfo(fileName=f"[{datastore}]", diskMode="persistent")
        disk = device.VirtualDisk(key=-2 - unit, controllerKey=-1, unitNumber=unit, backing=backing, capacityInKB=8192)
        changes.append(device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk))
    return changes
