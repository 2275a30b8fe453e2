"""What the pods of a provider server say of why none of them serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from controller.core import ContainerStatus, Pod

ORDINARY = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits because it is being started."""

LONGEST = 300
"""Characters of a line of log that go into a condition."""


def leaving(pods: Iterable[Pod]) -> str:
    """Whose end the next pod waits for; empty if nobody's."""
    for pod in pods:
        if pod.metadata.deletion_timestamp and pod.spec.node_name and pod.status.phase not in ("Succeeded", "Failed"):
            return f"pod {pod.metadata.name} on node {pod.spec.node_name} has to end first"
    return ""


def obstacle(pods: Iterable[Pod]) -> str:
    """What keeps a pod from running; empty if it is just being started."""
    for pod in pods:
        for container in [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]:
            if why := _container(container):
                return why
        for told in pod.status.conditions or ():
            if told.type == "PodScheduled" and told.status == "False" and told.message:
                return told.message
    return ""


def _container(container: ContainerStatus) -> str:
    waiting = container.state.waiting
    ended = container.last_state.terminated if waiting is not None else container.state.terminated
    words = []
    if waiting is not None and waiting.reason not in ORDINARY:
        words.append(f"{waiting.reason}: {waiting.message}".rstrip(": "))
    if ended is not None and ended.exit_code:
        last = _last(ended.message)
        words.append(f"it ended with exit code {ended.exit_code} ({ended.reason or 'Error'})" + (last and f": {last}"))
    return "; ".join(words)


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
