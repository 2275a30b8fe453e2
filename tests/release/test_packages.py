"""Each package alone: it builds, installs with nothing but what it asks for, and starts."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = sorted(
    path.parent for pattern in ("libs/*", "services/*", "cli") for path in ROOT.glob(pattern + "/pyproject.toml")
)
OWN = "virtrigaud-"
PROJECTS: dict[str, dict[str, Any]] = {}  # Any: TOML
for member in MEMBERS:
    table = tomllib.loads((member / "pyproject.toml").read_text())
    PROJECTS[table["project"]["name"]] = {**table["project"], "module": table["tool"]["uv"]["build-backend"]}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def needed(name: str) -> set[str]:
    """A package and those of ours that it stands on."""
    asked = [each.split(">")[0].split("~")[0].split("=")[0].split("[")[0] for each in PROJECTS[name]["dependencies"]]
    own = {each for each in asked if each.startswith(OWN)}
    return {name}.union(*(needed(each) for each in own))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each, built alone from its own source distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in PROJECTS:
        run("uv", "build", "--quiet", "--package", name, "--out-dir", folder)
    return {name: next(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in PROJECTS}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PROJECTS)
def test_it_installs_and_starts_alone(wheels: dict[str, Path], tmp_path: Path, name: str) -> None:
    project, home = PROJECTS[name], tmp_path / "venv"
    assert wheels[name].name.split("-")[1] == project["version"]
    pins = tmp_path / "pins.txt"
    pins.write_text(run("uv", "export", "--quiet", "--package", name, "--frozen", "--no-dev", "--no-emit-workspace",
                        "--no-hashes"))  # fmt: skip
    run("uv", "venv", "--quiet", home)
    python = home / "bin" / "python"
    ours = [str(wheels[each]) for each in sorted(needed(name))]
    run("uv", "pip", "install", "--quiet", "--python", python, "--constraints", pins, *ours)
    run("uv", "pip", "check", "--quiet", "--python", python)

    module = project["module"]["module-name"]
    said = run(python, "-c", f"import importlib.metadata, {module}; print(importlib.metadata.version({name!r}))")
    assert said.strip() == project["version"]
    for command in project.get("scripts", {}):
        assert "usage" in run(home / "bin" / command, "--help").lower()
    others = {PROJECTS[each]["module"]["module-name"] for each in PROJECTS.keys() - needed(name)}
    probe = f"import importlib.util; print([m for m in {sorted(others)!r} if importlib.util.find_spec(m)])"
    assert run(python, "-c", probe).strip() == "[]", "something of ours that it does not ask for"
