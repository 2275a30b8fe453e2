"""The authority of an installation on a cluster, which lives in one Secret of the controller's own namespace.

Whoever puts it there is the operator's choice: cert-manager (a Certificate with isCA), which is waited for, or the
first controller that finds none. How one takes the place of another is in certificates.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from common import logging
from common.clock import Clock
from common.pki import Authority
from common.tls import TlsError

from controller.api import Api, ConflictError
from controller.core import SECRETS, Secret
from controller.files import digest_of, private_directory, write_private
from controller.holds import WAITING, Hold
from controller.runtime.certificates import encoded

log = logging.get(__name__)

CERT, KEY = "tls.crt", "tls.key"
"""Keys of the Secret, as cert-manager and kubectl name them."""


class ClusterAuthority:
    """Signs for the servers of an installation, and for the controller."""

    def __init__(
        self, api: Api, namespace: str, name: str, directory: Path, clock: Clock, *, others_make: bool = False
    ) -> None:
        """Args:
        directory: private, for the copy that we work with.
        others_make: somebody else puts it there, so it is waited for.
        """
        self._api, self._namespace, self._name = api, namespace, name
        self._directory, self._clock, self._others_make = directory, clock, others_make
        self._held, self._awaited = "", False

    async def load(self) -> Authority:
        """The authority as it is now; made if there is none and it is ours to make.

        Raises:
            Hold: there is none yet, and somebody else makes it.
            ValueError: the Secret holds no authority that can be used; the message names it and the cure.
            ApiError: the API refused.
        """
        secret = await self._api.get(SECRETS, self._namespace, self._name)
        if secret is None and not self._others_make:
            secret = await self._make()
        files = {name: (secret.data or {}).get(name, b"") if secret else b"" for name in (CERT, KEY)}
        if self._others_make and not all(files.values()):
            raise self._wait()
        return self._take_up(files)

    def _take_up(self, files: dict[str, bytes]) -> Authority:
        """Raises: ValueError: no authority that can be used."""
        digest = digest_of(files)
        place, fresh = self._directory / digest, digest != self._held
        if fresh:
            self._held = ""  # it goes with the directory, though what comes in its place may be none
            shutil.rmtree(self._directory, ignore_errors=True)
            private_directory(place)
            write_private(place / "ca.key", files[KEY])
            write_private(place / "ca.crt", files[CERT])
        try:
            found = Authority.load(place, clock=self._clock)
        except TlsError as error:
            raise ValueError(f"Secret {self._where} holds no authority: {error}; delete it to have one made") from error
        if found.expires <= self._clock.now():
            raise ValueError(
                f"the authority in Secret {self._where} expired at {found.expires:%Y-%m-%d %H:%M} UTC: renew it"
            )
        if fresh:
            log.info("authority.taken_up", secret=self._where, expires=found.expires.isoformat())
        self._held, self._awaited = digest, False
        return found

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    def _wait(self) -> Hold:
        """What a Provider says meanwhile; the log says it once."""
        if not self._awaited:
            log.warning("authority.awaited", secret=self._where)
        self._awaited = True
        return Hold(
            WAITING,
            f"Secret {self._where} holds no authority yet, and whoever makes it (cert-manager) has not done so: "
            f"`kubectl describe certificate -n {self._namespace} {self._name}` says what it waits for",
        )

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
            "data": encoded(data),
        }
        try:
            made: Secret = await self._api.create(SECRETS, self._namespace, manifest)
        except ConflictError:
            found = await self._api.get(SECRETS, self._namespace, self._name)
            if found is None:
                raise
            return found
        log.info("authority.made", secret=self._where)
        return made
