"""Which error of ours a fault of vSphere becomes, and what people read."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import Any

import pytest
from common import errors
from common.errors import ProviderError
from provider_vsphere.session.vim_errors import mapped, translate, words
from pyVmomi import VmomiSupport, vim, vmodl
from pyVmomi.Security import ThumbprintMismatchException

VM = vim.VirtualMachine("vm-1")
NO_PERMISSION = vim.fault.NoPermission(object=VM, privilegeId="VirtualMachine.Inventory.Create")


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (vim.fault.InvalidLogin(), errors.CredentialsRefusedError),
        (vim.fault.PasswordExpired(), errors.CredentialsRefusedError),
        (NO_PERMISSION, errors.PermissionMissingError),
        (vim.fault.HostAccessRestrictedToManagementServer(), errors.PermissionMissingError),
        (vim.fault.RestrictedVersion(), errors.PermissionMissingError),
        (vmodl.query.InvalidCollectorVersion(), errors.HypervisorUnavailableError),
        (vim.fault.Timedout(), errors.HypervisorUnavailableError),
        (vim.fault.NotFound(), errors.ResourceNotFoundError),
        (vim.fault.InvalidDatastore(name="ds9"), errors.ResourceNotFoundError),
        (vim.fault.InaccessibleDatastore(name="ds9"), errors.ResourceNotFoundError),
        (vim.fault.InvalidDatastorePath(datastorePath="ds9"), errors.InvalidSpecError),
        (vim.fault.FileNotFound(file="[ds] a.iso"), errors.ResourceNotFoundError),
        (vim.fault.DuplicateName(name="web", object=VM), errors.NameConflictError),
        (vim.fault.FileAlreadyExists(file="[ds] web/web.vmx"), errors.NameConflictError),
        (vim.fault.ConcurrentAccess(), errors.StalePreconditionError),
        (vim.fault.TaskInProgress(task=vim.Task("task-1")), errors.OperationInProgressError),
        (vim.fault.FileLocked(file="[ds] web/web.vmdk"), errors.OperationInProgressError),
        (vim.fault.MethodDisabled(), errors.OperationInProgressError),
        (vim.fault.QuestionPending(text="moved or copied?"), errors.OperationInProgressError),
        (vmodl.fault.RequestCanceled(), errors.OperationCancelledError),
        (vim.fault.InvalidPowerState(requestedState="poweredOn"), errors.WrongPowerStateError),
        (vim.fault.ToolsUnavailable(), errors.WrongPowerStateError),
        (vim.fault.CpuHotPlugNotSupported(), errors.WrongPowerStateError),
        (vim.fault.MemoryHotPlugNotSupported(), errors.WrongPowerStateError),
        (vim.fault.DeviceHotPlugNotSupported(), errors.WrongPowerStateError),
        (vim.fault.InsufficientResourcesFault(), errors.HostFullError),
        (vim.fault.InsufficientMemoryResourcesFault(unreserved=1, requested=2), errors.HostFullError),
        (vim.fault.NoDiskSpace(datastore="ds", file="web"), errors.HostFullError),
        (vim.fault.LimitExceeded(property="vms", limit=3), errors.HostFullError),
        (vmodl.fault.NotEnoughLicenses(), errors.HostFullError),
        (vim.fault.VmLimitLicense(limit=3), errors.HostFullError),
        (vim.fault.NoCompatibleHost(), errors.HostFullError),
        (vmodl.fault.InvalidArgument(invalidProperty="spec.pool"), errors.InvalidSpecError),
        (vim.fault.InvalidName(name="a/b"), errors.InvalidSpecError),
        (vim.fault.InvalidDeviceSpec(property="unitNumber", deviceIndex=0), errors.InvalidSpecError),
        (vim.fault.InvalidDeviceOperation(property="capacityInKB", deviceIndex=0), errors.InvalidSpecError),
        (vim.fault.GenericVmConfigFault(reason="anything"), errors.InternalError),
        (vim.fault.OvfXmlFormat(lineNumber=1, description="no XML"), errors.BrokenImageError),
        (vim.fault.OvfInternalError(), errors.InternalError),
        (vim.fault.NumVirtualCpusNotSupported(maxSupportedVcpusDest=4, numCpuVm=8), errors.NotSupportedError),
        (vim.fault.MemorySnapshotOnIndependentDisk(), errors.NotSupportedError),
        (vim.fault.FilesystemQuiesceFault(), errors.WrongPowerStateError),
        (vmodl.fault.NotSupported(), errors.NotSupportedError),
        (vmodl.fault.MethodNotFound(receiver=VM, method="ExportVm"), errors.NotSupportedError),
        (vmodl.fault.SystemError(reason="?"), errors.InternalError),
        (vim.fault.ShrinkDiskFault(diskId=1), errors.InternalError),
    ],
    ids=lambda value: type(value).__name__.rpartition(".")[2] if isinstance(value, vmodl.MethodFault) else "",
)
def test_a_fault_becomes_the_error_that_says_the_same(fault: Any, wanted: type[ProviderError]) -> None:
    error = translate(fault, "create machine shop/web")
    assert type(error) is wanted
    assert str(error).startswith("create machine shop/web: ")
    assert type(fault).__name__.rpartition(".")[2] in str(error)
    assert error.__cause__ is fault


@pytest.mark.parametrize("fault", [vim.fault.NotAuthenticated(object=VM, privilegeId="System.View"),
                                   vmodl.fault.SessionNotFound()])  # fmt: skip
def test_P7_an_ended_session_is_the_servers_and_not_the_machines(fault: Any) -> None:
    """NotAuthenticated is derived from NoPermission, and must be neither that nor "the machine is gone"."""
    assert type(translate(fault, "look")) is errors.HypervisorUnavailableError


@pytest.mark.parametrize(
    ("gone", "wanted"),
    [
        (VM, errors.StalePreconditionError),
        (vim.vm.Snapshot("snapshot-1"), errors.SnapshotNotFoundError),
        (vim.Task("task-1"), errors.OperationNotFoundError),
        (vim.Datastore("datastore-1"), errors.ResourceNotFoundError),
        (vmodl.query.PropertyCollector("session[1]"), errors.HypervisorUnavailableError),
        (vmodl.query.PropertyCollector.Filter("session[1]filter"), errors.HypervisorUnavailableError),
        (vim.view.ContainerView("session[1]view"), errors.HypervisorUnavailableError),
        (vim.Folder("group-v1"), errors.ResourceNotFoundError),
    ],
)
def test_P7_a_missing_object_is_told_by_what_it_was(gone: Any, wanted: type[ProviderError]) -> None:
    """A VM that is registered anew gets another id, so an id without object does not prove that the machine is gone."""
    assert type(translate(vmodl.fault.ManagedObjectNotFound(obj=gone), "look")) is wanted


@pytest.mark.parametrize(
    "fault",
    [
        vmodl.fault.HostNotConnected(),
        vmodl.fault.HostNotReachable(),
        vim.fault.InvalidHostState(host=vim.HostSystem("host-1")),
        vim.fault.InvalidHostConnectionState(),
    ],
)
def test_one_host_that_is_away_is_not_the_server(fault: Any) -> None:
    """HypervisorUnavailableError would open the breaker for every machine of the vCenter."""
    assert type(translate(fault, "start")) is errors.ResourceNotFoundError


@pytest.mark.parametrize(
    ("broken", "wanted"),
    [
        (ConnectionRefusedError(111, "Connection refused"), errors.HypervisorUnavailableError),
        (socket.gaierror(-2, "Name or service not known"), errors.HypervisorUnavailableError),
        (TimeoutError(), errors.HypervisorUnavailableError),
        (ssl.SSLError(1, "handshake failure"), errors.HypervisorUnavailableError),
        (http.client.RemoteDisconnected("closed"), errors.HypervisorUnavailableError),
        (http.client.IncompleteRead(b"half"), errors.HypervisorUnavailableError),
        (http.client.HTTPException("503 Service Unavailable"), errors.HypervisorUnavailableError),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), errors.CredentialsRefusedError),
        (ThumbprintMismatchException("aa", "bb"), errors.CredentialsRefusedError),
        (KeyError("OlderThan"), errors.InternalError),
        (None, errors.InternalError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_line_does_is_told_from_what_the_server_says(
    broken: BaseException | None, wanted: type[ProviderError]
) -> None:
    assert type(translate(broken, "log in")) is wanted


def test_an_unknown_exception_tells_its_class_alone() -> None:
    """Its text may hold anything, also a password."""
    assert str(translate(ValueError("hunter2"), "log in")) == "log in: ValueError"


def test_a_tasks_error_is_unwrapped() -> None:
    wrapped = vmodl.LocalizedMethodFault(
        fault=vim.fault.DuplicateName(name="web", object=VM), localizedMessage="The name 'web' already exists."
    )
    error = translate(wrapped, "create machine shop/web")
    assert type(error) is errors.NameConflictError
    assert str(error) == (
        "create machine shop/web: The name 'web' already exists. (DuplicateName: object VirtualMachine vm-1, name web)"
    )


def test_a_fault_that_holds_another_keeps_its_own_class() -> None:
    """CannotAccessVmDisk has a `fault` as a task's error has; that one is only the reason."""
    inner = vim.fault.NoDiskSpace(datastore="ds", file="[ds] a.vmdk")
    outer = vim.fault.CannotAccessVmDisk(device="disk", backing="file", connected=True, fault=inner)
    error = translate(outer, "start")
    assert type(error) is errors.ResourceNotFoundError
    assert "because: no disk space (NoDiskSpace: datastore ds, file [ds] a.vmdk)" in str(error)


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (
            NO_PERMISSION,
            "no permission (NoPermission: object VirtualMachine vm-1, privilege id VirtualMachine.Inventory.Create)",
        ),
        (
            vim.fault.NoPermission(
                missingPrivileges=[
                    vim.fault.NoPermission.EntityPrivileges(
                        entity=vim.Datastore("ds-1"), privilegeIds=["Datastore.AllocateSpace", "Datastore.Browse"]
                    )
                ]
            ),
            "no permission (NoPermission: missing privileges "
            "Datastore.AllocateSpace and Datastore.Browse on Datastore ds-1)",
        ),
        (vim.fault.InvalidPowerState(msg="*types.InvalidPowerState", requestedState="poweredOn",
                                     existingState="poweredOn"),
         "invalid power state (InvalidPowerState: requested state poweredOn, existing state poweredOn)"),
        (vim.fault.InvalidDatastore(msg="Invalid datastore 'ds9'.", name="ds9"),
         "Invalid datastore 'ds9'. (InvalidDatastore: name ds9)"),
        (vim.fault.MemorySizeNotSupported(memorySizeMB=9, minMemorySizeMB=1, maxMemorySizeMB=8),
         "memory size not supported (MemorySizeNotSupported: memory size MB 9, max memory size MB 8)"),
        (vim.fault.ToolsUnavailable(msg="two\nlines"), "two lines (ToolsUnavailable)"),
        (vim.fault.TaskInProgress(task=vim.Task("task-1")), "task in progress (TaskInProgress: task Task task-1)"),
    ],
)  # fmt: skip
def test_people_read_what_happened_and_to_what(fault: Any, wanted: str) -> None:
    """The privilege is what an administrator needs, and vCenter's own message leaves it out."""
    assert words(fault) == wanted


def test_secrets_in_a_fault_are_not_told() -> None:
    assert "YIIG" not in words(vim.fault.SSPIChallenge(base64Token="YIIG"))
    assert "AAAA-BBBB" not in words(vim.fault.LicenseExpired(licenseKey="AAAA-BBBB"))


def test_causes_are_told_to_a_limited_depth() -> None:
    fault: Any = vim.fault.NotFound(msg="the innermost")
    for _ in range(50):
        fault = vim.fault.NoCompatibleHost(error=[fault])
    assert words(fault).count("NoCompatibleHost") == 3


def test_every_fault_of_vsphere_has_an_error() -> None:
    """Whatever pyvmomi may raise is translated without an exception, and never into a machine that is not there."""
    kinds = {translate(fault(), "try").reason for fault in _every_fault()}
    assert "MachineNotFound" not in kinds
    assert {"HostFull", "InvalidSpec", "PermissionMissing", "Internal"} <= kinds


def _every_fault() -> list[Any]:
    names = [name for name in VmomiSupport._dataDefMap if name.startswith(("vim.fault.", "vmodl.fault."))]
    found = [VmomiSupport.GetVmodlType(name) for name in names]
    faults = [kind for kind in found if issubclass(kind, vmodl.MethodFault)]
    assert len(faults) > 500
    return faults


def test_only_errors_of_ours_come_out() -> None:
    with pytest.raises(errors.NameConflictError, match="create web: duplicate name") as caught, mapped("create web"):
        raise vim.fault.DuplicateName(name="web", object=VM)
    assert isinstance(caught.value.__cause__, vim.fault.DuplicateName)
    ours = errors.HostFullError("full")
    with pytest.raises(errors.HostFullError) as same, mapped("create web"):
        raise ours
    assert same.value is ours
