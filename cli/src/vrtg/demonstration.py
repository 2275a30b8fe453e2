"""The demo: from nothing to a machine with an address, every phase timed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrtg import hypervisor, lifecycle
from vrtg.api import Api, Object
from vrtg.applying import apply as apply_one
from vrtg.discovery import by_kind
from vrtg.failures import CommandError, NotFoundError
from vrtg.home import Home, write_private
from vrtg.kinds_table import PROVIDER, VIRTUAL_MACHINE, VM_IMAGE
from vrtg.kubeconfig import choose
from vrtg.manifests import Manifest, load
from vrtg.progress import Progress

WAIT_LIMIT = 240.0
"""Longest wait in seconds for the machine; an emulated one needs a tenth of it."""


@dataclass
class Phases:
    """What was reached, and how many seconds it took."""

    began: float
    reached: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str, now: float) -> bool:
        """Note a phase once; False if it was noted before."""
        if name in self.reached:
            return False
        self.reached[name] = now - self.began
        return True


class Demo:
    """One run; every step may be repeated."""

    def __init__(self, home: Home, progress: Progress, *, image: Path | None, manifests: Path, uri: str | None) -> None:
        self._home, self._progress = home, progress
        self._image, self._folder, self._uri = image, manifests, uri
        self._clock: Callable[[], float] = time.monotonic
        self.phases = Phases(self._clock())

    def run(self) -> None:
        """Everything, with the result on the terminal.

        Raises:
            CommandError: a step failed; says which, why and what to do.
        """
        manifests = load([str(self._folder)], self._progress.warn)
        self._home.make()
        chosen = hypervisor.ensure(self._home, self._progress.say, self._uri)
        self._progress.done(f"hypervisor: {chosen.note} ({chosen.uri})")
        self._place_image()
        state = lifecycle.up(self._home, self._progress.say)
        self.phases.mark("stack", self._clock())
        self._progress.done(f"stack: API server at {state.server}")
        api = Api(choose(self._home, str(self._home.kubeconfig), None))
        machine = _only(manifests, VIRTUAL_MACHINE.kind)
        self._apply(api, manifests, chosen.uri)
        self._watch(api, machine, manifests)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _place_image(self) -> None:
        """Put the guest where the provider looks for relative paths; a hard link where that is possible."""
        if self._image is None:
            return
        if not self._image.is_file():
            raise CommandError(f"there is no guest image at {self._image}: build it with `make guest`")
        target = self._home.images / self._image.name
        source = self._image.resolve()
        if target.exists() and target.samefile(source):
            return
        partial = target.with_name(f".{target.name}.new")
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(source)
        except OSError:  # another file system
            shutil.copyfile(source, partial)
        partial.replace(target)

    def _apply(self, api: Api, manifests: list[Manifest], uri: str) -> None:
        """By kubectl where there is one, as a user would; else by ourselves."""
        for manifest in manifests:
            if manifest.kind == PROVIDER.kind and manifest.body["spec"].get("endpoint") != uri:
                manifest.body["spec"]["endpoint"] = uri
                self._progress.say(f"provider {manifest.name}: endpoint {uri} in place of the one in {manifest.source}")
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            self._progress.say("kubectl is not installed: vrtg serves in its place")
            for manifest in manifests:
                resource = by_kind(manifest.api_version, manifest.kind, api)
                place = manifest.body["metadata"].get("namespace") or api.target.namespace
                outcome, _ = apply_one(api, resource, manifest.body, place if resource.namespaced else None)
                self._progress.say(f"{resource.label}/{manifest.name} {outcome}")
            return
        import json

        bundle = self._home.run / "demo.json"
        write_private(bundle, "\n".join(json.dumps(manifest.body, indent=1) for manifest in manifests))
        result = subprocess.run(  # noqa: S603 - kubectl, as found on PATH
            [kubectl, "--kubeconfig", str(self._home.kubeconfig), "apply", "-f", str(bundle)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for line in result.stdout.splitlines():
            self._progress.say(line)
        if result.returncode != 0:
            raise CommandError(f"kubectl apply failed: {' '.join(result.stderr.split())}")

    def _watch(self, api: Api, machine: Manifest, manifests: list[Manifest]) -> None:
        """Report each phase as it is reached, until the machine has an address."""
        namespace = machine.body["metadata"].get("namespace") or api.target.namespace
        image = next((m for m in manifests if m.kind == VM_IMAGE.kind), None)
        deadline = self._clock() + WAIT_LIMIT
        problem = ""
        while True:
            body = api.get(VIRTUAL_MACHINE, machine.name, namespace)
            self._note(api, body, image, namespace)
            status = body.get("status") or {}
            if status.get("ips") and status.get("powerState") == "On":
                self._progress.clear()
                return
            problem = _problem(body) or problem
            self._progress.waiting(f"waiting for {machine.name}: {_waits_for(body)}")
            if self._clock() > deadline:
                raise CommandError(
                    f"{machine.name} has no address after {WAIT_LIMIT:.0f} s{f': {problem}' if problem else ''}; "
                    f"look at `vrtg describe vm {machine.name}`, `vrtg status` and `vrtg logs`"
                )
            version = body["metadata"]["resourceVersion"]
            for event in api.watch(VIRTUAL_MACHINE, namespace, version=version, name=machine.name, seconds=1.0):
                if event["type"] in ("MODIFIED", "DELETED"):
                    break

    def _note(self, api: Api, body: Object, image: Manifest | None, namespace: str) -> None:
        status, now = body.get("status") or {}, self._clock()
        if image is not None and "image prepared" not in self.phases.reached and _image_ready(api, image, namespace):
            self._reach("image prepared", now, f"image {image.name} is prepared")
        if status.get("id"):
            self._reach("image prepared", now, "the image is prepared")
            self._reach(
                "created",
                now,
                f"{body['metadata']['name']} is created ({status.get('hypervisorName') or status['id']})",
            )
        if status.get("powerState") == "On":
            self._reach("started", now, f"{body['metadata']['name']} is started")
        if status.get("ips"):
            self._reach("address", now, f"{body['metadata']['name']} has the address {', '.join(status['ips'])}")

    def _reach(self, phase: str, now: float, text: str) -> None:
        if self.phases.mark(phase, now):
            self._progress.done(text)


def _only(manifests: list[Manifest], kind: str) -> Manifest:
    found = [manifest for manifest in manifests if manifest.kind == kind]
    if not found:
        raise NotFoundError(f"the demo's manifests hold no {kind}")
    return found[0]


def _image_ready(api: Api, image: Manifest, namespace: str) -> bool:
    try:
        status = api.get(VM_IMAGE, image.name, image.body["metadata"].get("namespace") or namespace).get("status") or {}
    except NotFoundError:
        return False
    return bool(status.get("ready"))


def _problem(body: Object) -> str:
    return next(
        (str(c.get("message")) for c in _conditions(body) if c["type"] == "Ready" and c["status"] == "False"), ""
    )


def _waits_for(body: Object) -> str:
    status: dict[str, Any] = body.get("status") or {}
    if status.get("powerState") == "On":
        return "it boots"
    return _problem(body) or str(status.get("phase") or "the controller")


def _conditions(body: Object) -> list[dict[str, Any]]:
    return list((body.get("status") or {}).get("conditions") or [])
