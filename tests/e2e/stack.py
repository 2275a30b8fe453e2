"""The embedded stack as a user has it: kubectl in front, and behind, for most tests, a private libvirtd with virsh."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libvirtd.private import PrivateLibvirtd

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "quickstart"
GROUP = "infra.virtrigaud.io/v1beta1"
SHARED = "default"
"""Namespace of the provider, the classes and the image that every test uses."""
PATIENCE = 60.0
"""Longest wait in seconds for what takes a few; a busy machine needs more."""

Object = dict[str, Any]  # Any: JSON


class Embedded:
    """One embedded stack without any hypervisor. Every question goes through kubectl; every wait is its."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.kubeconfig = home / "kubeconfig"
        self.environment: dict[str, str] = {}
        """Further settings of all its processes."""

    def up(self) -> None:
        self.vrtg("up")

    def down(self) -> None:
        self.vrtg("down")

    def vrtg(self, *arguments: str) -> str:
        """Run vrtg on this stack."""
        environment = {**os.environ, **self.environment, "VIRTRIGAUD_HOME": str(self.home)}
        environment.pop("KUBECONFIG", None)
        command = [sys.executable, "-m", "vrtg", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150, check=False)
        assert result.returncode == 0, f"vrtg {' '.join(arguments)}: {result.stderr}\n{self.logs()}"
        return result.stdout

    # -- kubectl ---------------------------------------------------------------------------------------------------

    def _kubectl(self, arguments: tuple[str, ...], stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self.home / "cache"), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180, check=False)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl, which must succeed."""
        result = self._kubectl(arguments, stdin)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stderr}{result.stdout}"
        return result.stdout

    def refused(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl, which must fail; answers with what it says."""
        result = self._kubectl(arguments, stdin)
        assert result.returncode != 0, f"kubectl {' '.join(arguments)} succeeded: {result.stdout}"
        return result.stderr

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n".join(json.dumps(body) for body in objects))

    def get(self, kind: str, name: str, namespace: str = SHARED) -> Object:
        body: Object = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return body

    def patch(self, kind: str, name: str, spec: Object, namespace: str = SHARED) -> None:
        self.kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps({"spec": spec}))

    def wait(self, kind: str, name: str, what: str, namespace: str = SHARED, seconds: float = PATIENCE) -> None:
        """As `kubectl wait --for=WHAT`, for condition=TYPE[=STATUS] and jsonpath={.a.b[0]}[=VALUE].

        Debian's kubectl (1.20) knows no jsonpath, so it only watches, and we look.
        """
        self.wait_until(kind, name, _holds(what), namespace, seconds)

    def wait_gone(self, kind: str, name: str, namespace: str, seconds: float = PATIENCE) -> None:
        self.kubectl("wait", f"{kind}/{name}", "-n", namespace, "--for=delete", f"--timeout={seconds:g}s")

    def wait_until(
        self, kind: str, name: str, holds: Callable[[Object], bool], namespace: str = SHARED, seconds: float = PATIENCE
    ) -> Object:
        """`kubectl get --watch` until something holds of the object; answers with it.

        By a selector, not by name: of a single object, kubectl drops the first event, and what it missed with it.
        """
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self.home / "cache")]
        command += [
            "get",
            kind,
            "--field-selector",
            f"metadata.name={name}",
            "-n",
            namespace,
            "--watch",
            "-o",
            "json",
            f"--request-timeout={seconds:g}s",
        ]
        text, last = "", {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as watch:
            assert watch.stdout is not None
            for line in watch.stdout:
                text += line
                if line != "}\n":
                    continue
                last, text = json.loads(text), ""
                if holds(last):
                    watch.terminate()
                    return last
        fresh = self.get(kind, name, namespace)
        # Both are told apart: an object that is wrong, and a watch that did not tell of the right one.
        why = "the watch did not tell that it holds by now" if holds(fresh) else "it does not hold"
        raise AssertionError(f"{kind} {name} after {seconds:g} s: {why}: {json.dumps(fresh, indent=1)}\n{self.logs()}")

    def wait_said(self, kind: str, name: str, what: str, text: str, namespace: str, seconds: float = PATIENCE) -> str:
        """Wait until a condition's message holds a text; answers with the message."""
        body = self.wait_until(
            kind, name, lambda body: text in condition(body, what).get("message", ""), namespace, seconds
        )
        return str(condition(body, what)["message"])

    def events(self, name: str, namespace: str) -> list[str]:
        """Reasons of a machine's events."""
        selector = f"involvedObject.name={name}"
        items = json.loads(self.kubectl("get", "events", "-n", namespace, "--field-selector", selector, "-o", "json"))
        return [item["reason"] for item in items["items"]]

    # -- processes -------------------------------------------------------------------------------------------------

    def component_pid(self, name: str) -> int:
        """Process of the apiserver or the controller."""
        state = json.loads((self.home / "run" / "state.json").read_text())
        return int(state["components"][name]["pid"])

    def controller_pid(self) -> int:
        return self.component_pid("controller")

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until it is gone."""
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            assert select.select([descriptor], [], [], 10)[0], f"process {pid} survived SIGKILL"
        finally:
            os.close(descriptor)

    def logs(self) -> str:
        """The last lines of every log, for the reader of a failure."""
        parts = []
        newest = sorted((self.home / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)[-4:]
        for path in newest:
            lines = [line for line in path.read_text(errors="replace").splitlines() if "health.changed" not in line]
            parts.append(f"--- {path.name}\n" + "\n".join(line[:300] for line in lines[-8:]))
        return "\n".join(parts)


class Stack(Embedded):
    """With a private libvirtd, which virsh asks, and the guest image."""

    def __init__(self, home: Path, libvirtd: PrivateLibvirtd, image: Path) -> None:
        super().__init__(home)
        self.libvirtd, self.image = libvirtd, image

    def up(self) -> None:
        (self.home / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.image, self.home / "images" / "virtrigaud-guest.qcow2")
        self.start()

    def start(self) -> None:
        """Bring up what serves the API, and the controller."""
        super().up()

    def virsh(self, *arguments: str) -> str:
        command = ["virsh", "-q", "-c", self.libvirtd.uri, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def domains(self) -> dict[str, str]:
        """State of every domain, by name."""
        lines = [line.split(None, 2) for line in self.virsh("list", "--all").splitlines() if line.strip()]
        return {name: state for _, name, state in lines}

    def volumes(self) -> set[str]:
        """Names of every volume in the pool, freshly looked up."""
        self.virsh("pool-refresh", self.libvirtd.pool)
        return {line.split()[0] for line in self.virsh("vol-list", self.libvirtd.pool).splitlines() if line.strip()}


# -- objects -----------------------------------------------------------------------------------------------------------


def manifest(kind: str, name: str, spec: Object, namespace: str = SHARED) -> Object:
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def machine(name: str, namespace: str, **spec: Any) -> Object:  # Any: whatever the spec takes
    """A small machine on the shared provider, class, image and the namespace's own network."""
    whole: Object = {
        "providerRef": {"name": "local", "namespace": SHARED},
        "classRef": {"name": "tiny", "namespace": SHARED},
        "imageRef": {"name": "guest", "namespace": SHARED},
        "networks": [{"name": "eth0", "networkRef": {"name": "wire"}}],
        "powerState": "On",
    }
    return manifest("VirtualMachine", name, {**whole, **spec}, namespace)


def _holds(what: str) -> Callable[[Object], bool]:
    """The predicate that `kubectl wait` calls WHAT."""
    if what.startswith("condition="):
        kind, _, status = what.removeprefix("condition=").partition("=")
        return lambda body: condition(body, kind).get("status") == (status or "True")
    path, _, value = what.removeprefix("jsonpath=").partition("}")
    steps = re.findall(r"[A-Za-z]+|\d+", path)

    def holds(body: Object) -> bool:
        found: Any = body  # Any: JSON
        for step in steps:
            try:
                found = found[int(step)] if step.isdigit() else found[step]
            except (KeyError, IndexError, TypeError):
                return False
        return str(found) == value.removeprefix("=") if value else bool(found)

    return holds


def condition(body: Object, kind: str) -> Object:
    """A condition of an object; empty where it has none."""
    found = [c for c in body.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}
