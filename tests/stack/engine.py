"""A Docker engine: the one that answers here, or one of our own that is gone at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "stack"
SYSTEM = "unix:///var/run/docker.sock"
START_SECONDS, END_SECONDS = 60.0, 60.0


class EngineUnavailableError(Exception):
    """There is no engine and none can be started; the text says why and what to do."""


def command(name: str) -> str:
    """Path of a program. A distribution's own is preferred: it fits the distribution's engine."""
    found = shutil.which(name, path="/usr/bin:/usr/sbin") or shutil.which(name)
    if found is None:
        raise EngineUnavailableError(f"{name} is not installed (apt-get install docker.io docker-compose debootstrap)")
    return found


class Engine:
    """`with Engine() as engine:` gives one whose address is `engine.host`.

    Its images are kept in .cache/stack/docker between runs; containers, networks and volumes are not its matter.
    """

    def __init__(self) -> None:
        self.host = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._home = Path()
        self._forward = ""
        self._bridge = False

    @property
    def own(self) -> bool:
        """We started it."""
        return self._process is not None

    def __enter__(self) -> Engine:
        """Raises: EngineUnavailableError."""
        for host in filter(None, (os.environ.get("DOCKER_HOST"), SYSTEM)):
            if _answers(host):
                self.host = host
                return self
        if os.geteuid() != 0:
            raise EngineUnavailableError("no Docker engine answers, and starting one takes root")
        daemon = command("dockerd")
        command("iptables")
        self._bridge, self._forward = _has_bridge(), _forward_policy()
        self._home = Path(tempfile.mkdtemp(prefix="vrtg-docker-"))
        self.host = f"unix://{self._home}/docker.sock"
        (CACHE / "docker").mkdir(parents=True, exist_ok=True)
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM", "--"),
                    *(daemon, "--host", self.host, "--data-root", str(CACHE / "docker")),
                    *("--exec-root", str(self._home / "run"), "--pidfile", str(self._home / "pid")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_SECONDS
        while not _answers(self.host):
            if self._process.poll() is not None or time.monotonic() > end:
                text = (self._home / "log").read_text(errors="replace")[-2000:]
                self.close()
                raise EngineUnavailableError(f"dockerd did not start: {text}")
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, *arguments: str, cwd: Path | None = None) -> None:
        """Run docker, which must succeed; what it says is shown."""
        subprocess.run([command("docker"), *arguments], check=True, cwd=cwd, env=self.environment())

    def ask(self, *arguments: str) -> str:
        """Run docker, which must succeed; answers with what it says."""
        asked = [command("docker"), *arguments]
        return subprocess.run(asked, check=True, capture_output=True, text=True, env=self.environment()).stdout.strip()

    def has(self, image: str) -> bool:
        """Whether it holds an image."""
        return bool(self.ask("images", "--quiet", image))

    def environment(self) -> dict[str, str]:
        """Of programs that use it."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}

    def close(self) -> None:
        """End one of our own, and take back what it did to the machine's network."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if not self._bridge:
            _remove_network(self._forward)
        shutil.rmtree(self._home, ignore_errors=True)


def _answers(host: str) -> bool:
    asked = [command("docker"), "--host", host, "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(asked, capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _iptables(*arguments: str) -> str:
    done = subprocess.run([command("iptables"), "--wait", *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def _has_bridge() -> bool:
    return Path("/sys/class/net/docker0").exists()


def _forward_policy() -> str:
    """What the machine does with packets of others: dockerd turns it to DROP."""
    return _iptables("-S", "FORWARD").partition("\n")[0].split()[-1] or "ACCEPT"


def _remove_network(forward: str) -> None:
    """The bridge and the firewall rules that dockerd leaves when it ends."""
    subprocess.run([command("ip"), "link", "delete", "docker0"], capture_output=True, check=False)
    _iptables("-P", "FORWARD", forward)
    for table in ("filter", "nat"):
        rules = [shlex.split(line) for line in _iptables("-t", table, "-S").splitlines()]
        chains = [rule[1] for rule in rules if rule[0] == "-N" and rule[1].startswith("DOCKER")]
        for rule in rules:
            if rule[0] == "-A" and (any(word in chains for word in rule) or "docker0" in rule):
                _iptables("-t", table, "-D", *rule[1:])
        for step in ("-F", "-X"):
            for chain in chains:
                _iptables("-t", table, step, chain)
