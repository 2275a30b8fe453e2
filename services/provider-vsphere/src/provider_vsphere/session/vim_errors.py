"""vSphere's faults in our words: mapped by class, once, here.

Never by message: those are localized, and a simulator leaves them empty or puts the name of a Go type there.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.errors import (
    BrokenImageError,
    CredentialsRefusedError,
    HostFullError,
    HypervisorUnavailableError,
    InternalError,
    InvalidSpecError,
    NameConflictError,
    NotSupportedError,
    OperationCancelledError,
    OperationInProgressError,
    OperationNotFoundError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
    SnapshotNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from pyVmomi import vim, vmodl
from pyVmomi.Security import ThumbprintMismatchException
from pyVmomi.VmomiSupport import ManagedObject

# Looked up with a fault's class and then with what it is derived from, nearest first: the order here means nothing.
# Any: pyvmomi makes its types at run time.
_BY_CLASS: dict[Any, type[ProviderError]] = {
    # who we are
    vim.fault.InvalidLogin: CredentialsRefusedError,  # PasswordExpired is one
    vim.fault.NoClientCertificate: CredentialsRefusedError,
    vmodl.fault.InvalidToken: CredentialsRefusedError,
    vim.fault.NotAuthenticated: HypervisorUnavailableError,  # the session ended; to vSphere it is a NoPermission
    vmodl.fault.AuthenticationRequired: HypervisorUnavailableError,
    vmodl.fault.SessionNotFound: HypervisorUnavailableError,
    vmodl.query.InvalidCollectorVersion: HypervisorUnavailableError,
    vmodl.fault.SecurityError: PermissionMissingError,  # NoPermission is one
    vim.fault.RestrictedVersion: PermissionMissingError,  # an ESXi host without a licence for its API
    vim.fault.RestrictedByAdministrator: PermissionMissingError,
    vim.fault.OperationDisallowedOnHost: PermissionMissingError,
    vim.fault.DisallowedOperationOnFailoverHost: PermissionMissingError,
    vim.fault.HostAccessRestrictedToManagementServer: PermissionMissingError,  # an ESXi host that a vCenter manages
    # the server
    vim.fault.DatabaseError: HypervisorUnavailableError,
    vim.fault.Timedout: HypervisorUnavailableError,
    # what is not there. One host that is away is a missing host and not a missing vCenter.
    vim.fault.NotFound: ResourceNotFoundError,
    vim.fault.KeyNotFound: ResourceNotFoundError,
    vim.fault.NoDiskFound: ResourceNotFoundError,
    vim.fault.InvalidDatastore: ResourceNotFoundError,
    vim.fault.InvalidDatastorePath: InvalidSpecError,
    vim.fault.InvalidDatastoreState: ResourceNotFoundError,
    vim.fault.NoCompatibleDatastore: ResourceNotFoundError,
    vim.fault.NoConnectedDatastore: ResourceNotFoundError,
    vim.fault.FileNotFound: ResourceNotFoundError,
    vim.fault.CannotAccessFile: ResourceNotFoundError,
    vim.fault.CannotAccessVmComponent: ResourceNotFoundError,
    vim.fault.CannotUseNetwork: ResourceNotFoundError,
    vim.fault.EncryptionKeyRequired: ResourceNotFoundError,
    vim.fault.InvalidHostState: ResourceNotFoundError,
    vim.fault.HostConnectFault: ResourceNotFoundError,
    vmodl.fault.HostCommunication: ResourceNotFoundError,
    # names
    vim.fault.DuplicateName: NameConflictError,
    vim.fault.AlreadyExists: NameConflictError,
    vim.fault.FileAlreadyExists: NameConflictError,
    # somebody else is at it
    vim.fault.ConcurrentAccess: StalePreconditionError,
    vim.fault.TaskInProgress: OperationInProgressError,
    vim.fault.VAppOperationInProgress: OperationInProgressError,
    vim.fault.ResourceInUse: OperationInProgressError,
    vim.fault.FileLocked: OperationInProgressError,
    vim.fault.SnapshotLocked: OperationInProgressError,
    vim.fault.MethodDisabled: OperationInProgressError,  # by a backup, until it is done
    vim.fault.QuestionPending: OperationInProgressError,  # vSphere waits for somebody to answer
    vim.fault.CustomizationPending: OperationInProgressError,
    vim.fault.ToolsInstallationInProgress: OperationInProgressError,
    vmodl.fault.RequestCanceled: OperationCancelledError,
    # power
    vim.fault.InvalidState: WrongPowerStateError,
    vim.fault.ToolsUnavailable: WrongPowerStateError,  # the guest is not far enough up
    vim.fault.GuestOperationsUnavailable: WrongPowerStateError,
    vim.fault.FilesystemQuiesceFault: WrongPowerStateError,  # the guest would not hold still
    vim.fault.ApplicationQuiesceFault: WrongPowerStateError,
    vim.fault.CpuHotPlugNotSupported: WrongPowerStateError,
    vim.fault.MemoryHotPlugNotSupported: WrongPowerStateError,
    vim.fault.DeviceHotPlugNotSupported: WrongPowerStateError,
    # room
    vim.fault.InsufficientResourcesFault: HostFullError,
    vim.fault.InsufficientStorageIops: HostFullError,
    vim.fault.ResourceNotAvailable: HostFullError,
    vim.fault.NoDiskSpace: HostFullError,
    vim.fault.LimitExceeded: HostFullError,
    vim.fault.TooManySnapshotLevels: HostFullError,
    vim.fault.MksConnectionLimitReached: HostFullError,
    vim.fault.DestinationSwitchFull: HostFullError,
    vim.fault.NoAvailableIp: HostFullError,
    vim.fault.NotEnoughCpus: HostFullError,
    vim.fault.NoActiveHostInCluster: HostFullError,
    vim.fault.NoCompatibleHost: HostFullError,
    vim.fault.NoCompatibleHardAffinityHost: HostFullError,
    vim.fault.RuleViolation: HostFullError,
    vim.fault.VmHostAffinityRuleViolation: HostFullError,
    vim.fault.GenericDrsFault: HostFullError,
    vmodl.fault.NotEnoughLicenses: HostFullError,
    # what never will be
    vmodl.fault.InvalidArgument: InvalidSpecError,
    vim.fault.InvalidName: InvalidSpecError,
    vim.fault.InvalidFolder: InvalidSpecError,
    vim.fault.OutOfBounds: InvalidSpecError,
    vim.fault.FileTooLarge: InvalidSpecError,
    vim.fault.FileNameTooLong: InvalidSpecError,
    vim.fault.VmConfigFault: InvalidSpecError,
    vim.fault.GenericVmConfigFault: InternalError,  # says anything, also of trouble that passes: to be tried again
    vim.fault.DatacenterMismatch: InvalidSpecError,
    vim.fault.CustomizationFault: InvalidSpecError,
    vim.fault.IncorrectFileType: BrokenImageError,
    vim.fault.OvfFault: BrokenImageError,
    vim.fault.OvfSystemFault: InternalError,
    vim.fault.OvfUnsupportedPackage: NotSupportedError,
    vim.fault.VirtualHardwareCompatibilityIssue: NotSupportedError,
    vim.fault.UnsupportedDatastore: NotSupportedError,
    vim.fault.UncustomizableGuest: NotSupportedError,
    vim.fault.MigrationFault: NotSupportedError,
    vim.fault.SnapshotDisabled: NotSupportedError,
    vim.fault.MultipleSnapshotsNotSupported: NotSupportedError,
    vim.fault.MemorySnapshotOnIndependentDisk: NotSupportedError,
    vim.fault.SnapshotIncompatibleDeviceInVm: NotSupportedError,
    vim.fault.UnsupportedVimApiVersion: NotSupportedError,
    vmodl.fault.NotSupported: NotSupportedError,
    vmodl.fault.NotImplemented: NotSupportedError,
    vmodl.fault.MethodNotFound: NotSupportedError,
    vmodl.fault.InvalidType: NotSupportedError,  # newer than the server
}

# A machine's own object may be gone because it was registered anew, under another id: that proves nothing about the
# machine, so it is not MachineNotFoundError.
_BY_GONE: dict[Any, type[ProviderError]] = {
    vim.VirtualMachine: StalePreconditionError,
    vim.vm.Snapshot: SnapshotNotFoundError,
    vim.Task: OperationNotFoundError,
    vmodl.query.PropertyCollector: HypervisorUnavailableError,  # these end with their session
    vmodl.query.PropertyCollector.Filter: HypervisorUnavailableError,
    vim.view.View: HypervisorUnavailableError,
}

_TELLING = (
    "object", "obj", "entity", "privilegeId", "missingPrivileges", "name", "vm", "vmName", "host", "hostName",
    "datastore", "datastoreName", "network", "file", "device", "snapshotName", "property", "invalidProperty",
    "argumentName", "argument", "requestedState", "existingState", "requested", "unreserved", "available", "limit",
    "feature", "maxFileSize", "maxSupportedVcpus", "maxSupportedVcpusDest", "memorySizeMB", "maxMemorySizeMB",
    "unsupportedGuestOS", "requiredKey", "managementServer", "rule", "method", "task", "text", "reason", "details",
    "detail", "description",
)  # fmt: skip
"""Attributes of faults that say something to people. Others are left out: keys and challenges are among them."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+")

_DEEP = 3
"""So many faults are told that lie in each other; GenericDrsFault and its like hold one per host."""


def translate(error: BaseException | None, doing: str) -> ProviderError:
    """The error of ours that says the same; `error` is its cause.

    A line that breaks, or a server that gives no sensible answer, is HypervisorUnavailableError: what was asked may
    have been done all the same.

    Args:
        error: what pyvmomi raised, or `info.error` of a task; a fault that we do not know is a bug of ours.
        doing: what was being done to which machine, for people.
    """
    if isinstance(error, ProviderError):
        return error
    # A task's error may come wrapped; some faults have a `fault` too, which is only why they happened.
    fault = error.fault if isinstance(error, vmodl.LocalizedMethodFault) else error
    if isinstance(fault, vmodl.MethodFault):
        said = str(error.localizedMessage or "") if isinstance(error, vmodl.LocalizedMethodFault) else ""
        translated = _kind(fault)(f"{doing}: {words(fault, said)}")
    elif isinstance(fault, ssl.SSLCertVerificationError | ThumbprintMismatchException):
        translated = CredentialsRefusedError(
            f"{doing}: the server's certificate is not to be believed ({_first_line(fault)}); "
            "give ca.crt or a thumbprint"
        )
    elif isinstance(fault, OSError | http.client.HTTPException):  # TimeoutError and SSLError are OSErrors
        translated = HypervisorUnavailableError(f"{doing}: {_first_line(fault) or type(fault).__name__}")
    else:
        translated = InternalError(f"{doing}: {type(fault).__name__}")
    translated.__cause__ = error
    return translated


def is_missing_file(error: ProviderError) -> bool:
    """It says that a file is not there, where others of its kind say that nobody can get at it."""
    return isinstance(_fault(error), vim.fault.FileNotFound)


def has_no_tools(error: ProviderError) -> bool:
    """It says that nobody in the guest can be asked, where others of its kind are about the power state."""
    return isinstance(_fault(error), vim.fault.ToolsUnavailable)


def _fault(error: ProviderError) -> Any:
    """What vSphere said."""
    cause = error.__cause__
    return cause.fault if isinstance(cause, vmodl.LocalizedMethodFault) else cause


def _kind(fault: Any) -> type[ProviderError]:
    if isinstance(fault, vmodl.fault.ManagedObjectNotFound):
        return _nearest(_BY_GONE, type(fault.obj), ResourceNotFoundError)
    return _nearest(_BY_CLASS, type(fault), InternalError)


def _nearest(table: dict[Any, type[ProviderError]], cls: type, otherwise: type[ProviderError]) -> type[ProviderError]:
    return next((table[base] for base in cls.__mro__ if base in table), otherwise)


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Let only errors of ours out."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        raise translate(error, doing) from error


def words(fault: Any, said: str = "", depth: int = _DEEP) -> str:
    """What a fault says: its message, or its class in words; whatever it names; and the same of why it happened.

    Args:
        said: the message, where it stands outside of the fault.
    """
    said = " ".join((str(fault.msg or "") or said).split())
    name = type(fault).__name__.rpartition(".")[2]
    if not said or said.startswith("*"):  # Go's name of the type is no message
        said = _spaced(name)
    told = [f"{_spaced(key)} {plain}" for key in _TELLING if (plain := _plain(getattr(fault, key, None)))]
    why = _why(fault) if depth > 1 else None
    because = f", because: {words(why, depth=depth - 1)}" if why is not None else ""
    return f"{said} ({name}{': ' if told else ''}{', '.join(told)}){because}"


def _why(fault: Any) -> Any:
    """The first fault that lies in a fault, or None."""
    for key in ("faultCause", "fault", "error", "hostFaults"):
        inner = getattr(fault, key, None)
        for each in inner if isinstance(inner, list) else [inner]:
            found = each.fault if isinstance(each, vmodl.LocalizedMethodFault) else each
            if isinstance(found, vmodl.MethodFault):
                return found
    return None


def _plain(value: Any) -> str:
    """A value for people; empty for what would not tell them anything."""
    if isinstance(value, ManagedObject):
        return f"{type(value).__name__.rpartition('.')[2]} {value._moId}"
    if isinstance(value, vim.fault.NoPermission.EntityPrivileges):
        return f"{' and '.join(value.privilegeIds or [])} on {_plain(value.entity)}"
    if isinstance(value, vim.vm.device.VirtualDevice):
        return str(value.deviceInfo.label) if value.deviceInfo is not None else f"key {value.key}"
    if isinstance(value, list):
        return "; ".join(filter(None, map(_plain, value)))
    return " ".join(str(value).split()) if isinstance(value, str | int) and value != "" else ""


def _spaced(name: str) -> str:
    """ "DuplicateName" as "duplicate name", "memorySizeMB" as "memory size MB"."""
    parts = _WORD.findall(name)
    return " ".join(part if part.isupper() and len(part) > 1 else part.lower() for part in parts)


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0]
