"""A simulated vCenter. Its inventory dies with it, so it is stopped and never killed; its sessions may end."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from pathlib import Path

from e2e.stack import Object
from e2e.vsphere import CLUSTER, NETWORK, TEMPLATE, make_template
from provider_vsphere.stamps import stamp
from pyVmomi import vim, vmodl
from simulators.vcsim import Vcsim
from simulators.vcsim.admin import Admin

from .site import IMAGE, OWNER, Found, Site


class VsphereSite(Site):
    """Machines are clones of a template."""

    kind, module = "vsphere", "provider_vsphere"
    root_mib = 32
    pausable = fillable = True
    points = ("vsphere.clone.made", "vsphere.destroy.detached", "vsphere.destroy.done")

    def __init__(self) -> None:
        self._server = Vcsim()
        self._admin: Admin | None = None
        self._home = Path()
        self._theirs: list[str] = []

    def open(self, home: Path) -> None:
        self._home = home
        self._server.start()
        self._admin = Admin(self._server)
        make_template(self._admin)
        self._admin.create("theirs", disks=1)
        self._theirs = [str(vm._moId) for vm in self._admin.every()]
        for name, value in (("username", self._server.user), ("password", self._server.password)):
            (home / name).write_text(value)
        (home / "ca.crt").write_text(self._server.ca)

    def close(self) -> None:
        self._server.kill()
        if self._admin is not None:
            self._admin.__exit__()

    def flags(self) -> list[str]:
        placed = [f"--default-cluster={CLUSTER}", f"--default-network={NETWORK}"]
        return ["--endpoint", self._server.url, "--credentials-directory", str(self._home), *placed]

    def spec(self) -> Object:
        return {"endpoint": self._server.url}

    def images(self) -> dict[str, Object]:
        return {IMAGE: {"vsphere": {"templateName": TEMPLATE}}}

    def network(self) -> Object:
        return {"vsphere": {"portgroup": NETWORK}}

    # -- what is there -------------------------------------------------------------------------------------------------

    @property
    def admin(self) -> Admin:
        assert self._admin is not None, "not open"
        return self._admin

    def found(self) -> list[Found]:
        machines = [self._found(vm) for vm in self.admin.every() if str(vm._moId) not in self._theirs]
        return [machine for machine in machines if machine is not None]

    @staticmethod
    def _found(vm: vim.VirtualMachine) -> Found | None:
        try:
            config, power = vm.config, vm.runtime.powerState
        except vmodl.fault.ManagedObjectNotFound:
            return None  # it went since it was listed
        if config is None:
            return None
        extra = {str(option.key): str(option.value) for option in config.extraConfig}
        mark = stamp.read(extra.get(stamp.KEY))
        sizes = [device.capacityInKB >> 10 for device in config.hardware.device if hasattr(device, "capacityInKB")]
        return Found(
            uid=config.instanceUuid or "",
            name=config.name or "",
            ours=mark is not None and mark.owner == OWNER,
            on=power == "poweredOn",
            cpus=config.hardware.numCPU,
            memory_mib=config.hardware.memoryMB,
            disks_mib=tuple(sorted(sizes)),
        )

    def orphans(self, living: Collection[str]) -> list[str]:
        return self.admin.orphans()

    def theirs(self) -> str:
        return "\n".join(self.admin.fingerprint(moid) for moid in self._theirs)

    # -- what may be done to it ----------------------------------------------------------------------------------------

    def pause(self) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def fill(self, spare_bytes: int) -> None:
        for method in ("CloneVM_Task", "CreateVM_Task"):
            self._server.control("faults", method=method, fault="NoDiskSpace", in_task=True, count=0)

    def make_room(self) -> None:
        self._server.control("reset")

    def said(self) -> str:
        return f"--- vcsim\n{self._server.log()[-2000:]}"
