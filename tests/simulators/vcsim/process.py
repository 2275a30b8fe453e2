"""Building and running the simulator's binary."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

from tools.gomodule import program

SOURCES = Path(__file__).resolve().parent
START_SECONDS = 30


def built() -> Path:
    """The binary. Raises: GoUnavailableError."""
    return program(SOURCES)


class Vcsim:
    """One simulator process. `start` after `stop` or `kill` makes a new, empty inventory at the same port.

    Attributes:
        url: of the SOAP endpoint, with the path /sdk.
        ca: PEM text that signs the server's certificate; empty without TLS.
    """

    def __init__(
        self,
        *,
        esx: bool = False,
        datacenters: int = 1,
        vms: int = 2,
        tls: bool = True,
        password: str = "secret",
        start_seconds: float = START_SECONDS,
    ) -> None:
        """Nothing runs yet.

        Args:
            vms: powered-off machines per resource pool; a thousand take 20 s to be made.
        """
        self._start_seconds = start_seconds
        self.user = "administrator@vsphere.local"
        self.password = password
        self._flags = [f"-esx={str(esx).lower()}", f"-tls={str(tls).lower()}"]
        self._flags += [f"-datacenters={datacenters}", f"-vms={vms}", f"-user={self.user}"]
        self._flags += [f"-password={self.password}"]
        self._listen = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._control = ""
        self.url = ""
        self.ca = ""

    def start(self) -> None:
        """Start and wait for the ready line.

        Raises:
            GoUnavailableError: it cannot be built here.
            RuntimeError: it did not start; the text holds its log.
        """
        binary = built()
        self._home = tempfile.TemporaryDirectory(prefix="vcsim-")  # its datastores, which a killed one would leave
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [str(binary), f"-listen={self._listen}", *self._flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "TMPDIR": self._home.name},
        )
        watchdog = threading.Timer(self._start_seconds, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else ""
        finally:
            watchdog.cancel()
        if not line:
            log = self.log()
            self.kill()
            raise RuntimeError(f"vcsim did not start: {log}")
        ready = json.loads(line)
        self.url, self._control, self.ca = ready["url"], ready["control"], ready.get("certificate", "")
        self._listen = f"{self.host}:{self.port}"  # a restarted vCenter keeps its address

    @property
    def pid(self) -> int:
        """Of the process, while it runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def host(self) -> str:
        """The address without the port."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port of the API."""
        return urlsplit(self.url).port or 0

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the server's certificate, 64 lower-case hex digits; without TLS there is none (ValueError)."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.ca)).hexdigest()

    def log(self) -> str:
        """What the process wrote to standard error so far."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> None:
        """End it as a service manager would; nothing happens if it does not run."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End it as a power failure would."""
        self._end(subprocess.Popen.kill)

    def restart(self) -> None:
        """Start anew at the same port: sessions and inventory are lost, object ids are handed out again."""
        self.stop()
        self.start()

    def _end(self, how: Any) -> None:  # Any: Popen is generic, its unbound methods do not compare
        if self._process is None:
            return
        died = "" if self._process.poll() is None else self.log()[-4000:] or "it said nothing"
        how(self._process)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()
        if self._home is not None:
            self._home.cleanup()
        self._process, self._log, self._home = None, None, None
        if died:
            raise RuntimeError(f"vcsim ended by itself, which no request may bring about: {died}")

    def control(self, name: str, /, **body: Any) -> Any:  # Any: each switch has its own JSON, listed in the README
        """POST /`name` to the control port.

        Raises:
            ValueError: the simulator refused the request; the text is its reason.
        """
        return self._ask(urllib.request.Request(f"{self._control}/{name}", json.dumps(body).encode(), method="POST"))

    def write_disk(self, vm: str, offset: int, data: bytes, disk: int = 0) -> None:
        """What the guest would do to one of its disks."""
        self.control("disk/write", vm=vm, disk=disk, offset=offset, data=base64.b64encode(data).decode())

    def read_disk(self, vm: str, offset: int, length: int, disk: int = 0) -> bytes:
        """What the guest would read from one of its disks."""
        return base64.b64decode(self.control("disk/read", vm=vm, disk=disk, offset=offset, length=length))

    def requests(self) -> dict[str, int]:
        """SOAP calls by method since the start or `control("requests/reset")`."""
        return self._ask(urllib.request.Request(f"{self._control}/requests"))

    def held(self) -> dict[str, int]:
        """SOAP calls that hang now, by method."""
        return self._ask(urllib.request.Request(f"{self._control}/held"))

    def vms(self) -> dict[str, dict[str, Any]]:
        """The machines by name: uuid, instanceUuid, power, moref, extraConfig."""
        return {vm["name"]: vm for vm in self._ask(urllib.request.Request(f"{self._control}/vms"))}

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from error

    def __enter__(self) -> Vcsim:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
