"""The embedded stack's supervisor: the detached process behind `vrtg up`.

It makes keys and tokens, starts the API server, installs the kinds, starts the controller, and keeps both running
until SIGTERM. Everything it knows is in `state.json`; a supervisor that was killed leaves no process behind, because
its children end with it, and the next one ends whatever is still recorded there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from vrtg.components import Component
from vrtg.credentials import controller_kubeconfig, make_credentials, write_kubeconfig
from vrtg.failures import CommandError
from vrtg.home import Home, write_private
from vrtg.processes import Process
from vrtg.state import StackState, locked

log = logging.getLogger(__name__)
API_SERVER, CONTROLLER = "apiserver", "controller"


def run(home: Home) -> int:
    """Be the supervisor until SIGTERM; 0 also when another one is."""
    home.make()
    with locked(home.run / "supervisor.lock", wait=False) as mine:
        if not mine:
            log.info("another supervisor holds %s", home.run / "supervisor.lock")
            return 0
        asyncio.run(Supervisor(home).run())
    return 0


def end_strays(state: StackState | None, grace: float = 5.0) -> list[str]:
    """End the processes that a dead supervisor left; answers with their names."""
    ended = []
    for component in reversed(list(state.components.values())) if state else []:
        process = component.process
        if process is not None and process.alive():
            process.end(grace)
            ended.append(component.name)
    return ended


def executable(name: str) -> str:
    """Path of one of our commands: beside this Python, else on PATH.

    Raises:
        CommandError: it is not installed.
    """
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    if found := shutil.which(name):
        return found
    raise CommandError(f"{name} is not installed beside vrtg: install the package {name}")


def _kinds(home: Home) -> Path:
    """A directory with the CustomResourceDefinitions of this version."""
    from kinds import crds

    directory = home.root / "crds"
    crds.main(["--out", str(directory)])
    return directory


class Supervisor:
    """Owns the processes of one stack."""

    def __init__(self, home: Home) -> None:
        me = Process.of(os.getpid())
        assert me is not None
        self._home = home
        self._before = StackState.load(home)
        self.state = StackState(
            pid=me.pid,
            start_ticks=me.start_ticks,
            version=version("virtrigaud-cli"),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Start everything, wait for SIGTERM or SIGINT, end everything."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        end_strays(self._before)
        self._save()
        try:
            await self._serve()
        except CommandError as error:
            self.state.problem = str(error)
            log.error("%s", error)
        self.state.phase = "stopped"
        self._save()

    async def _serve(self) -> None:
        make_credentials(self._home)
        api_server = self._api_server()
        controller = self._controller()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(api_server.run(), name=API_SERVER)
            if await self._first(api_server.ready):
                controlling = group.create_task(controller.run(), name=CONTROLLER)
                if await self._first(controller.ready):
                    self.state.phase = "ready"
                    self._save()
                await self._stop.wait()
                self._stopping()
                controller.stop()  # first: it still writes to the API while it ends
                await controlling
            self._stopping()
            api_server.stop()
            await serving

    async def _first(self, ready: asyncio.Event) -> bool:
        """Wait for `ready` or for the order to stop; False for the latter."""
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(ready.wait()), group.create_task(self._stop.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return not self._stop.is_set()

    def _stopping(self) -> None:
        self.state.phase = "stopping"
        self._save()

    def _component(
        self, name: str, command: list[str], ready: Callable[[], Awaitable[bool]], clear: Path, grace: float
    ) -> Component:
        component = Component(
            name,
            command,
            log=self._home.logs / f"{name}.log",
            environment={},
            ready=ready,
            changed=self._save,
            grace=grace,
            clear=clear,
        )
        self.state.components[name] = component.state
        return component

    # -- API server ------------------------------------------------------------------------------------------------

    def _api_server(self) -> Component:
        port = self._port()
        tls = self._home.pki / API_SERVER
        command = [
            executable("virtrigaud-apiserver"),
            *("--data-dir", str(self._home.data)),
            *("--listen", f"127.0.0.1:{port}"),
            *("--tls-cert", str(tls / "tls.crt")),
            *("--tls-key", str(tls / "tls.key")),
            *("--token-file", str(self._home.token)),
            *("--crds", str(_kinds(self._home))),
        ]
        self.state.server = f"https://127.0.0.1:{port}"
        write_kubeconfig(self._home, self.state.server)
        return self._component(API_SERVER, command, self._api_serves, self._home.data / "endpoint", grace=15.0)

    def _port(self) -> int:
        """The port of last time, so that kubeconfigs stay valid; another one where somebody took it."""
        remembered = self._home.root / "port"
        wanted = int(remembered.read_text()) if remembered.exists() else 0
        for port in (wanted, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                chosen = int(probe.getsockname()[1])
            write_private(remembered, f"{chosen}\n")
            return chosen
        raise CommandError("no TCP port is free on 127.0.0.1")

    async def _api_serves(self) -> bool:
        from vrtg.kubeconfig import choose
        from vrtg.probes import serves

        return await asyncio.to_thread(serves, choose(self._home, str(self._home.kubeconfig), None), "/readyz")

    # -- controller ------------------------------------------------------------------------------------------------

    def _controller(self) -> Component:
        command = [
            executable("virtrigaud-controller"),
            *("--kubeconfig", str(controller_kubeconfig(self._home))),
            *("--home", str(self._home.root)),
            *("--runtime", "process"),
            "--no-leader-elect",  # the supervisor runs one, and its lock makes it the only one
            *("--metrics-address", "127.0.0.1:0"),
            *("--ready-file", str(self._controller_ready)),
        ]
        return self._component(CONTROLLER, command, self._controller_serves, self._controller_ready, grace=30.0)

    @property
    def _controller_ready(self) -> Path:
        return self._home.run / "controller.ready"

    async def _controller_serves(self) -> bool:
        from vrtg.probes import ready

        return await asyncio.to_thread(ready, self._controller_ready)

    def _save(self) -> None:
        self.state.save(self._home)
