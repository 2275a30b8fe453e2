"""What can go wrong with a machine, named for the world and not for the transport.

Raise these; `common.status` alone knows how they cross the wire. A message says what was being done to which
machine, what was wrong, and what to do: "grow disk root of shop/web: 20 GiB asked, pool default has 4 GiB free".
It never holds a secret.
"""

from __future__ import annotations


class ProviderError(Exception):
    """Base of everything a provider may answer with.

    Args:
        message: for people; becomes the message of a condition.
        retry_after: seconds after which a repetition may succeed by itself; None where waiting alone does not help
            or the worker's own back-off shall decide.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def reason(self) -> str:
        """Stable UpperCamelCase name: the class without "Error"; fits a Kubernetes condition reason."""
        return type(self).__name__.removesuffix("Error")


class InvalidSpecError(ProviderError):
    """The spec can never be met as it stands; nothing was changed."""


class NotSupportedError(ProviderError):
    """This provider, or this version of it, cannot do what was asked."""


class MachineNotFoundError(ProviderError):
    """There is definitely no machine with this identity."""


class ImageNotFoundError(ProviderError):
    """The image, template or file that the request names is not there."""


class ResourceNotFoundError(ProviderError):
    """A network, pool, host or folder that the request names is not there."""


class SnapshotNotFoundError(ProviderError):
    """The machine has no such snapshot."""


class OperationNotFoundError(ProviderError):
    """No such operation; the server may have been restarted since."""


class NameConflictError(ProviderError):
    """The name on the hypervisor belongs to a machine that is not ours; it was not touched."""


class ForeignMachineError(ProviderError):
    """The machine does not carry our stamp; it was not touched."""


class WrongPowerStateError(ProviderError):
    """The machine must be on, or off, for this."""


class StalePreconditionError(ProviderError):
    """The machine is no longer in the state that the caller planned for; nothing was changed."""


class ImageInUseError(ProviderError):
    """Machines stand on the image."""


class SnapshotInUseError(ProviderError):
    """Something stands on the snapshot, or on the machine itself: children of it, or linked clones."""


class BrokenImageError(ProviderError):
    """The file is no image of the format it claims to be."""


class ChecksumMismatchError(ProviderError):
    """What was fetched is not what was promised; nothing of it was kept."""


class DownloadFailedError(ProviderError):
    """The image's URL gave no image: refused, missing, cut off or too slow."""


class OperationInProgressError(ProviderError):
    """Another task holds the machine."""


class OperationCancelledError(ProviderError):
    """Somebody cancelled it."""


class HostFullError(ProviderError):
    """No room: memory, CPU, storage or a quota."""


class HypervisorUnavailableError(ProviderError):
    """The hypervisor cannot be reached, hangs, or ended the session. Says nothing about any machine."""


class CredentialsRefusedError(ProviderError):
    """The hypervisor does not accept our credentials or certificate."""


class PermissionMissingError(ProviderError):
    """The hypervisor knows us and refuses; the message names the privilege."""


class ClientRefusedError(ProviderError):
    """The server does not serve the holder of our certificate, or not this call; nothing was done."""


class CertificateLapsedError(ProviderError):
    """The certificate that the connection was opened with does not hold any more; nothing was done. Connect anew."""


class WrongServerError(ProviderError):
    """Whoever answers there is not the server that was meant, or cannot prove it; it was asked nothing."""


class OutcomeUnknownError(ProviderError):
    """The deadline passed or the connection broke in mid-call: repeat the call to learn what is true."""


class InternalError(ProviderError):
    """A bug on the other side; the cause is in its log, not in the message."""
