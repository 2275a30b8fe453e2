"""Every image of the stack where no registry answers: of debootstrap, apt, the lock file, and Go modules by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster.cluster import programs
from tools.gomodule import GoUnavailableError, program, tool

from .engine import CACHE, Engine, command

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SUITE = "bookworm"
BASE, BUILDER = f"virtrigaud-test/base:{SUITE}", f"virtrigaud-test/builder:{SUITE}"
BUILT_OF = {"BASE": BASE, "BUILDER": BUILDER, "GO": "virtrigaud-test/go", "COLLECTOR": "virtrigaud-test/collector"}
"""What docker-compose.yml takes in place of images of registries."""
INCLUDED = ("ca-certificates", "python3")
LEFT_OUT = ("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "var/cache/*", "var/lib/apt/lists/*")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
INDEX_SETTINGS = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_INDEX_URL", "UV_INSECURE_HOST",
)  # fmt: skip
"""Where this machine has Python packages from: the builder image knows it, and nothing that is built does."""
MODULE_SETTINGS = ("GOFLAGS", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB")


def build_all(engine: Engine) -> None:
    """Build what is missing or was built of other files. Raises: GoUnavailableError."""
    base(engine)
    builder(engine)
    toolchain(engine)
    stand_in(engine, "collector", collector())
    build = [sys.executable, "deploy/images/build.py", "--base", BASE, "--builder", BUILDER]
    subprocess.run([*build, "--docker", command("docker")], cwd=ROOT, check=True, env=engine.environment())
    build = [str(compose2()), "--profile=*", "--progress=quiet", "build"]
    subprocess.run(build, cwd=ROOT, check=True, env={**engine.environment(), **BUILT_OF})
    stand_in(engine, "prometheus")
    stand_in(engine, "jaeger", tool(TESTS / "tools" / "jaeger"))
    stand_in(engine, "k3s", *programs(), TESTS / "stack" / "k3s")
    stand_in(engine, "kvm", TESTS / "stack" / "sshd_config")


def mirror() -> str:
    """Where this machine's apt has Debian from; the first line of its sources that says so."""
    folder = Path("/etc/apt")
    for file in sorted([folder / "sources.list", *folder.glob("sources.list.d/*")]):
        text = file.read_text() if file.is_file() else ""
        found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[[^]]*\]\s*)?)(https?://\S+/debian/?)(?:\s|$)", text, re.MULTILINE)
        if found:
            return found[1]
    raise RuntimeError("no line of apt's sources names a mirror of Debian")


def base(engine: Engine) -> None:
    """What services run on, imported from debootstrap; its archive is kept in .cache."""
    if engine.has(BASE):
        return
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        print(f"==> base image: debootstrap {SUITE} ...", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            root, half = Path(place) / "root", Path(place) / "half.tar"
            _quietly(
                command("debootstrap"),
                "--variant=minbase",
                f"--include={','.join(INCLUDED)}",
                SUITE,
                str(root),
                mirror(),
            )
            excluded = [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
            _quietly("tar", "-C", str(root), *excluded, "-cf", str(half), ".")
            half.rename(archive)
    engine.run("import", "--change", "ENV LANG=C.UTF-8", str(archive), BASE)


def builder(engine: Engine) -> None:
    """What packages are installed in: the base, this machine's uv, and how it reaches package indices."""
    lines = [f"FROM {BASE}", "COPY uv /usr/local/bin/uv"]
    lines += [
        "RUN apt-get update && apt-get install -y --no-install-recommends python3-dev && rm -rf /var/lib/apt/lists/*"
    ]
    lines += [f"ENV {name}={os.environ[name]}" for name in INDEX_SETTINGS if os.environ.get(name)]
    with tempfile.TemporaryDirectory() as place:
        uv = shutil.which("uv")
        assert uv is not None, "the tests are run by it"
        shutil.copy(uv, place)
        if AUTHORITIES.exists():
            shutil.copy(AUTHORITIES, place)
            lines += [f"COPY {AUTHORITIES.name} {AUTHORITIES}", f"ENV SSL_CERT_FILE={AUTHORITIES}"]
        if (settings := Path("/etc/uv/uv.toml")).exists():
            shutil.copy(settings, place)
            lines += ["COPY uv.toml /etc/uv/uv.toml"]
        (Path(place) / "Dockerfile").write_text("\n".join(lines) + "\n")
        engine.run("build", "--quiet", "--tag", BUILDER, place)


def toolchain(engine: Engine) -> None:
    """What programs in Go are built in: the builder, this machine's Go, and how it reaches modules."""
    if (go := shutil.which("go")) is None:
        raise GoUnavailableError("no `go` on the path (https://go.dev/dl)")
    asked = [go, "env", "-json", "GOROOT", *MODULE_SETTINGS]
    settings = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    lines = [f"FROM {BUILDER}", "COPY . /usr/local/go", "ENV PATH=/usr/local/go/bin:/usr/bin:/bin"]
    lines += [f"ENV {name}={settings[name]}" for name in MODULE_SETTINGS if settings[name]]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "Dockerfile"
        file.write_text("\n".join(lines) + "\n")
        engine.run("build", "--quiet", "--file", str(file), "--tag", BUILT_OF["GO"], settings["GOROOT"])


def stand_in(engine: Engine, target: str, *files: Path) -> None:
    """One image in place of somebody else's, of these files."""
    with tempfile.TemporaryDirectory() as place:
        for file in files:
            shutil.copy(file, place)
        engine.run(
            "build", "--quiet", "--file", str(TESTS / "stack" / "Dockerfile"), "--target", target,
            "--build-arg", f"BASE={BASE}", "--tag", f"virtrigaud-test/{target}", place,
        )  # fmt: skip


def collector() -> Path:
    """The program of the collector's image. Raises: GoUnavailableError."""
    return program(TESTS / "tools" / "collector")


def compose2() -> Path:
    """Compose v2, as a program of its own. Raises: GoUnavailableError."""
    sources = TESTS / "tools" / "compose"
    (version,) = re.findall(r"docker/compose/v2 (v\S+)", (sources / "go.mod").read_text())
    return tool(sources, linker=f"-X github.com/docker/compose/v2/internal.Version={version}")


def _quietly(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])} failed: {(done.stdout + done.stderr)[-1000:]}")
