"""Key providers: without one vCenter makes no TPM, since it encrypts the files of a machine that has one.

Asked for before anything is made, so that the refusal names the cure. vSphere's own would come as EncryptionKeyRequired
at the end of a task. Encryption for its own sake (tuning.encryption) stays refused: what vCenter encrypts with is the
storage policy, so it would be a second word for disks[].storage_policy, and one that could contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.clock import Clock
from common.errors import ProviderError, ResourceNotFoundError
from pyVmomi import vim

from provider_vsphere.session.login import About, Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere

REMEMBERED_SECONDS = 300.0
"""So late a key provider that somebody adds shows as a capability."""
_CURE = "configure one in the vCenter (Configure, Security, Key Providers) and make it the default"


class KeyProviders:
    """Those of one endpoint."""

    def __init__(self, vsphere: Vsphere, clock: Clock) -> None:
        self._vsphere = vsphere
        self._clock = clock
        self._are_there = False
        self._measured: tuple[About | None, float] = (None, 0.0)

    async def are_there(self) -> bool:
        """Whether machines can have a TPM here, as it was measured lately; no answer leaves what was true before."""
        about, until = self._measured
        if about is self._vsphere.about and self._clock.monotonic() < until:
            return self._are_there
        try:
            providers = await self._list("look for key providers")
        except ProviderError:
            return self._are_there
        self._are_there = any(each.useAsDefault or each.useAsEntityDefault for each in usable(providers))
        self._measured = (self._vsphere.about, self._clock.monotonic() + REMEMBERED_SECONDS)
        return self._are_there

    async def require(self, compute: Entity, doing: str) -> None:
        """Refuse a TPM where none can be made.

        Args:
            compute: the cluster, or the ComputeResource around a standalone host.
        Raises:
            ResourceNotFoundError: there is no key provider for it; says what to do.
        """
        there = await self._list(doing)
        scope = [compute.moid, *(each.moid for each in self._vsphere.tree.ancestors(compute))]
        if default(usable(there), scope) is not None:
            return
        if default(there, scope) is not None:
            why = "its default key provider is not backed up, and vCenter uses it only then"
            raise ResourceNotFoundError(f"{doing}: a TPM needs a key provider; {compute.name}: {why}")
        raise ResourceNotFoundError(f"{doing}: a TPM needs a key provider, and {compute.name} has none; {_CURE}")

    async def _list(self, doing: str) -> list[Any]:
        def ask(login: Login) -> list[Any]:
            manager = login.content.cryptoManager
            # A host alone has another manager, which knows no providers.
            return (
                list(manager.ListKmipServers(None) or ())
                if isinstance(manager, vim.encryption.CryptoManagerKmip)
                else []
            )

        return await self._vsphere.call(doing, ask)


def usable(providers: Iterable[Any]) -> list[Any]:
    """Those that vCenter encrypts with: its own kind has to be backed up first. Source: KmipClusterInfo.hasBackup."""
    return [each for each in providers if each.managementType != "nativeProvider" or each.hasBackup is not False]


def default(providers: Iterable[Any], scope: list[str]) -> str | None:
    """Id of the key provider for an object: the default of itself or of the nearest thing that it is in.

    Args:
        scope: ids of the object and of what it is in.
    """
    every = list(providers)
    for moid in scope:
        for each in every:
            if any(entity._moId == moid for entity in each.useAsEntityDefault or ()):
                return str(each.clusterId.id)
    return next((str(each.clusterId.id) for each in every if each.useAsDefault), None)
