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
from .images import BASE, BUILDER, ROOT

FILES = ("docker-compose.yml", "tests/stack/docker-compose.override.yml")
PORTS = ("API_PORT", "LIBVIRT_PORT", "VSPHERE_PORT", "PROXMOX_PORT", "PROMETHEUS_PORT")
PATIENCE = 90.0
PROJECT = "virtrigaud-test"

Object = dict[str, Any]  # Any: JSON


class Stack:
    """One project of its own name and at ports of its own."""

    def __init__(self, host: str, home: Path) -> None:
        """Args: host: the engine's. home: for the administrator's keys."""
        self.keys = home
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
            **{name: str(port) for name, port in self.ports.items()},
            "DOCKER_HOST": host, "COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_PROFILES": "embedded,sim",
            "KEYS": str(home), "BASE": BASE, "BUILDER": BUILDER,
        }  # fmt: skip

    def compose(self, *arguments: str, **settings: str) -> str:
        """Run docker-compose (v1) or docker compose (v2), which must succeed; answers with what it says."""
        tool = [command("docker-compose")] if shutil.which("docker-compose") else [command("docker"), "compose"]
        files = [word for file in FILES for word in ("--file", file)]
        return self._run([*tool, *files, "--project-directory", str(ROOT), *arguments], settings)

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
        label = f"label=com.docker.compose.project={PROJECT}"
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
        url = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}/api/v1/query?"
        with urllib.request.urlopen(url + urllib.parse.urlencode({"query": expression}), timeout=10) as answer:
            found: list[Object] = json.load(answer)["data"]["result"]
        return found

    def spans(self) -> list[Object]:
        """Everything that the collector has kept, each with its service's name."""
        copy = self.keys / "spans.json"
        self.docker("cp", f"{self.container('otel-collector')['Id']}:/spans/spans.json", str(copy))
        found = []
        for line in copy.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                names = {each["key"]: each["value"].get("stringValue") for each in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    found += [{**span, "service": names["service.name"]} for span in scope["spans"]]
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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: docker publishes at given ones."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
