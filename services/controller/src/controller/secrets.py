"""Secrets, read by GET when they are needed and never kept.

Credentials are masked in every log from then on. First-boot data are too many and too ordinary for that (a line such as
`packages:` would garble all logs), so they are cut out of the messages that concern their own machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from common import redact
from common.secrets import PLAIN
from kinds.bootkeys import IGNITION_KEYS, META_DATA_KEYS, USER_DATA_KEYS
from kinds.compose import BootSources
from kinds.virtualmachine import VirtualMachine

from .api import Api, RefusedError
from .core import SECRETS, Secret
from .holds import WAITING, Hold

SHORTEST = 6
"""Shorter parts of boot data ("true", "/dev") are no secrets, and cutting them out would garble messages."""


class Secrets:
    """Reads Secrets of a namespace."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def get(self, namespace: str, name: str, where: str) -> dict[str, bytes]:
        """All values. Raises: Hold: there is no such Secret, or we may not read it."""
        try:
            secret: Secret | None = await self._api.get(SECRETS, namespace, name)
        except RefusedError as error:
            raise Hold(WAITING, f"Secret {namespace}/{name} ({where}) cannot be read: {error}", again=60.0) from error
        if secret is None:
            raise Hold(WAITING, f"Secret {namespace}/{name} ({where}) does not exist", again=60.0)
        return secret.data or {}

    async def credentials(self, namespace: str, name: str, where: str) -> dict[str, bytes]:
        """All values; what is secret of them is masked in every log from now on. Raises: Hold: no such Secret."""
        values = await self.get(namespace, name, where)
        for key, value in values.items():
            if key not in PLAIN:
                redact.register(value.decode(errors="ignore"), slot=f"{namespace}/{name} {key}")
        return values

    async def text(self, namespace: str, name: str, keys: Iterable[str], where: str) -> str:
        """The value of the first key that is there. Raises: Hold: none is, or it is no text."""
        keys = tuple(keys)
        values = await self.get(namespace, name, where)
        for key in keys:
            if key in values:
                try:
                    return values[key].decode()
                except UnicodeDecodeError:
                    # Without `from`: the decoding error holds the bytes.
                    raise Hold(WAITING, f"Secret {namespace}/{name} ({where}): key {key} is no UTF-8 text") from None
        wanted = " or ".join(keys)
        raise Hold(WAITING, f"Secret {namespace}/{name} ({where}) has no key {wanted}", again=60.0)

    async def credential(self, namespace: str, name: str, keys: Iterable[str], where: str) -> str:
        """As `text`, and masked in every log from now on."""
        keys = tuple(keys)
        value = await self.text(namespace, name, keys, where)
        redact.register(value, slot=f"{namespace}/{name} {keys[0]}")
        return value

    async def boot_sources(self, vm: VirtualMachine) -> BootSources:
        """What the VM's boot data and its customization refer to."""
        user, meta = vm.spec.user_data, vm.spec.meta_data
        found: dict[str, str | None] = {"user_data": None, "meta_data": None, "ignition": None}
        wanted = (
            ("user_data", user.cloud_init if user is not None else None, USER_DATA_KEYS, "spec.userData.cloudInit"),
            ("ignition", user.ignition if user is not None else None, IGNITION_KEYS, "spec.userData.ignition"),
            ("meta_data", meta.cloud_init if meta is not None else None, META_DATA_KEYS, "spec.metaData.cloudInit"),
        )
        for name, source, keys, where in wanted:
            if source is not None and source.secret_ref is not None and source.secret_ref.name:
                ref = source.secret_ref.name
                found[name] = await self.text(vm.metadata.namespace, ref, keys, f"{where}.secretRef")
        return BootSources(**found, **await self._passwords(vm))

    async def _passwords(self, vm: VirtualMachine) -> dict[str, str]:
        """What the VM's customization refers to, masked in every log from now on."""
        custom = vm.spec.customization
        sysprep = custom.sysprep if custom is not None else None
        if sysprep is None or not sysprep.enabled:
            return {}
        where, join = "spec.customization.sysprep", sysprep.join_domain
        wanted = (
            ("admin_password", sysprep.admin_password, f"{where}.adminPassword"),
            ("join_password", join.password if join is not None else None, f"{where}.joinDomain.password"),
        )
        found = {}
        for name, wish, path in wanted:
            if wish is not None and wish.secret_ref is not None:
                namespace, place = vm.metadata.namespace, f"{path}.secretRef"
                found[name] = await self.credential(namespace, wish.secret_ref.name, (wish.secret_key,), place)
        return found


def scrub(message: str, boot: BootSources) -> str:
    """The message without anything that the boot data of Secrets hold: whole lines, and the values in them."""
    parts = set()
    for text in (boot.user_data, boot.meta_data, boot.ignition):
        for line in (text or "").splitlines():
            _, _, value = line.partition(":")
            parts |= {line.strip(), value.strip().strip("\"',")}
    parts |= {boot.admin_password or "", boot.join_password or ""}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST:
            message = message.replace(part, redact.MASK)
    return message
