"""The stack of the end-to-end tests, with a cluster instead of the embedded API server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from e2e.stack import PATIENCE, Stack
from libvirtd.private import PrivateLibvirtd

from .chart import NAMESPACE, RELEASE, controller_arguments, install
from .cluster import Cluster


class ClusterStack(Stack):
    """The chart on a cluster, and its controller here, with the rights and the arguments that the chart gives it.

    But for one: provider servers are processes of the controller's own, on a private libvirtd.
    """

    def __init__(self, home: Path, libvirtd: PrivateLibvirtd, image: Path, cluster: Cluster) -> None:
        super().__init__(home, libvirtd, image)
        self.cluster = cluster
        self.kubeconfig = cluster.kubeconfig
        self._controller: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Install the chart, and start the controller."""
        install(self.cluster, self.home / "helm")
        self.kubectl("wait", "crd", "--all", "--for=condition=Established", f"--timeout={PATIENCE:g}s")
        account = self.cluster.account(self.home / "account.kubeconfig", NAMESPACE, RELEASE)
        ready, logs = self.home / "ready", self.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "controller", *controller_arguments(self.cluster), "--kubeconfig", str(account),
            "--home", str(self.home), "--ready-file", str(ready), "--metrics-address", "127.0.0.1:0",
            "--runtime", "process",
        ]  # fmt: skip
        with (logs / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while not ready.exists():
            assert self._controller.poll() is None, self.logs()
            assert time.monotonic() < end, f"the controller is not ready\n{self.logs()}"
            time.sleep(0.1)

    def down(self) -> None:
        """End the controller, and with it its providers."""
        if self._controller is None:
            return
        self._controller.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._controller.wait(PATIENCE)
        self._controller.kill()
        self._controller.wait()

    def controller_pid(self) -> int:
        assert self._controller is not None
        return self._controller.pid
