"""Build the image of each service with Docker, write its SBOM, and say how large it is and how fast it starts.

    python deploy/images/build.py                        all of them, as virtrigaud/NAME:VERSION and :dev
    python deploy/images/build.py controller --base debian-with-python:mine --builder same-with-pip:mine

The SBOM is a CycloneDX document of what uv.lock puts into the image: dist/images/NAME.cdx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SBOMS = ROOT / "dist" / "images"
STARTS = 3
"""Cold starts that are timed; the median is shown."""


@dataclass(frozen=True)
class Image:
    """One service: its target in the Dockerfile, its package, and where that is."""

    name: str
    package: str
    folder: str

    @property
    def version(self) -> str:
        """Of the service itself: each has its own releases."""
        project = tomllib.loads((ROOT / self.folder / "pyproject.toml").read_text())["project"]
        return str(project["version"])


IMAGES = (
    Image("apiserver", "virtrigaud-apiserver", "services/apiserver"),
    Image("controller", "virtrigaud-controller", "services/controller"),
    Image("provider-libvirt", "virtrigaud-provider-libvirt", "services/provider-libvirt"),
    Image("provider-vsphere", "virtrigaud-provider-vsphere", "services/provider-vsphere"),
    Image("provider-proxmox", "virtrigaud-provider-proxmox", "services/provider-proxmox"),
    Image("cli", "virtrigaud-cli", "cli"),
)


def main() -> int:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(i.name for i in IMAGES)}; all")
    parser.add_argument("--base", help="image that services run on (default: see the Dockerfile)")
    parser.add_argument("--builder", help="image that they are installed in: the same Python, and pip or uv")
    parser.add_argument("--prefix", default="virtrigaud", help="before the images' names: REGISTRY/FOLDER")
    parser.add_argument("--tag", default="dev", help="beside the version")
    parser.add_argument("--docker", default="docker", help="the command")
    args = parser.parse_args()
    chosen = [image for image in IMAGES if image.name in args.names or not args.names]
    if unknown := set(args.names) - {image.name for image in IMAGES}:
        parser.error(f"no image is called {', '.join(sorted(unknown))}")
    for image in chosen:
        build(image, args)
        write_sbom(image)
    print(f"{'image':24}{'version':>9}{'size':>10}{'cold start':>12}{'packages':>10}")
    for image in chosen:
        tag = f"{args.prefix}/{image.name}:{args.tag}"
        seconds, packages = cold_start(args.docker, tag), len(components(image))
        print(
            f"{image.name:24}{image.version:>9}{size(args.docker, tag) / 1e6:>7.0f} MB{seconds:>10.2f} s{packages:>10}"
        )
    return 0


def build(image: Image, args: argparse.Namespace) -> None:
    """Let Docker build one target.

    Raises:
        subprocess.CalledProcessError: it did not, and has said why.
    """
    command = [args.docker, "build", "--file", "deploy/images/Dockerfile", "--target", image.name]
    # Labels and not arguments: another commit makes no layer anew.
    for name, value in (("version", image.version), ("revision", revision())):
        command += ["--label", f"org.opencontainers.image.{name}={value}"]
    for name, value in (("BASE", args.base), ("BUILDER", args.builder)):
        command += ["--build-arg", f"{name}={value}"] if value else []
    for tag in (image.version, args.tag):
        command += ["--tag", f"{args.prefix}/{image.name}:{tag}"]
    subprocess.run([*command, "."], cwd=ROOT, check=True, env={**os.environ, "DOCKER_BUILDKIT": "1"})


def revision() -> str:
    """The commit, marked if files differ from it; unknown outside of a checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"
    asked = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def sbom(image: Image) -> Path:
    return SBOMS / f"{image.name}.cdx.json"


def write_sbom(image: Image) -> None:
    """Have uv write down what it installs."""
    SBOMS.mkdir(parents=True, exist_ok=True)
    command = [
        "uv",
        "export",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--format",
        "cyclonedx1.5",
        "--package",
        image.package,
    ]
    command += ["--output-file", str(sbom(image))]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def components(image: Image) -> list[dict[str, object]]:
    """What the SBOM lists."""
    found: list[dict[str, object]] = json.loads(sbom(image).read_text())["components"]
    return found


def size(docker: str, tag: str) -> int:
    """Bytes of an image, uncompressed."""
    asked = [docker, "image", "inspect", "--format", "{{.Size}}", tag]
    return int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def cold_start(docker: str, tag: str) -> float:
    """Seconds from `docker run` until the service, locked down, has read its settings and would begin."""
    command = [docker, "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", tag, "--help"]
    taken = []
    for _ in range(STARTS):
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.monotonic() - began)
    return sorted(taken)[STARTS // 2]


if __name__ == "__main__":
    sys.exit(main())
