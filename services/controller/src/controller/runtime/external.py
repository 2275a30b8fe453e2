"""Provider servers that somebody else runs: they are dialled, and nothing more."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Literal

from common import metrics
from common.clock import Clock
from common.identity import Server
from common.tls import TlsError, TlsFiles
from kinds.provider import Provider

from controller.connection import Target
from controller.files import private_directory, remove_directory, replace_directory
from controller.holds import Hold
from controller.runtime import RuntimeState
from controller.secrets import Secrets

_ADDRESS = re.compile(r"(unix:/.+|[^\s:/]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5})")


class ExternalRuntime:
    """Dials spec.runtime.address."""

    mode: Literal["Process", "External", "Kubernetes"] = "External"

    def __init__(self, secrets: Secrets, directory: Path, default: TlsFiles | None, clock: Clock | None = None) -> None:
        """Args: directory: private, for client certificates. default: certificate where the object names none."""
        self._secrets, self._directory, self._default, self._clock = secrets, directory, default, clock

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def remove(self, uid: str) -> None:
        """Nothing was started; the certificate is not needed any more."""
        remove_directory(self._directory / uid)
        metrics.certificate_gone(str(self._directory / uid / "tls.crt"))

    async def ensure(self, provider: Provider) -> RuntimeState:
        runtime = provider.spec.runtime
        address = runtime.address if runtime is not None else None
        if not address:
            message = "spec.runtime.address is missing; set it to the host:port of the provider server"
            return RuntimeState("Failed", "InvalidConfiguration", message)
        if not _ADDRESS.fullmatch(address):
            message = f"spec.runtime.address: {address!r} is no host:port"
            return RuntimeState("Failed", "InvalidConfiguration", message)
        tls = runtime.service.tls if runtime is not None and runtime.service is not None else None
        if tls is not None and not tls.enabled:
            return RuntimeState("Running", "External", f"dialling {address}", Target(address, None))
        name = tls.secret_ref.name if tls is not None and tls.secret_ref is not None else ""
        if not name:
            if self._default is None:
                message = (
                    "no TLS material: set spec.runtime.service.tls.secretRef (tls.crt, tls.key, ca.crt), or "
                    "tls.enabled: false for plain text"
                )
                return RuntimeState("Failed", "SecretRefMissing", message)
            return RuntimeState(
                "Running", "External", f"dialling {address}", Target(address, self._default, _server(provider))
            )
        return await self._with_secret(provider, address, name)

    async def _with_secret(self, provider: Provider, address: str, name: str) -> RuntimeState:
        where = "spec.runtime.service.tls.secretRef"
        try:
            values = await self._secrets.get(provider.metadata.namespace, name, where)
        except Hold as hold:
            return RuntimeState("Failed", "SecretRefMissing", str(hold))
        missing = [key for key in ("tls.crt", "tls.key", "ca.crt") if key not in values]
        if missing:
            message = f"Secret {provider.metadata.namespace}/{name} ({where}) has no {', '.join(missing)}"
            return RuntimeState("Failed", "SecretRefMissing", message)
        private_directory(self._directory)
        place = self._directory / provider.metadata.uid
        replace_directory(place, {key: values[key] for key in ("tls.crt", "tls.key", "ca.crt")})
        files = TlsFiles(place / "tls.crt", place / "tls.key", place / "ca.crt")
        try:
            files.check(self._clock)
        except TlsError as error:
            message = f"Secret {provider.metadata.namespace}/{name} ({where}): {error}"
            return RuntimeState("Failed", "TLSInvalid", message)
        return RuntimeState("Running", "External", f"dialling {address}", Target(address, files, _server(provider)))


def _server(provider: Provider) -> Server:
    return Server(provider.metadata.namespace, provider.metadata.name)
