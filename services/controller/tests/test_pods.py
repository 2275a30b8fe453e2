"""Why no pod of a provider server serves, from what pods tell."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from controller.core import Pod
from controller.runtime.pods import obstacle, passing


def pod(name: str = "old", *, deleted: bool = False, node: str = "n1", **status: Any) -> Pod:
    meta = {"name": name} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})
    return msgspec.convert({"metadata": meta, "spec": {"nodeName": node}, "status": status}, Pod)


def ended(code: int, reason: str, message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def just_ended(code: int, message: str = "", reason: str = "Error") -> Pod:
    return pod(containerStatuses=[{"state": ended(code, reason, message)}])


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], ""),
        ([pod()], ""),
        ([pod("new"), pod(deleted=True, phase="Running")], "pod old on node n1 has to end first"),
        ([pod(deleted=True, phase="Succeeded")], ""),
        ([pod(deleted=True, node="")], ""),
        ([just_ended(0)], ""),
        ([pod(phase="Failed", containerStatuses=[{"state": ended(137, "Error")}])], ""),
        ([just_ended(137, reason="OOMKilled")], "it ended with exit code 137 (OOMKilled)"),
        ([just_ended(2, "one\n\nno URI\n")], "it ended with exit code 2 (Error): no URI"),
        (
            [just_ended(1, '{"event":"cannot_serve","message":"in use"}')],
            "it ended with exit code 1 (Error): cannot_serve: in use",
        ),
        ([just_ended(1, "x" * 999)], f"it ended with exit code 1 (Error): {'x' * 300}..."),
        ([pod(containerStatuses=[{"state": BACK_OFF, "lastState": ended(2, "Error")}])], ""),
    ],
)
def test_what_is_over_soon(given: list[Pod], said: str) -> None:
    assert passing(given) == said


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"containerStatuses": [{"state": {"running": {}}, "lastState": ended(1, "Error")}]}, ""),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "none"}}}]},
            "ErrImagePull: none",
        ),
        (
            {"containerStatuses": [{"state": BACK_OFF, "lastState": ended(2, "Error")}]},
            "CrashLoopBackOff: back-off 10s; it ended with exit code 2 (Error)",
        ),
        (
            {"initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}], "containerStatuses": []},
            "ErrImagePull",
        ),
        ({"phase": "Failed", "containerStatuses": [{"state": BACK_OFF}]}, ""),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}, "0/3 nodes"),
    ],
)
def test_what_keeps_it_from_running(status: dict[str, Any], said: str) -> None:
    assert obstacle([pod(**status)]) == said
