"""A real embedded API server for the tests of the command line, and a way to run vrtg as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from vrtg.kubeconfig import Target
from vrtg.probes import serves

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ran:
    """What one run of vrtg did."""

    code: int
    out: str
    err: str


Vrtg = Callable[..., Ran]


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kubeconfig of a real API server of our own, with the ten kinds installed."""
    folder = tmp_path_factory.mktemp("apiserver")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    (folder / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "tokens.csv").write_text('t0ken,admin,admin,"system:masters"\n')
    command = [BIN / "virtrigaud-apiserver", "--data-dir", folder / "data", "--listen", "127.0.0.1:0"]
    command += [
        "--tls-cert",
        folder / "tls.crt",
        "--tls-key",
        folder / "tls.key",
        "--token-file",
        folder / "tokens.csv",
    ]
    command += ["--crds", ROOT / "deploy" / "crds"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            endpoint = _endpoint(server, folder / "data" / "endpoint", folder / "log")
            path = folder / "kubeconfig"
            path.write_text(
                f"""apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: c, cluster: {{server: "https://{endpoint}", certificate-authority: ca.crt}}}}]
users: [{{name: u, user: {{token: t0ken}}}}]
contexts: [{{name: test, context: {{cluster: c, user: u}}}}]
"""
            )
            target = Target(
                f"https://{endpoint}", "test", ca=(folder / "ca.crt").read_bytes(), authorization="Bearer t0ken"
            )
            assert _until(lambda: serves(target, "/readyz"), server), (folder / "log").read_text()
            yield path
        finally:
            server.terminate()


def _endpoint(server: subprocess.Popen[bytes], path: Path, log: Path) -> str:
    assert _until(lambda: path.exists() and path.read_text().strip() != "", server), log.read_text()
    return path.read_text().strip()


def _until(reached: Callable[[], bool], server: subprocess.Popen[bytes], seconds: float = 30.0) -> bool:
    """Ask until it is so, the process ends, or the time is up; the wait between is on the process."""
    for _ in range(int(seconds / 0.05)):
        if reached():
            return True
        try:
            server.wait(0.05)
            return False
        except subprocess.TimeoutExpired:
            continue
    return False


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def vrtg(kubeconfig: Path, home: Path) -> Vrtg:
    """Run vrtg as a process against the API server."""

    def run(*arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> Ran:
        given = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "VIRTRIGAUD_HOME": str(home),
            "VRTG_DEBUG": "1",
            **(environment or {}),
        }
        result = subprocess.run(
            [sys.executable, "-m", "vrtg", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=given,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in result.stderr, result.stderr
        return Ran(result.returncode, result.stdout, result.stderr)

    return run
