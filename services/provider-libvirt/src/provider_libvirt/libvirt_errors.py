"""libvirt's errors in our words: mapped by code, once, here."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
from common.errors import (
    CredentialsRefusedError,
    HostFullError,
    HypervisorUnavailableError,
    InternalError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    OperationInProgressError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
    WrongPowerStateError,
)

_BY_CODE: dict[int, type[ProviderError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: MachineNotFoundError,
    libvirt.VIR_ERR_NO_NETWORK: ResourceNotFoundError,
    libvirt.VIR_ERR_NO_STORAGE_POOL: ResourceNotFoundError,
    libvirt.VIR_ERR_NO_STORAGE_VOL: ResourceNotFoundError,
    libvirt.VIR_ERR_NO_NODE_DEVICE: ResourceNotFoundError,
    libvirt.VIR_ERR_OPERATION_INVALID: WrongPowerStateError,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: OperationInProgressError,
    libvirt.VIR_ERR_RESOURCE_BUSY: OperationInProgressError,
    libvirt.VIR_ERR_BLOCK_COPY_ACTIVE: OperationInProgressError,
    libvirt.VIR_ERR_NO_MEMORY: HostFullError,
    libvirt.VIR_ERR_AUTH_FAILED: CredentialsRefusedError,
    libvirt.VIR_ERR_AUTH_CANCELLED: CredentialsRefusedError,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: CredentialsRefusedError,
    libvirt.VIR_ERR_LIBSSH: CredentialsRefusedError,
    libvirt.VIR_ERR_OPERATION_DENIED: PermissionMissingError,
    libvirt.VIR_ERR_ACCESS_DENIED: PermissionMissingError,
    libvirt.VIR_ERR_NO_SUPPORT: NotSupportedError,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: NotSupportedError,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NotSupportedError,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: NotSupportedError,
    libvirt.VIR_ERR_XML_ERROR: InvalidSpecError,
    libvirt.VIR_ERR_XML_DETAIL: InvalidSpecError,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: InvalidSpecError,
    libvirt.VIR_ERR_CPU_INCOMPATIBLE: NotSupportedError,
    libvirt.VIR_ERR_RPC: HypervisorUnavailableError,
    libvirt.VIR_ERR_NO_CONNECT: HypervisorUnavailableError,
    libvirt.VIR_ERR_INVALID_CONN: HypervisorUnavailableError,
    libvirt.VIR_ERR_NO_SERVER: HypervisorUnavailableError,
    libvirt.VIR_ERR_UNKNOWN_HOST: HypervisorUnavailableError,
    libvirt.VIR_ERR_GNUTLS_ERROR: HypervisorUnavailableError,
    libvirt.VIR_ERR_SSH: HypervisorUnavailableError,
}

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "cannot set up guest memory",
    "Not enough free space",
)
# What ssh, TLS and SASL say when it is the credentials and not the line. They come with generic codes.
_CREDENTIAL_TEXTS = (
    "Permission denied (",
    "Host key verification failed",
    "authentication failed",
    "Authentication failed",
    "certificate has expired",
    "certificate is not trusted",
    "The certificate",
    "certificate verify failed",
)
_PERMISSION_TEXTS = ("authentication unavailable: no polkit agent",)


def translate(error: libvirt.libvirtError, doing: str) -> ProviderError:
    """The error of ours that says the same; a code that we do not know is a bug of ours, with libvirt's own text.

    Args:
        doing: what was being done to which machine, for people.
    """
    code, domain = error.get_error_code(), error.get_error_domain()
    text = " ".join((error.get_error_message() or str(error)).split())  # what ssh says has line ends in it
    message = f"{doing}: {text}"
    number = error.get_int1() if code == libvirt.VIR_ERR_SYSTEM_ERROR else 0
    if number in _FULL_ERRNOS or any(t in text for t in _FULL_TEXTS):
        return HostFullError(message)
    if any(t in text for t in _PERMISSION_TEXTS):
        return PermissionMissingError(message)
    if code in _BY_CODE and _BY_CODE[code] is not HypervisorUnavailableError:
        return _BY_CODE[code](message)
    if domain in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) or code in _BY_CODE:
        if any(t in text for t in _CREDENTIAL_TEXTS):
            return CredentialsRefusedError(message)
        if number in (errno.EACCES, errno.EPERM):
            return PermissionMissingError(message)
        return HypervisorUnavailableError(message)
    if number in (errno.EACCES, errno.EPERM):
        return PermissionMissingError(message)
    return InternalError(message)


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Let only errors of ours out."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, doing) from error


def is_code(error: BaseException | None, *codes: int) -> bool:
    """Whether an error of ours, or libvirt's, came from one of these libvirt codes."""
    cause = error if isinstance(error, libvirt.libvirtError) else getattr(error, "__cause__", None)
    return isinstance(cause, libvirt.libvirtError) and cause.get_error_code() in codes
