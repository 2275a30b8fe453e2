"""A real Kubernetes API on this machine: etcd, kube-apiserver, kube-controller-manager, and no nodes."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from common.pki import Authority
from cryptography.hazmat.primitives import serialization
from tools.gomodule import program

SOURCES = Path(__file__).resolve().parents[1] / "tools" / "kubernetes"
START_SECONDS = 120.0
END_SECONDS = 30.0
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
AUDITED = "system:serviceaccounts:virtrigaud-system"
"""Group of the accounts whose requests are recorded: those of the namespace that the chart is installed in."""
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": [AUDITED]}, {"level": "None"}],
}
APPLY = "application/apply-patch+yaml"

Object = dict[str, Any]  # Any: JSON


class Cluster:
    """One control plane. Pods are stored and never run, as nothing runs them.

    Attributes:
        url: of the API server.
        kubeconfig: of a user who may do everything.
        authority: file with the certificate that the API server's is signed by.
    """

    def __init__(self, home: Path, *, token: str = "", without: tuple[str, ...] = (), scheduler: bool = False) -> None:
        """Prepare nothing yet.

        Args:
            home: for its data, certificates and logs.
            token: the administrator's; empty: a random one.
            without: controllers of kube-controller-manager that are left out.
            scheduler: whether pods are given nodes; else whoever wants to, does.
        """
        self.home = home
        self._token = token or secrets.token_urlsafe(24)
        self._scheduler = scheduler
        self._controllers = ",".join(["*", *(f"-{name}" for name in without)])
        self.url = ""
        self.kubeconfig = home / "admin.kubeconfig"
        self.authority = home / "pki" / "ca.crt"
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        """Start it, and wait until it serves.

        Raises:
            GoUnavailableError: it cannot be built here.
            RuntimeError: it did not start; the text holds the log.
        """
        etcd, apiserver, controllers, scheduler = programs()
        try:
            self._start(etcd, apiserver, controllers)
            if self._scheduler:
                self._run(
                    scheduler, "--kubeconfig", str(self.kubeconfig), "--leader-elect=false", "--secure-port", "0",
                    "--authentication-skip-lookup",
                )  # fmt: skip
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, etcd: Path, apiserver: Path, controllers: Path) -> None:
        client, peer, api = free_ports(3)
        self.url = f"https://127.0.0.1:{api}"
        tls = Authority.create(self.home / "pki").issue(self.home / "pki" / "api", "kubernetes", ["127.0.0.1"])
        tokens = self.home / "tokens.csv"
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        tokens.chmod(0o600)
        public = self.home / "pki" / "accounts.pub"
        public.write_bytes(_public(tls.key))
        self.write_kubeconfig(self.kubeconfig, self._token)
        policy = self.home / "audit.policy"
        policy.write_text(json.dumps(AUDIT))
        self._run(
            etcd, "--data-dir", str(self.home / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{client}",
            "--advertise-client-urls", f"http://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", f"default=http://127.0.0.1:{peer}",
        )  # fmt: skip
        self._run(
            apiserver, "--etcd-servers", f"http://127.0.0.1:{client}",
            "--bind-address", "127.0.0.1", "--secure-port", str(api), "--advertise-address", "127.0.0.1",
            "--tls-cert-file", str(tls.cert), "--tls-private-key-file", str(tls.key),
            "--token-auth-file", str(tokens), "--authorization-mode", "RBAC",
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", str(public), "--service-account-signing-key-file", str(tls.key),
            "--service-cluster-ip-range", "10.96.0.0/24", "--endpoint-reconciler-type", "none",
            "--audit-policy-file", str(policy), "--audit-log-path", str(self.home / "audit"),
        )  # fmt: skip
        self.wait_for("/readyz")
        self._run(
            controllers, "--kubeconfig", str(self.kubeconfig), "--leader-elect=false", "--secure-port", "0",
            "--use-service-account-credentials=false", "--service-account-private-key-file", str(tls.key),
            "--root-ca-file", str(self.authority), "--controllers", self._controllers,
        )  # fmt: skip
        self.wait_for("/api/v1/namespaces/default/serviceaccounts/default")

    def write_kubeconfig(self, file: Path, token: str, namespace: str = "default") -> Path:
        """A kubeconfig for whoever has this token."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
        }  # fmt: skip
        file.write_text(json.dumps(config))
        file.chmod(0o600)
        return file

    def account(self, file: Path, namespace: str, name: str) -> Path:
        """A kubeconfig of a ServiceAccount, with all the rights that it has and no others."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = json.loads(self.ask(path, {"spec": {"expirationSeconds": 7200}}))
        return self.write_kubeconfig(file, answer["status"]["token"], namespace)

    def ask(self, path: str, body: object = None, method: str = "", kind: str = "application/json") -> bytes:
        """A GET of the administrator's; with a body a POST. Raises: urllib.error.URLError."""
        user = json.loads(self.kubeconfig.read_text())["users"][0]["user"]
        headers = {"Authorization": f"Bearer {user['token']}", "Content-Type": kind}
        data = json.dumps(body).encode() if body is not None else None
        question = urllib.request.Request(self.url + path, data, headers, method=method or None)
        trust = ssl.create_default_context(cafile=str(self.authority))
        with urllib.request.urlopen(question, timeout=10, context=trust) as answer:
            return bytes(answer.read())

    def path_of(self, body: Object, namespace: str) -> str:
        """URL of an object, as the server's own discovery says."""
        group = "/api/v1" if body["apiVersion"] == "v1" else f"/apis/{body['apiVersion']}"
        served = json.loads(self.ask(group))["resources"]
        (kind,) = (each for each in served if each["kind"] == body["kind"] and "/" not in each["name"])
        place = f"/namespaces/{body['metadata'].get('namespace', namespace)}" if kind["namespaced"] else ""
        return f"{group}{place}/{kind['name']}/{body['metadata']['name']}"

    def try_out(self, body: Object, namespace: str) -> str:
        """What the server has against an object, an unknown field included; it is not stored. Empty: nothing."""
        query = "?dryRun=All&fieldValidation=Strict&fieldManager=tests&force=true"
        try:
            self.ask(self.path_of(body, namespace) + query, body, "PATCH", APPLY)
        except urllib.error.HTTPError as error:
            return str(json.loads(error.read())["message"])
        return ""

    def make(self, body: Object, namespace: str = "default") -> None:
        """Create or change an object, as its manifest says."""
        path = self.path_of(body, namespace)
        self.ask(f"{path}?fieldManager=tests&force=true", body, "PATCH", APPLY)

    def audited(self) -> list[Object]:
        """Requests of the chart's accounts so far, as the server's audit log has them."""
        log = self.home / "audit"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def log(self) -> str:
        """The ends of its logs."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.home.glob("*.log")))

    def close(self) -> None:
        """End it."""
        for running in reversed(self._programs):
            running.terminate()
            try:
                running.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait(END_SECONDS)
        self._programs.clear()

    def _run(self, executable: Path, *arguments: str) -> None:
        with (self.home / f"{executable.name}.log").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", "--", str(executable), *arguments]
            self._programs.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            )

    def wait_for(self, path: str) -> None:
        """Until the API server answers a question well."""
        end = time.monotonic() + START_SECONDS
        while True:
            for running in self._programs:
                if running.poll() is not None:
                    raise RuntimeError(f"the cluster did not start: {self.log()}")
            try:
                self.ask(path)
                return
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"no answer to {path}: {error}\n{self.log()}") from error
            time.sleep(0.1)


def programs() -> list[Path]:
    """etcd and the three of Kubernetes' control plane, built if they are not yet. Raises: GoUnavailableError."""
    linker = f"-X k8s.io/component-base/version.gitVersion={_version()}"
    return [program(SOURCES, name, linker=linker) for name in PROGRAMS]


def _version() -> str:
    """Of Kubernetes, as go.mod pins it."""
    line = next(line for line in (SOURCES / "go.mod").read_text().splitlines() if "k8s.io/kubernetes v" in line)
    return line.split()[1]


def _public(key: Path) -> bytes:
    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(serialization.Encoding.PEM, form)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: these programs cannot choose their own."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
