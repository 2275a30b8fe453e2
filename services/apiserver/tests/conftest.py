"""Servers to test against: one in this process (spoken to by ASGI), and a real one as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import trustme
import yaml
from apiserver.auth import Tokens, User
from apiserver.logs import configure
from apiserver.server import Instance, running
from apiserver.store import Store

TOKEN = "test-token"  # opens nothing but servers of these tests
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/test.virtrigaud.io/v1/namespaces/default/widgets"
FIXTURES = Path(__file__).parent / "fixtures"


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        return [v for k, v in self.headers if k == name]


@dataclass
class Client:
    """Speaks ASGI to an application, as one HTTP request a call."""

    app: Any
    token: str = TOKEN
    headers: dict[str, str] = field(default_factory=dict)

    def scope(self, method: str, url: str, headers: dict[str, str]) -> dict[str, Any]:
        """Return the ASGI scope of a request."""
        parts = urlsplit(url)
        sent = {"authorization": f"Bearer {self.token}", "host": "test", **self.headers, **headers}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "root_path": "",
            "query_string": parts.query.encode(),
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in sent.items() if v],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 443),
        }

    async def call(
        self, method: str, url: str, body: Any = None, *, kind: str = "application/json", **headers: str
    ) -> Reply:
        """Send a request; a body that is not bytes goes as JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        if body is not None:
            names.setdefault("content-type", kind)
        inbox = [{"type": "http.request", "body": data, "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop(0)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(self.scope(method, url, names), receive, send)
        head = [(k.decode(), v.decode("latin-1")) for k, v in sent[0]["headers"]]
        return Reply(sent[0]["status"], head, b"".join(m.get("body", b"") for m in sent[1:]))

    async def get(self, url: str, **headers: str) -> Reply:
        """GET."""
        return await self.call("GET", url, **headers)

    async def post(self, url: str, body: Any, **headers: str) -> Reply:
        """POST."""
        return await self.call("POST", url, body, **headers)

    async def put(self, url: str, body: Any) -> Reply:
        """PUT."""
        return await self.call("PUT", url, body)

    async def delete(self, url: str, body: Any = None) -> Reply:
        """DELETE."""
        return await self.call("DELETE", url, body)

    async def patch(self, url: str, body: Any, how: str = "merge") -> Reply:
        """PATCH: merge, json, strategic or apply."""
        kinds = {
            "merge": "application/merge-patch+json",
            "json": "application/json-patch+json",
            "strategic": "application/strategic-merge-patch+json",
            "apply": "application/apply-patch+yaml",
        }
        return await self.call("PATCH", url, body, kind=kinds[how])

    @asynccontextmanager
    async def watch(self, url: str, **headers: str) -> AsyncIterator[Stream]:
        """Open a watch; the client goes away at the end of the block."""
        gone = asyncio.Event()
        stream = Stream()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with asyncio.TaskGroup() as group:
            scope = self.scope("GET", url, {k.replace("_", "-"): v for k, v in headers.items()})
            task = group.create_task(self.app(scope, receive, stream.send))
            try:
                async with asyncio.timeout(10):
                    await stream.started.wait()
                yield stream
            finally:
                gone.set()
                stream.hold.set()
                async with asyncio.timeout(10):
                    await task


class Stream:
    """What a watch has sent; clear `hold` to be a client that does not read."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        self.status = 0
        self.ended = False
        self._lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def send(self, message: dict[str, Any]) -> None:
        """Take what the server sends."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started.set()
            return
        await self.hold.wait()
        for line in message.get("body", b"").splitlines():
            self._lines.put_nowait(json.loads(line))
        if not message.get("more_body"):
            self.ended = True
            self._lines.put_nowait(None)

    async def next(self) -> dict[str, Any] | None:
        """Return the next event; None at the end of the stream."""
        async with asyncio.timeout(10):
            return await self._lines.get()

    async def until(self, kind: str, name: str) -> dict[str, Any]:
        """Skip to an event of this type about this object."""
        while (event := await self.next()) is not None:
            if event["type"] == kind and event["object"]["metadata"].get("name") == name:
                return event
        raise AssertionError(f"the stream ended before {kind} {name}")


def widget(name: str = "w1", **spec: Any) -> dict[str, Any]:
    """Return a small valid custom resource."""
    return {
        "apiVersion": "test.virtrigaud.io/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"cpu": 2, **spec},
    }


def widget_crd() -> dict[str, Any]:
    """Return the definition of the kind that these tests use."""
    found: dict[str, Any] = yaml.safe_load((FIXTURES / "widgets.yaml").read_text())
    return found


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Log as in production."""
    configure("warning")


@pytest.fixture(scope="session")
def make_widget() -> Any:
    """The function that makes widgets."""
    return widget


@pytest.fixture
def clock() -> Clock:
    """The clock of the server in this process."""
    return Clock()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where syncing costs nothing: durability has tests of its own."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture
async def instance(memory: Path, clock: Clock) -> AsyncIterator[Instance]:
    """A server in this process, with the test's definition served."""
    ready: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        tokens = Tokens(
            [
                (TOKEN, User("admin", "1", ("system:masters", "system:authenticated"))),
                ("watching-token", User("prometheus", "2", ("system:monitoring", "system:authenticated"))),
            ]
        )
        async with running(Store(memory / "data"), tokens, clock=clock, crds=FIXTURES) as made:
            ready.set_result(made)
            await over.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(live())
        yield await ready
        over.set()


@pytest.fixture
def api(instance: Instance) -> Client:
    """A client of the server in this process."""
    return Client(instance.application)


@dataclass
class Process:
    """A real server process."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it and wait until it answers; a server that dies instead fails the test."""
        (self.directory / "data" / "endpoint").unlink(missing_ok=True)
        command = [sys.executable, "-m", "apiserver", "--listen", "127.0.0.1:0", "--crds", str(FIXTURES)]
        for flag, name in (("data-dir", "data"), ("tls-cert", "cert.pem"), ("tls-key", "key.pem")):
            command += [f"--{flag}", str(self.directory / name)]
        command += ["--token-file", str(self.directory / "tokens.csv"), *options]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        deadline = time.monotonic() + 20
        while not (self.directory / "data" / "endpoint").exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, "the server is not ready after 20 s"
            time.sleep(0.01)

    def log(self) -> str:
        """What it wrote."""
        return (self.directory / "log").read_text()

    @property
    def url(self) -> str:
        """Where it listens."""
        return "https://" + (self.directory / "data" / "endpoint").read_text().strip()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def kubeconfig(self) -> Path:
        """Write a kubeconfig for it."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.directory / "ca.pem")},
                }
            ],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        path = self.directory / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        return path


def prepare(directory: Path) -> Process:
    """Write certificates and a token for a server below a directory."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    cert = ca.issue_cert("127.0.0.1", "localhost")
    cert.private_key_pem.write_to_path(directory / "key.pem")
    for index, blob in enumerate(cert.cert_chain_pems):
        blob.write_to_path(directory / "cert.pem", append=index > 0)
    (directory / "tokens.csv").write_text(f"{TOKEN},admin,1\n")
    return Process(directory)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A server that is prepared and not started."""
    made = prepare(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end()


@pytest.fixture(scope="session")
def shared_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One running server for all tests that only need one."""
    made = prepare(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    assert made.end() == 0
    log = made.log()
    assert "defect" not in log
    assert TOKEN not in log
    assert "hunter2" not in log  # the secret that tests store


@dataclass
class Kubectl:
    """The real kubectl, in a namespace of its own."""

    path: str
    env: dict[str, str]
    namespace: str

    def run(self, *args: str, stdin: str = "", ok: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it; `ok` demands success, or failure if false."""
        command = [self.path, "--namespace", self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env={**self.env, **env})
        assert (done.returncode == 0) is ok, f"{' '.join(args)}: {done.stdout}{done.stderr}"
        return done

    def __call__(self, *args: str, stdin: str = "") -> str:
        """Run it and return what it printed."""
        return self.run(*args, stdin=stdin).stdout

    def json(self, *args: str) -> Any:
        """Run it with -o json."""
        return json.loads(self(*args, "-o", "json"))

    def fails(self, *args: str, stdin: str = "") -> str:
        """Run what must fail; returns what it wrote on stderr."""
        return self.run(*args, stdin=stdin, ok=False).stderr

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start it in the background."""
        command = [self.path, "--namespace", self.namespace, *args]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)


@pytest.fixture(scope="session")
def kubectl_env(shared_process: Process, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The kubectl binary and the environment in which it finds the shared server."""
    path = shutil.which("kubectl")
    if path is None:
        message = "kubectl is not installed"
        if os.environ.get("REQUIRE_REAL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    home = tmp_path_factory.mktemp("home")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(shared_process.kubeconfig())}
    return path, env


@pytest.fixture
def kubectl(kubectl_env: tuple[str, dict[str, str]], request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a fresh namespace."""
    path, env = kubectl_env
    name = "t-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    tool = Kubectl(path, env, name)
    tool("create", "namespace", name)
    yield tool
    tool("delete", "namespace", name, "--wait=false")
