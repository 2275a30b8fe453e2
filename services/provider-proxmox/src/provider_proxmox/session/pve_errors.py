"""What Proxmox VE says, in our words: mapped by status and text, once, here.

There is no 404 and no 409: a missing machine, a lock and a full storage are all 500, or 200 with a task that fails
later, and only the text tells them apart. The text of a task's end is the same as the one of a reply.

Source: replies of Proxmox VE 9.2, and its program text (pve-common, pve-guest-common, pve-storage, qemu-server).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    CredentialsRefusedError,
    DownloadFailedError,
    HostFullError,
    HypervisorUnavailableError,
    ImageInUseError,
    InternalError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    OperationCancelledError,
    OperationInProgressError,
    OutcomeUnknownError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)


class LockedError(OperationInProgressError):
    """The configuration is locked by a task: a clone, a snapshot, a backup. It passes when that has ended.

    Args:
        lock: its word: "clone", "snapshot", "suspended".
    """

    def __init__(self, message: str, *, lock: str = "", retry_after: float | None = 5.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.lock = lock

    @property
    def reason(self) -> str:
        return "OperationInProgress"


class FileLockedError(OperationInProgressError):
    """Something held the machine's file lock for longer than Proxmox VE waits; nothing was done, so ask again."""

    def __init__(self, message: str, *, retry_after: float | None = 5.0) -> None:
        super().__init__(message, retry_after=retry_after)

    @property
    def reason(self) -> str:
        return "OperationInProgress"


class VmidTakenError(OperationInProgressError):
    """The VMID of a create or clone belongs to a guest already: somebody was faster. Nothing was done."""

    @property
    def reason(self) -> str:
        return "OperationInProgress"


class VolumeTakenError(NameConflictError):
    """A file or volume of this name is there already; it was not touched."""

    @property
    def reason(self) -> str:
        return "NameConflict"


class NodeAwayError(HypervisorUnavailableError):
    """One node does not answer its neighbours; the cluster does. Nothing was done."""

    @property
    def reason(self) -> str:
        return "HypervisorUnavailable"


class NoSuchTaskError(OutcomeUnknownError):
    """The cluster does not know a task any more: how it ended shows in what it was to do."""

    @property
    def reason(self) -> str:
        return "OutcomeUnknown"


class AgentSilentError(WrongPowerStateError):
    """The guest agent does not run, or not yet."""

    @property
    def reason(self) -> str:
        return "WrongPowerState"


class RefusedLoginError(CredentialsRefusedError):
    """A ticket or token was not believed; the call had no effect."""

    @property
    def reason(self) -> str:
        return "CredentialsRefused"


_TEXTS: tuple[tuple[str, Callable[[str], ProviderError]], ...] = (
    # locks
    (r"can't lock file '.*'(?: - got timeout)?|unable to (?:acquire|get) .*lock|got lock timeout", FileLockedError),
    (r"VM is locked \(([\w-]+)\)|is locked \(([\w-]+)\)", LockedError),
    (r"cfs-lock '.*' error: got lock request timeout", FileLockedError),
    # somebody was faster
    (r"checksum mismatch \(file change by other user\?\)|detected modified configuration", StalePreconditionError),
    (r"HA rule '.*' already defined|resource ID '.*' already defined", StalePreconditionError),
    (r"unable to create VM \d+ - VM \d+ already exists", VmidTakenError),
    (r"unable to create VM \d+: config file already exists", VmidTakenError),
    (r"\b[VC](?:M|T) \d+ already exists|config file for .* already exists", VmidTakenError),
    # room
    (r"not enough (?:free )?(?:space|memory)|[Nn]o space left|insufficient free space|out of space", HostFullError),
    (r"quota exceeded|exceeds? .*quota|no free (?:space|extents)", HostFullError),
    (r"Cannot allocate memory|cannot set up guest memory|free hugepages", HostFullError),
    (r"unable to find free (?:disk name|network id)|no free VNC|MAX \d+ vcpus allowed", HostFullError),
    # what is not there
    (r"[Cc]onfiguration file '\S*qemu-server/\d+\.conf' does not exist", MachineNotFoundError),
    (r"unable to find configuration file for (?:VM|CT) \d+", MachineNotFoundError),
    (r"no such VM \('?\d+'?\)|VM \d+ does not exist", MachineNotFoundError),
    (r"snapshot '.*' does not exist|no such snapshot", SnapshotNotFoundError),
    (r"[Nn]o such task", NoSuchTaskError),
    (r"(?:storage|pool|bridge|volume|disk|interface|zone|vnet|group|rule|device) '.*' does not exist(?! in cluster)",
     ResourceNotFoundError),
    (r"resource '.*' does not exist|no such resource|[Nn]o such storage", ResourceNotFoundError),
    (r"no such ha rule|not HA managed", ResourceNotFoundError),
    (r"no such (?:cluster )?node", ResourceNotFoundError),
    (r"failed to stat '.*'|disk image '.*' does not exist|volume_size_info on '.*' failed", ResourceNotFoundError),
    (r"interface does not exist|no such logical volume|[Nn]o such file or directory", ResourceNotFoundError),
    (r"PCI device .* (?:not found|does not exist)|[Nn]o pci device info|mapping '.*' not", ResourceNotFoundError),
    (r"download failed|unable to download|[Cc]ould not resolve", DownloadFailedError),
    # nodes that are away
    (r"hostname lookup '.*' failed|command '\S*ssh .*' failed: exit code 255", NodeAwayError),
    (r"[Nn]o route to host|[Cc]onnection (?:refused|timed out|reset)|[Nn]etwork is unreachable", NodeAwayError),
    (r"proxy handler failed|[Cc]luster not ready|no quorum|not quorate|node .* (?:is )?offline", NodeAwayError),
    # content
    (r"checksum mismatch: got", ChecksumMismatchError),
    (r"Image is not in \w+ format|failed to verify file|not a (?:valid )?(?:qcow2|vmdk|raw)", BrokenImageError),
    (r"refusing to override existing file|disk image '.*' already exists|already exists\b", VolumeTakenError),
    (r"base volume '.*' is still in use|is used as base|still in use by linked", ImageInUseError),
    (r"has child snapshots|is used by snapshot|snapshot is in use", SnapshotInUseError),
    # power
    (r"guest agent is not running|[Nn]o QEMU guest agent configured|guest agent not responding", AgentSilentError),
    (r"VM \d+ (?:is )?(?:not|already) running|VM (?:\d+ )?is running|unable to suspend", WrongPowerStateError),
    (r"VM quit/powerdown failed|hotplug problem|[Ss]hutdown .* timed? ?out", WrongPowerStateError),
    # ends of tasks that say nothing about what they did
    (r"received interrupt|interrupted by signal|got signal|aborted", OperationCancelledError),
    (r"^unexpected status$|^stopped: unknown|^unable to read tail", OutcomeUnknownError),
    (r"got timeout|timeout waiting|timed out", HypervisorUnavailableError),
    # what is not for us
    (r"only root (?:can|may)|Only root may use|Permission check failed|permission denied", PermissionMissingError),
    # what never will be
    (r"shrinking disks", InvalidSpecError),
    (r"protection mode enabled", InvalidSpecError),
    (r"is not (?:supported|available|possible)|not supported|does not support|unsupported", NotSupportedError),
    (r"can't (?:convert|start a|move to|use|unplug|migrate)|already (?:used|attached)|reserved name", InvalidSpecError),
    (r"unable to create template|not allowed for|invalid |validation error|no options specified", InvalidSpecError),
    (r"purge parameter not set|used in HA resources", InvalidSpecError),
)  # fmt: skip
"""Searched in this order: what comes first is the most particular."""
_TABLE = tuple((re.compile(pattern), cls) for pattern, cls in _TEXTS)

_AWAY = {595: True, 596: False, 597: False, 598: False, 599: False}
"""Statuses that the entry node gives for a node behind it, and whether the request certainly did not arrive there.
Source: AnyEvent::HTTP."""
_PERMISSION = re.compile(r"Permission check failed(?: \((?P<path>[^,()]+)(?:, (?P<privilege>[^()]+))?\))?")
_NO_POOL = re.compile(r"\((pool '.*' does not exist)\)")
_UNKNOWN_PARAMETER = "property is not defined in schema"
_MAY_BE_NEWER = re.compile(r"not defined in schema|does not have a value in the enumeration|unknown option")
_SECRETS = re.compile(r"((?:(?:ssh|ecdsa)-[\w-]+(?:%20|\+| )|(?:cipassword|password|sshkeys)[=:]\s*)+)\S+")


def from_text(text: str, doing: str) -> ProviderError:
    """The error that a text of Proxmox VE stands for: of a reply, or of a task's end."""
    text = plain(text)
    for pattern, cls in _TABLE:
        if found := pattern.search(text):
            message = f"{doing}: {text}"
            if cls is LockedError:
                return LockedError(message, lock=next((word for word in found.groups() if word), ""))
            return cls(message)
    return InternalError(f"{doing}: {text or 'Proxmox VE gave no reason'}")


def from_reply(
    status: int, text: str, errors: Mapping[str, object] | None, doing: str, *, changes: bool = True
) -> ProviderError:
    """The error that a reply stands for.

    Args:
        text: the message, or the reason phrase where there is none.
        errors: what is wrong with which parameter, of a 400.
        changes: the request was no GET: a reply that got lost on its way leaves its outcome unknown.
    """
    if status == 401:
        return RefusedLoginError(f"{doing}: Proxmox VE does not accept our credentials: {plain(text) or 'refused'}")
    if status == 403:
        return _forbidden(text, doing)
    if status in _AWAY:
        if _AWAY[status] or not changes:
            return NodeAwayError(f"{doing}: a node does not answer: {plain(text) or status}", retry_after=5.0)
        return OutcomeUnknownError(f"{doing}: the answer of a node was lost: {plain(text) or status}")
    if status == 400 and errors:
        return _bad_parameters(errors, doing)
    if status == 501:
        return NotSupportedError(f"{doing}: {plain(text)}: this version of Proxmox VE does not have it")
    if status in (502, 503, 504):  # a proxy in front of it speaks
        message = f"{doing}: {status} {plain(text)}"
        return OutcomeUnknownError(message) if changes else HypervisorUnavailableError(message, retry_after=2.0)
    return from_text(text, doing)


def _forbidden(text: str, doing: str) -> ProviderError:
    text = plain(text)
    if missing := _NO_POOL.search(text):
        return ResourceNotFoundError(f"{doing}: {missing[1]}")
    found = _PERMISSION.search(text)
    if found is None or found["path"] is None:
        return PermissionMissingError(f"{doing}: {text}: our user lacks a privilege for it")
    privilege = (found["privilege"] or "a privilege").replace("|", " or ")
    return PermissionMissingError(f"{doing}: our user lacks {privilege} on {found['path']}")


def _bad_parameters(errors: Mapping[str, object], doing: str) -> ProviderError:
    """What a 400 says: often the same texts as a 500, sorted under a parameter."""
    said = {name: plain(str(text)) for name, text in sorted(errors.items())}
    message = f"{doing}: " + "; ".join(f"{name}: {text}" for name, text in said.items())
    if "upid" in said:
        return NoSuchTaskError(message)
    if any("Only root may use" in text for text in said.values()):
        return PermissionMissingError(message)
    if all(_MAY_BE_NEWER.search(text) for text in said.values()) and any(
        _UNKNOWN_PARAMETER in text for text in said.values()
    ):
        return NotSupportedError(f"{message} (this version of Proxmox VE may be too old)")
    if "vmid" in said and "already exists" in said["vmid"]:
        return VmidTakenError(message)
    if any("hotplug problem" in text for text in said.values()):
        return WrongPowerStateError(message)
    if any("No such storage" in text or "does not exist" in text for text in said.values()):
        return ResourceNotFoundError(message)
    return InvalidSpecError(message)


def plain(text: str) -> str:
    """In one line, without what nobody else may read."""
    line = " ".join(text.split())
    return _SECRETS.sub(r"\1<hidden>", line)
