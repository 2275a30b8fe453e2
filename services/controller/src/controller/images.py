"""VMImage: prepared once on each provider that needs it, known by the UIDs of both and the digest of the source.

The registry holds what providers said since this controller started. It is filled by asking them: a finished image
answers at once, so nothing is ever taken from an old status.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import datetime

import msgspec
from common import redact, v1
from common import status as errors
from common.clock import Clock
from common.errors import ImageInUseError, ImageNotFoundError, InvalidSpecError, NotSupportedError, ProviderError
from common.status import Action
from kinds import quantity
from kinds.provider import Provider
from kinds.vmimage import VMImage, VMImageStatus
from kinds.vmimage import VMImageStatusProviderStatus as ProviderStatus

from .conditions import Wish, find, merged, timestamp
from .connection import Connection
from .connections import Connections
from .events import WARNING, Recorder
from .fields import image_reports, wish_of
from .holds import WAITING, Hold
from .imagesources import digest_of, request_for
from .index import Index
from .informer import Name
from .objects import subject_of
from .references import Caches
from .secrets import Secrets
from .status import DELETE_BLOCKED, FIELDS_IGNORED, READY, REASONS, UNREACHABLE
from .writer import Writer

FINALIZER = "vmimage.infra.virtrigaud.io/finalizer"
IMPORTING = "Importing"
RETRY = 60.0
"""Seconds between two looks for an image that somebody else is to prepare."""
FIRST_RETRY, MOST_RETRY = 10.0, 600.0
"""Seconds before preparing is tried again after it failed, four times as long each time."""


@dataclass(frozen=True)
class Entry:
    """One image on one provider. Exactly one of image, operation and problem says how it stands."""

    digest: str
    image: v1.Image | None = None
    operation: str = ""
    reason: str = ""
    problem: str = ""


class Registry:
    """What is known of images, by the UIDs of image and provider."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}

    def get(self, image: VMImage, provider_uid: str) -> Entry | None:
        """The entry for the source as it is now; one for an older source does not count."""
        entry = self._entries.get((image.metadata.uid, provider_uid))
        return entry if entry is not None and entry.digest == digest_of(image) else None

    def put(self, image_uid: str, provider_uid: str, entry: Entry | None) -> bool:
        """Remember, or forget; whether that is news."""
        key = (image_uid, provider_uid)
        before = self._entries.get(key)
        if entry is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry
        return before != entry


class Attempts:
    """How often preparing failed in a row. Counted for the object as it is now: an edit of it starts over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: dict[tuple[str, str], tuple[object, int, float]] = {}

    def failed(self, image: VMImage, provider_uid: str) -> float | None:
        """Count one; answers as `wait`."""
        count = self._known(image, provider_uid)[0] + 1
        due = self._clock.monotonic() + min(MOST_RETRY, FIRST_RETRY * 4 ** min(count - 1, 8))
        self._failed[(image.metadata.uid, provider_uid)] = (self._meaning(image), count, due)
        return self.wait(image, provider_uid)

    def wait(self, image: VMImage, provider_uid: str) -> float | None:
        """Seconds until the next try, whatever else wakes the image; None when prepare.retries are spent.

        An image without spec.prepare sets no limit, so that a long outage of its source ends by itself.
        """
        count, due = self._known(image, provider_uid)
        prepare = image.spec.prepare
        if prepare is not None and count > prepare.retries:
            return None
        return max(0.0, due - self._clock.monotonic())

    def forget(self, image_uid: str, provider_uid: str) -> None:
        """It worked, or the image goes."""
        self._failed.pop((image_uid, provider_uid), None)

    def _known(self, image: VMImage, provider_uid: str) -> tuple[int, float]:
        meaning, count, due = self._failed.get((image.metadata.uid, provider_uid), (None, 0, 0.0))
        return (count, due) if meaning == self._meaning(image) else (0, 0.0)

    def _meaning(self, image: VMImage) -> object:
        return (image.metadata.generation, dict(image.metadata.annotations))


class ImageReconciler:
    """Prepares images, reports on them, and removes what was prepared when the object goes."""

    kind = "VMImage"

    def __init__(
        self,
        caches: Caches,
        index: Index,
        connections: Connections,
        registry: Registry,
        secrets: Secrets,
        writer: Writer,
        recorder: Recorder,
        clock: Clock,
        owner: Callable[[], str],
        wake_machines: Callable[[frozenset[Name]], None],
    ) -> None:
        self._caches, self._index, self._connections, self._registry = caches, index, connections, registry
        self._secrets, self._writer, self._recorder, self._clock = secrets, writer, recorder, clock
        self._owner, self._wake_machines = owner, wake_machines
        self._attempts = Attempts(clock)

    async def reconcile(self, name: Name) -> float | None:
        """Bring one image closer to being ready everywhere it is needed."""
        image = self._caches.images.get(*name)
        if image is None:
            return None
        if image.metadata.deletion_timestamp:
            return await self._delete(image)
        providers = self._providers(image)
        if providers:
            image = await self._writer.add_finalizer(self._caches.images, image, FINALIZER)
        again: float | None = None
        entries: dict[str, tuple[Provider, Entry]] = {}
        for provider in providers:
            entry, soon = await self._prepare(image, provider)
            entries[f"{provider.metadata.namespace}/{provider.metadata.name}"] = (provider, entry)
            again = soon if again is None else min(again, soon or again)
        await self._report(image, entries)
        return again

    async def report(self, name: Name, error: ProviderError | Hold) -> None:
        """A Hold or an error that belongs to no single provider."""
        image = self._caches.images.get(*name)
        if image is None or image.metadata.deletion_timestamp:
            return
        reason = error.reason if isinstance(error, Hold) else REASONS.get(type(error), error.reason)
        status = msgspec.structs.replace(image.status)
        status.message, status.phase, status.ready = str(error), "Pending", False
        wishes = [Wish(READY, "False", reason, str(error))]
        now = self._clock.now()
        status.conditions = merged(image.status.conditions, wishes, (READY, IMPORTING), image.metadata.generation, now)
        await self._writer.status(self._caches.images, image, status)

    def _providers(self, image: VMImage) -> list[Provider]:
        """Those on which a machine is to be made from it, or was."""
        found: dict[str, Provider] = {}
        for name in self._index.wanted_on(image.metadata.namespace, image.metadata.name):
            provider = self._caches.providers.get(*name)
            if provider is not None and not provider.metadata.deletion_timestamp:
                found[provider.metadata.uid] = provider
        return sorted(found.values(), key=lambda p: (p.metadata.namespace, p.metadata.name))

    async def _prepare(self, image: VMImage, provider: Provider) -> tuple[Entry, float | None]:
        uid, digest = provider.metadata.uid, digest_of(image)
        connection = self._connections.get(uid)
        known = self._registry.get(image, uid)
        if known is not None and known.image is not None:
            return known, None
        if known is not None and known.problem and (wait := self._attempts.wait(image, uid)) != 0.0:
            return known, wait
        again: float | None = None
        try:
            if connection is None:
                raise Hold("ProviderUnavailable", f"provider {_label(provider)} is not running yet")
            entry = await self._ask(image, provider, connection, digest)
            if entry.problem:
                again = RETRY
        except Hold as hold:
            entry, again = Entry(digest, reason=hold.reason, problem=str(hold)), hold.again
        except ProviderError as error:
            entry, again = self._failed(image, uid, digest, error)
        if entry.image is not None:
            self._attempts.forget(image.metadata.uid, uid)
        self._remember(image, provider, entry)
        return entry, again

    def _failed(
        self, image: VMImage, provider_uid: str, digest: str, error: ProviderError
    ) -> tuple[Entry, float | None]:
        """What to say, and when to try again. A provider that does not answer has tried nothing: no retry is spent."""
        action, problem = errors.action(error), redact.text(str(error))  # it may quote the credentials that it was sent
        again: float | None = 5.0
        if action is Action.STOP:
            again = None
        elif not isinstance(error, UNREACHABLE):
            again = self._attempts.failed(image, provider_uid)
            if again is None:
                problem += (
                    "; not tried again, because spec.prepare.retries are spent. Any change of the object, such as an "
                    "annotation, has it tried anew"
                )
        return Entry(digest, reason=REASONS.get(type(error), error.reason), problem=problem), again

    async def _ask(self, image: VMImage, provider: Provider, connection: Connection, digest: str) -> Entry:
        if failure := connection.known.take_failure(image.metadata.uid):
            raise failure
        prepare = image.spec.prepare
        wish = prepare.on_missing if prepare is not None else "Import"
        request = await request_for(
            image, provider.spec.type, self._owner(), self._secrets, check_only=wish in ("Fail", "Wait")
        )
        try:
            answer: v1.PrepareImageResponse = await connection.call("ImageService", "prepare_image", request)
        except ImageNotFoundError:
            if not request.check_only:
                raise
            answer = v1.PrepareImageResponse()
        if answer.image is not None:
            return Entry(digest, image=answer.image)
        if answer.operation is not None:
            connection.follow(answer.operation, image.metadata.uid)
            return Entry(digest, operation=answer.operation.id)
        if wish == "Fail":
            message = f"the image is not on provider {_label(provider)}, and prepare.onMissing is Fail"
            return Entry(digest, reason="MissingOnProvider", problem=message)
        return Entry(digest, reason="WaitingForImage", problem=f"waiting for the image on provider {_label(provider)}")

    def _remember(self, image: VMImage, provider: Provider, entry: Entry) -> None:
        if self._registry.put(image.metadata.uid, provider.metadata.uid, entry):
            users = self._index.users("VMImage", image.metadata.namespace, image.metadata.name)
            self._wake_machines(users)

    # -- report ----------------------------------------------------------------------------------------------------

    async def _report(self, image: VMImage, entries: dict[str, tuple[Provider, Entry]]) -> None:
        now = self._clock.now()
        status = image_status(image, entries, self._caches.living_providers(), now)
        before = find(image.status.conditions, READY)
        after = find(status.conditions, READY)
        await self._writer.status(self._caches.images, image, status)
        failed = status.phase == "Failed" and after is not None
        if failed and after is not None and (before is None or before.message != after.message):
            self._recorder.record(subject_of(image, "VMImage"), WARNING, after.reason, after.message)
        ignored, told = find(status.conditions, FIELDS_IGNORED), find(image.status.conditions, FIELDS_IGNORED)
        if ignored is not None and (told is None or told.message != ignored.message):
            self._recorder.record(subject_of(image, "VMImage"), WARNING, FIELDS_IGNORED, ignored.message)

    # -- deletion --------------------------------------------------------------------------------------------------

    async def _delete(self, image: VMImage) -> float | None:
        if FINALIZER not in image.metadata.finalizers:
            return None
        meta = image.metadata
        users = self._index.users("VMImage", meta.namespace, meta.name)
        unmade = [name for name in users if (vm := self._caches.machines.get(*name)) is not None and not vm.status.id]
        if unmade:
            first = "/".join(min(unmade))
            return await self._block(image, "InUse", f"VirtualMachine {first} is to be made from it")
        for provider_name, entry in image.status.provider_status.items():
            if entry.id and (problem := await self._remove(entry)) is not None:
                return await self._block(image, problem[0], f"provider {provider_name}: {problem[1]}")
            self._attempts.forget(meta.uid, entry.provider_uid or "")
        await self._writer.remove_finalizer(self._caches.images, image, FINALIZER)
        return None

    async def _remove(self, entry: ProviderStatus) -> tuple[str, str] | None:
        """Remove it from one provider; answers with what is in the way. On a Provider that is gone nothing can be."""
        uid = entry.provider_uid or ""
        if uid not in self._caches.living_providers():
            return None
        connection = self._connections.get(uid)
        if connection is None:
            return "ProviderUnavailable", "it is not running"
        try:
            await connection.call("ImageService", "delete_image", v1.DeleteImageRequest(id=entry.id or ""))
        except ImageInUseError as error:
            return "InUse", str(error)
        except (InvalidSpecError, NotSupportedError):
            return None  # it has no such image, and never had
        except ProviderError as error:
            return REASONS.get(type(error), error.reason), str(error)
        return None

    async def _block(self, image: VMImage, reason: str, why: str) -> float:
        status = msgspec.structs.replace(image.status)
        message = f"removal waits: {why}"
        status.message = message
        wishes = [Wish(READY, "False", "Deleting", message), Wish(DELETE_BLOCKED, "True", reason, message)]
        owned = (READY, IMPORTING, DELETE_BLOCKED)
        generation = image.metadata.generation
        status.conditions = merged(image.status.conditions, wishes, owned, generation, self._clock.now())
        await self._writer.status(self._caches.images, image, status)
        return RETRY


def _label(provider: Provider) -> str:
    return f"{provider.metadata.namespace}/{provider.metadata.name}"


def image_status(
    image: VMImage, entries: dict[str, tuple[Provider, Entry]], living: Container[str], now: datetime
) -> VMImageStatus:
    """The status of an image: pure. Entries of providers that need it no more stay as they were.

    Args:
        living: UIDs of the Providers that exist. What was said of others is forgotten.
    """
    status = msgspec.structs.replace(image.status)
    status.observed_generation = image.metadata.generation
    told = {name: each for name, each in image.status.provider_status.items() if each.provider_uid in living}
    for name, (provider, entry) in entries.items():
        told[name] = _provider_status(image.status.provider_status.get(name), provider, entry, now)
    status.provider_status = told
    status.available_on = sorted(name for name, each in told.items() if each.available)
    ready = [entry.image for _, entry in entries.values() if entry.image is not None]
    running = [name for name, (_, entry) in entries.items() if entry.operation]
    failed = [(name, entry) for name, (_, entry) in entries.items() if entry.problem]
    if ready:
        status.size = quantity.format_binary(ready[0].size_bytes)
        if ready[0].source_digest:
            status.checksum = ready[0].source_digest
    status.ready = bool(status.available_on)
    if failed:
        name, entry = failed[0]
        final = "Pending" if entry.reason in (WAITING, "WaitingForImage", "ProviderUnavailable") else "Failed"
        status.phase = "Ready" if status.ready else final  # type: ignore[assignment]  # words of the schema
        reason, message = entry.reason, f"on provider {name}: {entry.problem}"
    elif running:
        status.phase = "Ready" if status.ready else "Importing"
        reason, message = IMPORTING, f"being prepared on provider {', '.join(running)}"
    elif status.ready:
        status.phase, reason, message = "Ready", "Prepared", f"ready on provider {', '.join(status.available_on)}"
    else:
        status.phase, reason, message = "Pending", "NotNeeded", "no machine is to be made from it yet"
    status.message = message
    wishes = [
        Wish(READY, "True" if status.ready and not failed and not running else "False", reason, message),
        Wish(IMPORTING, "True" if running else "False", IMPORTING if running else reason, message),
        *wish_of(image_reports(image)),
    ]
    owned = (READY, IMPORTING, DELETE_BLOCKED, FIELDS_IGNORED)
    status.conditions = merged(image.status.conditions, wishes, owned, image.metadata.generation, now)
    if before_importing(image.status) != bool(running):
        status.last_prepare_time = timestamp(now)
    return status


def before_importing(status: VMImageStatus) -> bool:
    """Whether an import was in progress at the last report."""
    condition = find(status.conditions, IMPORTING)
    return condition is not None and condition.status == "True"


def _provider_status(before: ProviderStatus | None, provider: Provider, entry: Entry, now: datetime) -> ProviderStatus:
    image = entry.image
    after = ProviderStatus(
        available=image is not None,
        id=image.id if image is not None else None,
        path=image.location or None if image is not None else None,
        size=quantity.format_binary(image.size_bytes) if image is not None else None,
        message=entry.problem or None,
        provider_uid=provider.metadata.uid,
        task_ref=entry.operation or None,
        source_digest=entry.digest,
        last_updated=before.last_updated if before is not None else None,
    )
    if after != before:
        after.last_updated = timestamp(now)
    return after
