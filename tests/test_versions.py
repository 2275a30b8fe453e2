"""Which release runs: told by every command before it needs a setting, by its metrics, and over the wire."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib
import urllib.request
from importlib.metadata import version
from pathlib import Path

import processes
import pytest
from common import v1

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    command: project["name"]
    for path in sorted(ROOT.glob("*/pyproject.toml")) + sorted(ROOT.glob("*/*/pyproject.toml"))
    for project in [tomllib.loads(path.read_text()).get("project", {})]
    for command in project.get("scripts", {})
}
PROVIDERS = {
    "libvirt": ("provider_libvirt", "virtrigaud-provider-libvirt", ["--endpoint", "test:///default"]),
    "fake": ("providerkit.fake", "virtrigaud-providerkit", []),
}


def test_every_command_is_known() -> None:
    assert len(COMMANDS) == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_it_tells_its_version_and_needs_nothing_for_it(command: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / command), "--version"],
        capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{command} {version(COMMANDS[command])}\n"


@pytest.mark.parametrize("type", PROVIDERS)
async def test_a_provider_tells_the_same_one_by_its_metrics_and_over_the_wire(type: str, tmp_path: Path) -> None:
    module, distribution, flags = PROVIDERS[type]
    async with processes.provider(module, tmp_path, "tests", *flags, "--metrics-address", "127.0.0.1:0") as running:
        async with running.service("ProviderService") as provider:
            told = await provider.get_provider(v1.GetProviderRequest(), timeout=20)
        page = await asyncio.to_thread(_metrics, tmp_path / "log")
    assert told.version == version(distribution)
    build = next(line for line in page.splitlines() if line.startswith("virtrigaud_build_info{"))
    assert f'service="virtrigaud-provider-{type}",version="{version(distribution)}"' in build


def _metrics(log: Path) -> str:
    told = next(json.loads(line) for line in log.read_text().splitlines() if '"provider.metrics"' in line)
    with urllib.request.urlopen(f"http://{told['host']}:{told['port']}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text
