"""One embedded stack of real processes: API server, two controllers, a provider behind a network, a hypervisor.

The processes are those of `vrtg up`, started one by one, for here somebody kills them. There are two controllers, so
that one can lose the Lease to the other; the provider serves on its own (runtime mode External), so that there is a
network to cut between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.stack import SHARED
from kinds import crds
from vrtg.credentials import controller_kubeconfig, make_credentials, write_kubeconfig
from vrtg.home import Home

from .kubectl import Kubectl, condition
from .network import Network
from .programs import Program
from .sites import SITES
from .sites.site import OWNER

UP_SECONDS = 90.0
LEASE = ("--lease-duration", "5s", "--lease-renew-deadline", "4s", "--lease-retry", "1s")
"""Shorter than usual, so that a stopped leader is outlived by the others' patience."""


class Installation:
    """Use as a context; everything in it is gone at the end, whatever happened.

    Attributes:
        site: its hypervisor.
        held: names of programs that are down on purpose: `supervise` leaves them alone.
        root: everything of it that is a file, the hypervisor's own aside.
    """

    def __init__(self, kind: str, *, lease: tuple[str, ...] = LEASE) -> None:
        """Args: kind: a key of SITES."""
        self.kind = kind
        self.site = SITES[kind]()
        self.held: set[str] = set()
        self._lease = lease
        self.root = Path()

    def __enter__(self) -> Self:
        self.root = Path(tempfile.mkdtemp(prefix="vrtg-faults-"))
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(shutil.rmtree, self.root)
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _build(self) -> None:
        place = self.root / "hypervisor"
        place.mkdir()
        self._cleanup.callback(self.site.close)
        self.site.open(place)
        home = Home(self.root / "home")
        home.make()
        make_credentials(home)
        server = f"127.0.0.1:{_free_port()}"
        write_kubeconfig(home, f"https://{server}")
        crds.main(["--out", str(home.root / "crds")])
        self.kubectl = Kubectl(home.kubeconfig, self.root / "cache")
        self.apiserver = self._program(
            "apiserver", "apiserver", "--data-dir", str(home.data), "--listen", server,
            "--tls-cert", str(home.pki / "apiserver" / "tls.crt"), "--tls-key", str(home.pki / "apiserver" / "tls.key"),
            "--token-file", str(home.token), "--crds", str(home.root / "crds"),
        )  # fmt: skip
        self.provider = self._program(
            "provider", self.site.module, "--owner", OWNER, "--insecure", "--listen-address", "127.0.0.1:0",
            "--ready-file", str(self._ready("provider")), *self.site.flags(), ready=True,
        )  # fmt: skip
        self.controllers = [self._controller(f"controller-{letter}", home) for letter in "ab"]
        self.programs = [self.apiserver, self.provider, *self.controllers]
        self.network = self._cleanup.enter_context(Network(lambda: self._ready("provider").read_text().strip()))
        for program in self.programs:
            program.start()

    def _controller(self, name: str, home: Home) -> Program:
        return self._program(
            name, "controller", "--kubeconfig", str(controller_kubeconfig(home)), "--home", str(self.root / name),
            "--runtime", "external", "--owner", OWNER, "--metrics-address", "127.0.0.1:0",
            "--ready-file", str(self._ready(name)), *self._lease, ready=True,
        )  # fmt: skip

    def _program(self, name: str, module: str, *arguments: str, ready: bool = False) -> Program:
        command = [sys.executable, "-m", module, *arguments]
        program = Program(name, command, self.root / f"{name}.log", self._ready(name) if ready else None)
        self._cleanup.callback(program.end)
        return program

    def _ready(self, name: str) -> Path:
        return self.root / f"{name}.ready"

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> Program:
        """The controller that acts; while none does, the one that will be started first."""
        acting = [each for each in self.controllers if each.pid and self._ready(each.name).exists()]
        return acting[0] if acting else self.controllers[0]

    async def come_up(self) -> None:
        """Wait until it works: classes, images and the Provider are there, and the Provider is Ready."""
        async with asyncio.timeout(UP_SECONDS):
            await self.kubectl.apply(*self.site.objects(), self.site.provider(self.network.address))
            while True:
                provider = await self.kubectl.get("provider", self.kind, SHARED)
                if condition(provider, "Ready").get("status") == "True":
                    return
                if lost := self.supervise():
                    raise AssertionError(f"{lost} ended by itself\n{self.said()}")
                await asyncio.sleep(0.2)

    def supervise(self) -> list[str]:
        """Start what has ended, as a supervisor does; answers with what ended though nobody killed it.

        A controller leaves by itself when it has lost the Lease.
        """
        surprises = []
        for program in self.programs:
            if program.pid or program.name in self.held:
                continue
            if not program.killed and program not in self.controllers:
                surprises.append(f"{program.name}: {program.verdict}")
            program.start()
        return surprises

    @contextlib.asynccontextmanager
    async def down(self, program: Program) -> AsyncIterator[None]:
        """Kill it; it is started again when the context is left."""
        self.held.add(program.name)
        program.kill()
        try:
            yield
        finally:
            self.held.discard(program.name)
            if not program.pid:
                program.start()

    def said(self) -> str:
        """The end of every log, for the reader of a failure."""
        return "\n".join([*(program.said() for program in self.programs), self.site.said()])


def _free_port() -> int:
    """A port that nobody has: the API server must come back at the same one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
