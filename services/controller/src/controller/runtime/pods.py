"""What the pods of a provider server say of why none of them serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from controller.core import ContainerStatus, Ended, Pod

ORDINARY = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits because it is being started."""

OVER = ("Succeeded", "Failed")
"""Phases of a pod that never runs again."""
LONGEST = 300
"""Characters of a line of log that go into a condition."""


def passing(pods: Sequence[Pod]) -> str:
    """What will be over soon by itself: a pod that ends, or that is about to be started again; empty if neither."""
    for pod in pods:
        if pod.metadata.deletion_timestamp and pod.spec.node_name and pod.status.phase not in OVER:
            return f"pod {pod.metadata.name} on node {pod.spec.node_name} has to end first"
    for container in _containers(pods):
        if container.state.terminated is not None and container.state.terminated.exit_code:
            return _how(container.state.terminated)
    return ""


def obstacle(pods: Sequence[Pod]) -> str:
    """What keeps a pod from running; empty if it is just being started."""
    for container in _containers(pods):
        waiting, last = container.state.waiting, container.last_state.terminated
        if waiting is not None and waiting.reason not in ORDINARY:
            why = f"{waiting.reason}: {waiting.message}".rstrip(": ")
            return f"{why}; {_how(last)}" if last is not None and last.exit_code else why
    for pod in pods:
        for told in pod.status.conditions or ():
            if told.type == "PodScheduled" and told.status == "False" and told.message:
                return told.message
    return ""


def _containers(pods: Sequence[Pod]) -> Iterator[ContainerStatus]:
    """Of pods that may run yet: one that was evicted is kept for long, and says nothing of the next one."""
    for pod in pods:
        if pod.status.phase in OVER:
            continue
        yield from pod.status.init_container_statuses or ()
        yield from pod.status.container_statuses or ()


def _how(ended: Ended) -> str:
    last = _last(ended.message)
    return f"it ended with exit code {ended.exit_code} ({ended.reason or 'Error'})" + (last and f": {last}")


def _last(log: str) -> str:
    """The last that it logged, as people read it. Args: log: its end, as the kubelet kept it."""
    line = next((line for line in reversed(log.splitlines()) if line.strip()), "").strip()
    try:
        record = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # text, not a record; that is what was asked
    else:
        line = ": ".join(str(record[name]) for name in ("event", "message", "error") if record.get(name))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
