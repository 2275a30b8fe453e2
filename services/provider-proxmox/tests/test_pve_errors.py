"""What the texts of Proxmox VE mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from common import status
from common.errors import (
    BrokenImageError,
    ChecksumMismatchError,
    DownloadFailedError,
    HostFullError,
    HypervisorUnavailableError,
    ImageInUseError,
    InternalError,
    InvalidSpecError,
    MachineNotFoundError,
    NotSupportedError,
    OperationCancelledError,
    OutcomeUnknownError,
    PermissionMissingError,
    ProviderError,
    ResourceNotFoundError,
    SnapshotNotFoundError,
    StalePreconditionError,
    WrongPowerStateError,
)
from provider_proxmox.session.pve_errors import (
    AgentSilentError,
    FileLockedError,
    LockedError,
    NodeAwayError,
    NoSuchTaskError,
    RefusedLoginError,
    VmidTakenError,
    VolumeTakenError,
    from_reply,
    from_text,
)
from simulators.proxmox import reference

RECORDING = reference.reference(reference.RECORDING)

# What a real one was recorded to say (status and text), and what we make of it. The first row that fits decides.
RECORDED: tuple[tuple[str, type[ProviderError]], ...] = (
    (r"^401", RefusedLoginError),
    (r"^403 .*pool 'nope' does not exist", ResourceNotFoundError),
    (r"^403|[Oo]nly root", PermissionMissingError),
    (r"^501|^400(?!.*(?:value does not|type check|must have|enumeration)).*not defined in schema", NotSupportedError),
    (r"can't lock file", FileLockedError),
    (r"VM is locked", LockedError),
    (r"VM \d+ already exists|config file already exists", VmidTakenError),
    (r"checksum mismatch \(file change", StalePreconditionError),
    (r"Configuration file .* does not exist|unable to find configuration file", MachineNotFoundError),
    (r"snapshot 'nope' does not exist", SnapshotNotFoundError),
    (r"no such task|worker upid", NoSuchTaskError),
    (r"download failed", DownloadFailedError),
    (r"hostname lookup", NodeAwayError),
    (r"checksum mismatch: got", ChecksumMismatchError),
    (r"not in qcow2 format", BrokenImageError),
    (r"still in use by linked", ImageInUseError),
    (r"refusing to override|(?:pool|user|image) '.*' already exists", VolumeTakenError),
    (r"guest agent is not running", AgentSilentError),
    (r"already running|not running|is running|quit/powerdown failed|hotplug problem", WrongPowerStateError),
    (r"received interrupt|interrupted by signal", OperationCancelledError),
    (r"shrinking disks", InvalidSpecError),
    (r"^(?:500|task) .*(?:feature is not|does not support)", NotSupportedError),
    (r"does not exist|No such|no such|failed to stat|volume_size_info", ResourceNotFoundError),
    (r"Timeout while waiting|query-spice|ha groups have been migrated", InternalError),
    (r"^400|can't|reserved name|already used|already attached|not allowed|template|validation|no options|purge",
     InvalidSpecError),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout", FileLockedError),
        ("unable to create VM 103 - can't lock file '/var/lock/lock-103.conf' - got timeout", FileLockedError),
        ("VM is locked (clone)", LockedError),
        ("checksum mismatch (file change by other user?)", StalePreconditionError),
        ("Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist", MachineNotFoundError),
        ("unable to create VM 101 - VM 101 already exists on node 'pve1'", VmidTakenError),
        ("unable to create VM 100: config file already exists", VmidTakenError),
        ("storage 'nope' does not exist", ResourceNotFoundError),
        ("unable to create VM 103 - volume 'local:iso/nope.iso' does not exist", ResourceNotFoundError),
        ("bridge 'vmbr77' does not exist", ResourceNotFoundError),
        ("lvcreate error: insufficient free space", HostFullError),
        ("write failed: No space left on device", HostFullError),
        ("zfs error: cannot create 'rpool/x': out of space", HostFullError),
        ("rbd error: Disk quota exceeded", HostFullError),
        ("start failed: QEMU: cannot set up guest memory 'pc.ram': Cannot allocate memory", HostFullError),
        ("MAX 32 vcpus allowed per VM on this node", HostFullError),
        ("cluster not ready - no quorum?", NodeAwayError),
        ("shrinking disks is not supported", InvalidSpecError),
        ("snapshot feature is not available", NotSupportedError),
        ("received interrupt", OperationCancelledError),
        ("unexpected status", OutcomeUnknownError),
        ("VM quit/powerdown failed - got timeout", WrongPowerStateError),
        ("Timeout while waiting for port '5902' to get ready!", InternalError),
        ("", InternalError),
    ],
)  # fmt: skip
def test_a_text_means_the_same_in_a_reply_and_at_the_end_of_a_task(text: str, error: type[ProviderError]) -> None:
    """Most failures show only in the task."""
    assert type(from_text(text, "start shop/web")) is error
    assert type(from_reply(500, text + "\n", None, "start shop/web")) is error
    assert str(from_text(text, "start shop/web")).startswith("start shop/web: ")


def test_a_lock_is_named() -> None:
    """Whoever waits for it has to know which."""
    locked = from_text("VM is locked (snapshot-delete)", "x")
    assert isinstance(locked, LockedError)
    assert locked.lock == "snapshot-delete"
    assert locked.retry_after


def test_a_missing_privilege_and_its_path_are_named() -> None:
    """The administrator reads this in a condition."""
    error = from_reply(403, "Permission check failed (/vms/100, VM.Config.Disk)\n", None, "grow disk root of shop/web")
    assert type(error) is PermissionMissingError
    assert str(error) == "grow disk root of shop/web: our user lacks VM.Config.Disk on /vms/100"
    either = from_reply(
        403, "Permission check failed (/storage/local, Datastore.Audit|Datastore.AllocateSpace)", None, "x"
    )
    assert str(either).endswith("lacks Datastore.Audit or Datastore.AllocateSpace on /storage/local")


def test_a_pool_that_is_not_there_looks_forbidden() -> None:
    """To Proxmox VE it is a 403; to the user it is a name that is wrong."""
    error = from_reply(403, "Permission check failed (pool 'nope' does not exist)\n", None, "create shop/web")
    assert type(error) is ResourceNotFoundError
    assert "pool 'nope' does not exist" in str(error)


def test_every_bad_parameter_is_named() -> None:
    """They are all told at once."""
    error = from_reply(400, "Parameter verification failed.", {"name": "too\nlong", "cores": "not a number"}, "create")
    assert type(error) is InvalidSpecError
    assert str(error) == "create: cores: not a number; name: too long"


@pytest.mark.parametrize(
    ("status_", "changes", "error"),
    [
        (595, True, NodeAwayError),
        (595, False, NodeAwayError),
        (596, True, OutcomeUnknownError),
        (596, False, NodeAwayError),
        (599, True, OutcomeUnknownError),
        (504, True, OutcomeUnknownError),
        (504, False, HypervisorUnavailableError),
        (401, True, RefusedLoginError),
    ],
)
def test_a_reply_that_got_lost_on_its_way_is_no_failure(
    status_: int, changes: bool, error: type[ProviderError]
) -> None:
    """Only 595 says that the request has not arrived at the node behind."""
    assert type(from_reply(status_, "", None, "x", changes=changes)) is error


def test_secrets_stay_hidden() -> None:
    """A 400 repeats what was sent."""
    sent = "invalid format - invalid urlencoded string: ssh-ed25519 AAAAC3Nza me@example"
    error = from_reply(400, "Parameter verification failed.", {"sshkeys": sent, "cipassword": "cipassword=geheim"}, "x")
    assert "AAAAC3Nza" not in str(error)
    assert "geheim" not in str(error)


@pytest.mark.parametrize(
    "text", ["cipassword= ssh-rsa geheim", "ssh-rsa ssh-ed25519 geheim", "password: cipassword=geheim"]
)
def test_a_secret_behind_two_of_its_names_stays_hidden(text: str) -> None:
    assert "geheim" not in str(from_text(text, "x"))


def _failures(recording: Path) -> Iterator[tuple[str, ProviderError]]:
    """Every failed recording: its text, and what we make of it."""
    for line in recording.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        request, task = row.get("request"), row.get("task") or {}
        exit_text = task.get("exitstatus") or "OK"
        if request is not None and row["status"] >= 400:
            body = row["body"] if isinstance(row["body"], dict) else {}
            text, errors = body.get("message") or row["reason"], body.get("errors") or {}
            error = from_reply(row["status"], text, errors or None, "x", changes=request["method"] != "GET")
            yield " ".join([str(row["status"]), text, *errors.values()]).replace("\n", " "), error
        elif exit_text != "OK" and not exit_text.startswith("WARNINGS"):
            yield f"task {exit_text}", from_text(exit_text, "x")


@pytest.mark.skipif(RECORDING is None, reason="no recordings here: set PVE_REFERENCE_DIR")
def test_every_recorded_failure_means_what_it_should() -> None:
    """Texts change from version to version; the recording is what a real one says."""
    assert RECORDING is not None
    failures = list(_failures(RECORDING))
    assert len(failures) > 200
    for text, error in failures:
        expected = next((cls for pattern, cls in RECORDED if re.search(pattern, text)), None)
        assert type(error) is expected, text
        assert status.row(error).code is not grpc.StatusCode.INTERNAL or type(error) is InternalError
