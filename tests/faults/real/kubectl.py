"""kubectl, as a user has it: what it is not sure to have done it does again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Object = dict[str, Any]  # Any: JSON
ATTEMPT = "8s"
AGAIN = 0.3
PATIENCE = 90.0
"""Seconds after which an API server that is well again must have taken a write."""
LOST = (
    "connection",
    "refused",
    "timeout",
    "EOF",
    "deadline",
    "reset",
    "unable to connect",
    "TLS handshake",
    "not ready",
)
"""Words of a call that did not reach the server, whose answer did not come back, or that came while it starts."""


class KubectlError(Exception):
    """kubectl was answered, and the answer is no."""


class Kubectl:
    """Calls on one API server."""

    def __init__(self, kubeconfig: Path, cache: Path) -> None:
        self._command = ["kubectl", "--kubeconfig", str(kubeconfig), "--cache-dir", str(cache)]

    async def once(self, *arguments: str, stdin: str = "") -> tuple[bool, str]:
        """One call: whether it succeeded, and what it said."""
        command = [*self._command, f"--request-timeout={ATTEMPT}", *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            out, err = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode == 0, (out if process.returncode == 0 else err).decode(errors="replace")

    async def insist(self, *arguments: str, stdin: str = "") -> str:
        """Again and again until the server has said yes.

        Raises:
            KubectlError: it said no.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                done, text = await self.once(*arguments, stdin=stdin)
                if done:
                    return text
                if not any(word in text for word in LOST):
                    raise KubectlError(f"kubectl {' '.join(arguments)}: {text}")
                await asyncio.sleep(AGAIN)

    async def apply(self, *objects: Object) -> None:
        await self.insist("apply", "-f", "-", stdin="\n".join(json.dumps(body) for body in objects))

    async def delete(self, kind: str, name: str, namespace: str) -> None:
        """Ask for its removal; absent is success."""
        await self.insist("delete", kind, name, "-n", namespace, "--ignore-not-found", "--wait=false")

    async def get(self, kind: str, name: str, namespace: str) -> Object:
        """The object; empty when there is none."""
        text = await self.insist("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        body: Object = json.loads(text or "{}")
        return body

    async def every(self, kind: str) -> list[Object]:
        """All objects of a kind, in all namespaces."""
        items: list[Object] = json.loads(await self.insist("get", kind, "-A", "-o", "json"))["items"]
        return items


def condition(body: Object, kind: str) -> Object:
    """A condition of an object; empty where it has none."""
    found: Sequence[Object] = [c for c in body.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}
