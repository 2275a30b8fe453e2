"""What no single package can promise: versions fit, documents point at what exists, no machine shows through."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = sorted(
    path.parent for pattern in ("libs/*", "services/*", "cli") for path in ROOT.glob(pattern + "/pyproject.toml")
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")


def project(member: Path) -> dict[str, object]:
    return tomllib.loads((member / "pyproject.toml").read_text())["project"]


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    return [ROOT / name for name in listing.decode().split("\0") if name]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_siblings_fit_the_versions_that_members_ask_for(member: Path) -> None:
    """uv does not compare a workspace member's version with what its siblings demand."""
    versions = {str(project(m)["name"]): Version(str(project(m)["version"])) for m in MEMBERS}
    dependencies = project(member)["dependencies"]
    assert isinstance(dependencies, list)
    for requirement in map(Requirement, dependencies):
        if requirement.name in versions:
            assert versions[requirement.name] in requirement.specifier, f"{member.name} asks for {requirement}"


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_each_package_has_a_readme_and_its_version_in_the_changelog(member: Path) -> None:
    assert (member / "README.md").read_text().startswith("# ")
    assert f"## {project(member)['version']}" in (member / "CHANGELOG.md").read_text()


def test_W74_documents_link_to_files_that_exist() -> None:
    """Documentation that drifts from the tree misleads; a dead link is the first sign."""
    dead = [
        f"{path.relative_to(ROOT)} -> {target}"
        for path in tracked_files()
        if path.suffix == ".md" and path.exists()
        for target in LINK.findall(path.read_text())
        if not (path.parent / target).exists()
    ]
    assert dead == []


def test_every_threat_names_tests_that_exist() -> None:
    """A line of the threat model is worth what fails when it is no longer true."""
    text = (ROOT / "docs" / "security.md").read_text()
    rows = [line for line in text[text.index("## Threats") :].splitlines() if line.startswith("| ")]
    threats = [row for row in rows if not row.startswith(("| Threat |", "| --- |"))]
    assert len(threats) > 15
    missing = []
    for threat in threats:
        named = re.findall(r"`([^`]+)::(test_\w+)`", threat.rsplit("|", 2)[1])
        assert named, f"no test holds: {threat}"
        missing += [
            f"{path}::{test}"
            for path, test in named
            if not (ROOT / path).exists() or not re.search(rf"\bdef {test}\(", (ROOT / path).read_text())
        ]
    assert missing == []


def test_nothing_of_one_machine_is_committed() -> None:
    """Absolute paths of a work place have no meaning anywhere else."""
    needle = str(ROOT).encode() + b"/"
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.is_file() and not path.is_symlink() and needle in path.read_bytes()
    ]
    assert found == []


def test_the_table_of_weak_spots_is_current() -> None:
    check = subprocess.run(
        [sys.executable, "scripts/weak_spots.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr
