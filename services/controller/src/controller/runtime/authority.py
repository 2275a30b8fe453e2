"""The authority of an installation on a cluster, which lives in one Secret of the controller's own namespace.

Whoever puts it there is the operator's choice: cert-manager (a Certificate with isCA), or the first controller that
finds none. What it signed stays good while it is replaced: servers and clients trust what the Secret's ca.crt lists.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

from common import logging
from common.clock import Clock
from common.pki import Authority
from common.tls import TlsError, TlsFiles

from controller.api import Api, ConflictError
from controller.core import SECRETS, Secret
from controller.files import digest_of, private_directory, write_private

log = logging.get(__name__)

CERT, KEY = "tls.crt", "tls.key"
"""Keys of the Secret, as cert-manager and kubectl name them."""


class ClusterAuthority:
    """Signs for the servers of an installation, and for the controller."""

    def __init__(self, api: Api, namespace: str, name: str, directory: Path, clock: Clock) -> None:
        """Args: directory: private, for the copy that we work with."""
        self._api, self._namespace, self._name = api, namespace, name
        self._directory, self._clock = directory, clock
        self._held = ""

    async def load(self) -> Authority:
        """The authority as it is now; made if there is none.

        Raises:
            ValueError: the Secret holds no authority that can be used; the message names it and the cure.
            ApiError: the API refused.
        """
        secret = await self._api.get(SECRETS, self._namespace, self._name) or await self._make()
        files = {name: (secret.data or {}).get(name, b"") for name in (CERT, KEY)}
        digest = digest_of(files)
        place = self._directory / digest
        if digest != self._held:
            shutil.rmtree(self._directory, ignore_errors=True)
            private_directory(place)
            write_private(place / "ca.key", files[KEY])
            write_private(place / "ca.crt", files[CERT])
        try:
            found = Authority.load(place, clock=self._clock)
        except TlsError as error:
            raise ValueError(
                f"Secret {self._namespace}/{self._name} holds no authority: {error}; delete it to have one made"
            ) from error
        self._held = digest
        return found

    async def _make(self) -> Secret:
        """A fresh one; that of a controller which was faster, if there is one."""
        place = self._directory.with_name(f"{self._directory.name}.new")
        shutil.rmtree(place, ignore_errors=True)
        Authority.create(private_directory(place), clock=self._clock)
        data = {CERT: (place / "ca.crt").read_bytes(), KEY: (place / "ca.key").read_bytes()}
        shutil.rmtree(place)
        manifest = {
            "metadata": {"name": self._name, "namespace": self._namespace},
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
        }
        try:
            made: Secret = await self._api.create(SECRETS, self._namespace, manifest)
        except ConflictError:
            found = await self._api.get(SECRETS, self._namespace, self._name)
            if found is None:
                raise
            return found
        log.info("authority.made", secret=f"{self._namespace}/{self._name}")
        return made


def encoded(files: TlsFiles) -> dict[str, str]:
    """The files as the data of a Secret of type kubernetes.io/tls."""
    named = {"tls.crt": files.cert, "tls.key": files.key, "ca.crt": files.ca}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in named.items()}
