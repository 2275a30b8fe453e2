"""What the pods of a provider server say of why none of them serves."""

from __future__ import annotations

from collections.abc import Iterable

from controller.core import ContainerStatus, Pod

ORDINARY = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits because it is being started."""


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
        words.append(f"it ended with exit code {ended.exit_code} ({ended.reason or 'Error'}), as its log says")
    return "; ".join(words)
