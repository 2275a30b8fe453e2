"""Provider servers as supervised children of the controller.

Each holds the read end of a pipe as its standard input: when the controller ends, however it ends, the pipe closes and
the child leaves in the ordinary way. Nobody has to find and stop it, and two sets never stay side by side.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from common import identity, logging, tracing
from common.clock import Clock
from common.pki import Authority, End
from common.tls import TlsError, TlsFiles
from kinds.provider import Provider

from controller.connection import Target
from controller.files import digest_of, private_directory, remove_directory, remove_tree, replace_directory
from controller.holds import Hold
from controller.runtime import RuntimeState
from controller.runtime.arguments import PROGRAMS, Program, log_arguments, refuse_password, unknown_type
from controller.secrets import Secrets

log = logging.get(__name__)

FIRST_DELAY, MOST_DELAY = 0.5, 30.0
STEADY = 30.0
"""Seconds of life after which a crash counts as the first one again."""
GRACE = 20.0
"""Seconds between the end of its input and SIGKILL."""
LOG_LIMIT = 10 << 20
SHARED_IMAGES = Path("/var/lib/virtrigaud/images")
"""Image files of the whole machine, beside those of this controller."""
CERTIFICATE_DAYS = 30
RENEWAL = 6 * 3600.0
"""Seconds between two looks at our own certificate, which is renewed in the last third of its life."""
PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "VIRTUAL_ENV",
)
"""Environment of ours that a child gets; nothing else, so that no token leaks into it."""
REFUSALS = {"GRPC_VERBOSITY": "INFO"}
"""Has a server log which handshakes it refused, and why: gRPC tells in no other way."""


@dataclass(frozen=True)
class ProcessSettings:
    """Where children live."""

    directory: Path
    """Private: sockets, ready files, credentials, certificates."""
    logs: Path
    images: Path
    owner: str
    otlp_endpoint: str = ""
    shared_images: Path = SHARED_IMAGES
    namespace: str = identity.SYSTEM_NAMESPACE
    """Of the installation: its clients are the ones that children serve."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further environment of all children."""


@dataclass(frozen=True)
class Wish:
    """How one server shall run; another one needs a restart."""

    uid: str
    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    credentials: str
    """Digest of the credentials; the files are replaced before the restart."""


class ProcessRuntime:
    """Starts one process per Provider and keeps it running."""

    mode: Literal["Process", "External", "Kubernetes"] = "Process"

    def __init__(
        self,
        settings: ProcessSettings,
        authority: Authority,
        client: TlsFiles,
        secrets: Secrets,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[str], None],
    ) -> None:
        """Args: client: the controller's own certificate. changed: gets the UID of a Provider whose server changed."""
        self._settings, self._authority, self._client, self._secrets = settings, authority, client, secrets
        self._clock, self._rng, self._changed = clock, rng, changed
        self._name = identity.client(identity.Role.CONTROLLER, settings.namespace)
        self._children: dict[str, Child] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        private_directory(self._settings.directory)
        self._settings.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._renew()

    async def _renew(self) -> None:
        """Keep our own certificate good for as long as we run; channels take up the new one at their next dial."""
        while True:
            try:
                # Leaves alone what is good for long yet.
                self._authority.issue(self._client.cert.parent, self._name, end=End.CLIENT)
            except TlsError as error:
                log.warning("certificate.not_renewed", cert=str(self._client.cert), problem=str(error))
            await self._clock.sleep(RENEWAL)

    async def ensure(self, provider: Provider) -> RuntimeState:
        spec = provider.spec
        if message := unknown_type(spec):
            return RuntimeState("Failed", "NotSupportedYet", message)
        uid = provider.metadata.uid
        try:
            wish = await self._wish(provider)
        except Hold as hold:
            return RuntimeState("Pending", hold.reason, str(hold), self._standing(uid))
        except (ValueError, OSError, TlsError) as error:
            return RuntimeState("Failed", "InvalidConfiguration", str(error), self._standing(uid))
        child = self._children.get(uid)
        if child is not None and child.wish != wish:
            await self._end(uid)
            child = None
        if child is None:
            if self._group is None:
                raise RuntimeError("ProcessRuntime.run() is not running")
            child = Child(wish, self._settings, self._client, self._clock, self._rng, lambda: self._changed(uid))
            with tracing.apart():
                child.task = self._group.create_task(child.run(), name=f"provider process {wish.name}")
            self._children[uid] = child
        return child.state

    def _standing(self, uid: str) -> Target | None:
        """Where the child serves that was started before: it works on, whatever keeps us from changing it."""
        child = self._children.get(uid)
        return child.state.target if child is not None else None

    async def remove(self, uid: str) -> None:
        await self._end(uid)
        remove_tree(self._settings.directory / uid)

    async def _end(self, uid: str) -> None:
        """End the child and keep its directory, which the next one may go on with."""
        child = self._children.pop(uid, None)
        if child is not None and child.task is not None:
            child.task.cancel()
            await asyncio.wait([child.task])

    # -- what a child is told --------------------------------------------------------------------------------------

    async def _wish(self, provider: Provider) -> Wish:
        meta, spec = provider.metadata, provider.spec
        program = PROGRAMS[spec.type]
        refuse_password(spec.endpoint)
        place = private_directory(self._settings.directory / meta.uid)
        credentials = await self._credentials(provider, place)
        # Leaves alone what is good for long enough yet, so looking again does not mean new keys.
        server = identity.Server(meta.namespace, meta.name)
        names = [server.uri, "127.0.0.1", "localhost"]
        tls = self._authority.issue(place / "tls", server.host, names, CERTIFICATE_DAYS, end=End.SERVER)
        command = [
            executable(program.command),
            *("--listen-address", "127.0.0.1:0"),
            *("--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-ca", str(tls.ca)),
            *(f"--allowed-clients={identity.client(role, self._settings.namespace)}" for role in identity.Role),
            *("--owner", self._settings.owner),
            *("--ready-file", str(place / "ready")),
            *log_arguments(provider),
            "--exit-with-stdin",
        ]
        if credentials:
            command += ["--credentials-directory", str(place / "credentials")]
        if self._settings.otlp_endpoint:
            command += ["--otlp-endpoint", self._settings.otlp_endpoint]
        command += self._places(program, place) + program.own(spec)
        environment = dict(self._settings.extra) | _environment(provider)
        return Wish(
            meta.uid, f"{meta.namespace}/{meta.name}", tuple(command), tuple(sorted(environment.items())), credentials
        )

    def _places(self, program: Program, place: Path) -> list[str]:
        """Where it keeps what it shares with us, or with the next one at its place."""
        if program.is_hypervisor:
            return ["--world", str(place / "world.json")]
        return [f"--image-directory={each}" for each in (self._settings.images, self._settings.shared_images)]

    async def _credentials(self, provider: Provider, place: Path) -> str:
        """Write them where only this child looks; answers with their digest."""
        ref = provider.spec.credential_secret_ref
        if ref is None:
            remove_directory(place / "credentials")  # of a reference that the object has no more
            return ""
        namespace = ref.namespace or provider.metadata.namespace
        if namespace != provider.metadata.namespace:
            raise ValueError(
                f"spec.credentialSecretRef: Secret {namespace}/{ref.name} is in another namespace; copy it to "
                f"{provider.metadata.namespace}"
            )
        values = await self._secrets.credentials(namespace, ref.name, "spec.credentialSecretRef")
        replace_directory(place / "credentials", values)
        return digest_of(values)


def _environment(provider: Provider) -> dict[str, str]:
    """spec.runtime.env. Raises: ValueError: an entry that this runtime cannot supply."""
    found = {}
    for entry in provider.spec.runtime.env if provider.spec.runtime is not None else ():
        name = str(entry.get("name", ""))
        if "valueFrom" in entry:
            raise ValueError(
                f"spec.runtime.env[{name}].valueFrom is not supported by runtime mode Process; give a value"
            )
        if not name or "=" in name or "\0" in name or "\0" in str(entry.get("value", "")):
            raise ValueError(f"spec.runtime.env: {name!r} is no name of an environment variable")
        found[name] = str(entry.get("value", ""))
    return found


def executable(name: str) -> str:
    """Path of a command: beside this Python, else on PATH. Raises: ValueError: it is not installed."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    if found := shutil.which(name):
        return found
    raise ValueError(f"{name} is not installed; install the package of that provider beside the controller")


class Child:
    """One supervised process. `state` says how it does; `changed` is called when that changes."""

    def __init__(
        self,
        wish: Wish,
        settings: ProcessSettings,
        client: TlsFiles,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[], None],
    ) -> None:
        self.wish = wish
        self.task: asyncio.Task[None] | None = None
        self.state = RuntimeState("Starting", "Starting", "the provider process is starting")
        self._settings, self._client, self._clock, self._rng, self._changed = settings, client, clock, rng, changed
        self._ready = settings.directory / wish.uid / "ready"
        namespace, name = wish.name.split("/", 1)
        self._log = settings.logs / f"provider-{namespace}-{name}.log"

    async def run(self) -> None:
        """Start it, and start it again when it ends, until cancelled."""
        delay = FIRST_DELAY
        while True:
            begun = self._clock.monotonic()
            verdict = await self._run_once()
            if self._clock.monotonic() - begun > STEADY:
                delay = FIRST_DELAY
            log.warning("provider.process.ended", provider=self.wish.name, verdict=verdict)
            self._say(RuntimeState("Failed", "ProcessEnded", f"the provider process {verdict}; see {self._log.name}"))
            await self._clock.sleep(delay * (1 + self._rng.random() / 4))
            delay = min(MOST_DELAY, delay * 2)

    async def _run_once(self) -> str:
        self._ready.unlink(missing_ok=True)
        inherited = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        environment = REFUSALS | inherited | dict(self.wish.environment)
        read, write = os.pipe()
        try:
            with self._open_log() as output:
                process = await asyncio.create_subprocess_exec(
                    *self.wish.command,
                    stdin=read,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            os.close(write)
            return f"cannot be started: {error.strerror}"
        finally:
            os.close(read)
        log.info("provider.process.started", provider=self.wish.name, pid=process.pid)
        try:
            async with asyncio.TaskGroup() as group:
                waiter = group.create_task(self._wait_ready(), name=f"ready {self.wish.name}")
                code = await process.wait()
                waiter.cancel()
        except asyncio.CancelledError:
            os.close(write)
            write = -1
            await _leave(process)
            raise
        finally:
            if write >= 0:
                os.close(write)
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    async def _wait_ready(self) -> None:
        while True:
            try:
                address = self._ready.read_text().strip()
            except FileNotFoundError:
                address = ""
            if address:
                break
            await self._clock.sleep(0.05)
        target = Target(address, self._client, identity.Server(*self.wish.name.split("/", 1)))
        self._say(RuntimeState("Running", "ProcessRunning", "the provider process is serving", target))

    def _say(self, state: RuntimeState) -> None:
        if state != self.state:
            self.state = state
            self._changed()

    def _open_log(self) -> IO[bytes]:
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "ab")


async def _leave(process: asyncio.subprocess.Process) -> None:
    """Its input has ended: give it time to leave, then end it. Runs to its end even if we are cancelled again."""
    try:
        async with asyncio.timeout(GRACE):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
