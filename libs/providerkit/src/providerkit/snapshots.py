"""What may be asked of snapshots, before anything is asked of a hypervisor."""

from __future__ import annotations

from common import v1
from common.errors import InvalidSpecError, NotSupportedError

from .violations import has_control, is_uid, shown

LONGEST_NAME = 253


def require_possible(request: v1.CreateSnapshotRequest, can: v1.Capabilities) -> None:
    """Nothing that a snapshot is asked to hold is left out without a word.

    Raises:
        InvalidSpecError: it has no identity to be found by again, or no name for people.
        NotSupportedError: this provider lacks what is asked for.
    """
    wrong = []
    if not is_uid(request.uid):
        wrong.append(f"uid: {shown(request.uid)} is not a lower-case UUID")
    if not request.name or len(request.name) > LONGEST_NAME or has_control(request.name):
        wrong.append(f"name: {shown(request.name)} is no name of a snapshot")
    if wrong:
        raise InvalidSpecError("; ".join(wrong))
    lacking = [
        text
        for asked, has, text in (
            (True, can.snapshots, "takes no snapshots"),
            (request.memory, can.memory_snapshots, "takes no snapshots with memory"),
            (request.quiesce, can.quiesced_snapshots, "does not freeze file systems for a snapshot"),
        )
        if asked and not has
    ]
    if lacking:
        raise NotSupportedError(f"snapshot {request.name}: this provider {'; it '.join(lacking)}")
