"""A content library of the simulated vCenter, filled by another administrator."""

from __future__ import annotations

from pyVmomi import vim

from simulators.rest_client import Rest
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

LIBRARY = "images"


class Shelf:
    """A content library, kept by somebody else."""

    def __init__(self, server: Vcsim, name: str = LIBRARY) -> None:
        self.rest = Rest(server)
        self.admin = Admin(server)
        self._storage = self.admin.every(vim.Datastore)[0]._moId
        self.library = self.make(name)

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self.admin.__exit__()

    def make(self, name: str) -> str:
        storage = [{"type": "DATASTORE", "datastore_id": self._storage}]
        library: str = self.rest(
            "POST", "content/local-library", {"name": name, "type": "LOCAL", "storage_backings": storage}
        )
        return library

    def put(self, name: str, files: dict[str, bytes], kind: str = "ovf") -> str:
        item: str = self.rest("POST", "content/library/item", {"library_id": self.library, "name": name, "type": kind})
        session = self.rest("POST", "content/library/item/update-session", {"library_item_id": item})
        path = f"content/library/item/update-session/{session}"
        for file, content in files.items():
            told = self.rest("POST", f"{path}/file", {"name": file, "source_type": "PUSH", "size": len(content)})
            self.rest.upload(told["upload_endpoint"]["uri"], content)
        self.rest("POST", f"{path}?action=complete")
        return item

    def capture(self, name: str) -> str:
        """A template item, made from a machine; the object id of its template."""
        disk = vim.vm.device.VirtualDisk(
            key=-2,
            controllerKey=-1,
            unitNumber=0,
            capacityInKB=2048,
            backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent"),
        )
        controller = vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        adds = [
            vim.vm.device.VirtualDeviceSpec(operation="add", device=controller),
            vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
        ]
        machine = self.admin.create(f"{name}-source", deviceChange=adds)
        placement = {
            "folder": machine.parent._moId,
            "resource_pool": machine.resourcePool._moId,
            "host": machine.runtime.host._moId,
        }
        body = {"name": name, "library": self.library, "source_vm": machine._moId, "placement": placement}
        item = self.rest("POST", "vcenter/vm-template/library-items", body)
        return str(self.rest("GET", f"vcenter/vm-template/library-items/{item}")["vm_template"])
