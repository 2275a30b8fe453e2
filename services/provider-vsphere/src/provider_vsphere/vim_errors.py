"""vSphere's faults in our words: mapped by class, once, here.

Never by message: those are localized, and a simulator leaves them empty.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.errors import (
    CredentialsRefusedError,
    HostFullError,
    HypervisorUnavailableError,
    InternalError,
    InvalidSpecError,
    MachineNotFoundError,
    NameConflictError,
    NotSupportedError,
    OperationCancelledError,
    OperationInProgressError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

# The first that fits wins, so subclasses stand before what they are derived from.
_BY_CLASS: tuple[tuple[Any, type[ProviderError]], ...] = (
    (vim.fault.NotAuthenticated, HypervisorUnavailableError),  # it is derived from NoPermission
    (vim.fault.NoPermission, PermissionMissingError),
    (vim.fault.InvalidLogin, CredentialsRefusedError),
    (vmodl.fault.NotEnoughLicenses, HostFullError),
    (vim.fault.InsufficientResourcesFault, HostFullError),
    (vim.fault.NoDiskSpace, HostFullError),
    (vim.fault.DuplicateName, NameConflictError),
    (vim.fault.FileAlreadyExists, NameConflictError),
    (vim.fault.ConcurrentAccess, StalePreconditionError),
    (vim.fault.TaskInProgress, OperationInProgressError),
    (vim.fault.FileLocked, OperationInProgressError),
    (vim.fault.InvalidPowerState, WrongPowerStateError),
    (vim.fault.ToolsUnavailable, WrongPowerStateError),
    (vim.fault.CpuHotPlugNotSupported, WrongPowerStateError),
    (vim.fault.MemoryHotPlugNotSupported, WrongPowerStateError),
    (vim.fault.InvalidHostConnectionState, HypervisorUnavailableError),  # HostNotConnected is one
    (vim.fault.HostConnectFault, HypervisorUnavailableError),
    (vim.fault.InvalidDatastore, ResourceNotFoundError),
    (vim.fault.FileNotFound, ResourceNotFoundError),
    (vim.fault.NotFound, ResourceNotFoundError),
    (vim.fault.RestrictedVersion, PermissionMissingError),  # an ESXi host without a licence for its API
    (vmodl.fault.ManagedObjectNotFound, MachineNotFoundError),
    (vmodl.fault.RequestCanceled, OperationCancelledError),
    (vmodl.fault.NotSupported, NotSupportedError),
    (vmodl.fault.NotImplemented, NotSupportedError),
    (vmodl.fault.MethodNotFound, NotSupportedError),
    (vmodl.fault.InvalidArgument, InvalidSpecError),
    (vim.fault.InvalidName, InvalidSpecError),
    (vim.fault.VmConfigFault, InvalidSpecError),
    (vmodl.fault.HostCommunication, HypervisorUnavailableError),
    (vim.fault.InvalidState, WrongPowerStateError),
)  # fmt: skip

_TELLING = ("name", "privilegeId", "property", "datastore", "file", "device", "requestedState", "existingState")
"""Attributes of faults that say something to people; none of them can hold a secret."""


def translate(error: BaseException | None, doing: str) -> ProviderError:
    """The error of ours that says the same.

    Args:
        error: what pyvmomi raised, or `info.error` of a task; a fault that we do not know is a bug of ours.
        doing: what was being done to which machine, for people.
    """
    if isinstance(error, ProviderError):
        return error
    fault = getattr(error, "fault", None) or error  # a task's error comes wrapped in LocalizedMethodFault
    if isinstance(fault, vmodl.MethodFault):
        kind = next((ours for theirs, ours in _BY_CLASS if isinstance(fault, theirs)), InternalError)
        translated: ProviderError = kind(f"{doing}: {words(fault)}")
    elif isinstance(fault, ssl.SSLCertVerificationError):
        translated = CredentialsRefusedError(
            f"{doing}: the server's certificate is not to be believed ({_first_line(fault)}); "
            "give ca.crt or a thumbprint"
        )
    elif isinstance(fault, OSError | http.client.HTTPException | ssl.SSLError):  # TimeoutError is an OSError
        translated = HypervisorUnavailableError(f"{doing}: {_first_line(fault) or type(fault).__name__}")
    else:
        translated = InternalError(f"{doing}: {type(fault).__name__}")
    translated.__cause__ = error if isinstance(error, BaseException) else None
    return translated


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Let only errors of ours out."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        raise translate(error, doing) from error


def words(fault: Any) -> str:
    """What a fault says: its message, or its class in words, and whatever it names."""
    said = str(getattr(fault, "msg", "") or "")
    name = type(fault).__name__.rpartition(".")[2]
    if not said or said.startswith("*"):  # Go's name of the type is no message
        said = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    told = [f"{key} {_plain(value)}" for key in _TELLING if (value := getattr(fault, key, None)) not in (None, "", [])]
    about = getattr(fault, "object", None)
    if isinstance(about, ManagedObject):
        told.append(f"object {_plain(about)}")
    return f"{said} ({name}{': ' if told else ''}{', '.join(told)})"


def _plain(value: object) -> str:
    return str(value._moId) if isinstance(value, ManagedObject) else str(value)


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0]
