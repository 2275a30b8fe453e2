"""The stack as its user has it: docker-compose in front, kubectl beside it, and every port on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .engine import command
from .images import BUILT_OF, ROOT, compose2

FILES = ("docker-compose.yml", "tests/stack/docker-compose.override.yml")
PORTS = ("API_PORT", "LIBVIRT_PORT", "VSPHERE_PORT", "PROXMOX_PORT", "PROMETHEUS_PORT", "JAEGER_PORT")
PATIENCE = 90.0
PROJECT = "virtrigaud-test"
PROFILES = "embedded,k3s,sim,real,ui"
SIMULATED = {"COMPOSE_PROFILES": "embedded,sim,jaeger"}

Object = dict[str, Any]  # Any: JSON


class Stack:
    """One project of its own name and at ports of its own."""

    def __init__(
        self, host: str, home: Path, settings: dict[str, str] = SIMULATED, *, project: str = PROJECT, v2: bool = False
    ) -> None:
        """Args:
        host: the engine's.
        home: for the administrator's keys.
        settings: what a user would write into .env.
        v2: run Compose v2; else the Compose that is installed.
        """
        self.keys, self.project = home, project
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.tool = version2() if v2 else installed()
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
            **{name: str(port) for name, port in self.ports.items()},
            "PATH": f"{Path(command('docker')).parent}:{os.environ['PATH']}",  # v1 builds by it
            "DOCKER_HOST": host, "COMPOSE_PROJECT_NAME": project, "KEYS": str(home), **BUILT_OF, **settings,
        }  # fmt: skip

    def compose(self, *arguments: str, **settings: str) -> str:
        """Run Compose, which must succeed; answers with what it says."""
        files = [word for file in FILES for word in ("--file", file)]
        return self._run([*self.tool, *files, "--project-directory", str(ROOT), *arguments], settings)

    def up(self) -> None:
        """As users start it, but for the images, which are there."""
        self.compose("up", "--detach", "--no-build")

    def clear(self) -> None:
        """End it, and nothing of it is left, of whichever profile."""
        self.compose("down", "--volumes", "--remove-orphans", COMPOSE_PROFILES=PROFILES)
        label = f"label=com.docker.compose.project={self.project}"
        for kind in ("container", "network", "volume"):
            listed = [kind, "ls", "--quiet", "--filter", label, *(["--all"] if kind == "container" else [])]
            assert self.docker(*listed) == "", f"a {kind} is left"

    def docker(self, *arguments: str) -> str:
        return self._run([command("docker"), *arguments], {})

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl with the kubeconfig that the stack handed over."""
        config = ["--kubeconfig", str(self.keys / "kubeconfig"), "--cache-dir", str(self.keys / "cache")]
        return self._run([command("kubectl"), *config, *arguments], {})

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Look until it holds; a refused question counts as no."""
        end = time.monotonic() + seconds
        while True:
            problem = ""
            try:
                if holds():
                    return
            except (AssertionError, OSError, KeyError) as error:
                problem = f": {error}"
            assert time.monotonic() < end, f"{what}: not after {seconds:g} s{problem}\n{self.logs()}"
            time.sleep(0.3)

    def containers(self) -> dict[str, Object]:
        """What docker knows of each service's container."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = self.docker("ps", "--all", "--quiet", "--filter", label).split()
        found = json.loads(self.docker("inspect", *ids)) if ids else []
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def container(self, service: str) -> Object:
        return self.containers()[service]

    def healthy(self, *services: str) -> bool:
        found = self.containers()
        return all(found[each]["State"].get("Health", {}).get("Status") == "healthy" for each in services)

    def query(self, expression: str) -> list[Object]:
        """What Prometheus answers."""
        found: list[Object] = self._ask("PROMETHEUS_PORT", "/api/v1/query", query=expression)["data"]["result"]
        return found

    def traces(self, service: str, operation: str) -> list[Object]:
        """The traces that Jaeger has with such a span."""
        found: list[Object] = self._ask("JAEGER_PORT", "/api/traces", service=service, operation=operation)["data"]
        return found

    def _ask(self, port: str, path: str, **question: str) -> Object:
        url = f"http://127.0.0.1:{self.ports[port]}{path}?{urllib.parse.urlencode(question)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: Object = json.load(answer)
        return found

    def logs(self) -> str:
        """The last lines of every service, for the reader of a failure."""
        with contextlib.suppress(AssertionError):  # it serves another failure
            return self.compose("ps", "--all") + self.compose("logs", "--no-color", "--tail=8")[-12000:]
        return ""

    def _run(self, arguments: list[str], settings: dict[str, str]) -> str:
        done = subprocess.run(
            arguments, cwd=ROOT, env={**self._environment, **settings}, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-3000:]}{done.stdout[-1000:]}"
        return done.stdout


def installed() -> list[str]:
    """docker-compose (v1) or docker compose (v2), whichever is here."""
    return [command("docker-compose")] if shutil.which("docker-compose") else [command("docker"), "compose"]


def version2() -> list[str]:
    """Compose v2. Raises: GoUnavailableError."""
    return [str(compose2())]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: docker publishes at given ones."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
