"""Provider servers as Deployments, beside the Provider in its own namespace.

What the objects hold is in manifests.py. They are made when they are missing, put right when they are not as we made
them, and never taken over from anybody. The hypervisor's credentials are mounted into the pod: of their Secret only the
metadata is read here, to start the server anew when it has changed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from common import identity, logging
from common.clock import Clock
from common.tls import TlsError, TlsFiles
from kinds.provider import Provider

from controller.api import MERGE, Api, ApiUnavailableError, NotFoundError, RefusedError, Resource
from controller.connection import Target
from controller.core import (
    DEPLOYMENTS,
    NETWORK_POLICIES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Meta,
    Pod,
    Pods,
    Workload,
    WorkloadStatus,
)
from controller.files import digest_of
from controller.holds import WAITING, Hold
from controller.informer import Informer
from controller.runtime import API_REFUSED, RuntimeState
from controller.runtime.arguments import refuse_password, unknown_type
from controller.runtime.authority import ClusterAuthority
from controller.runtime.certificates import Certificates, encoded
from controller.runtime.manifests import (
    MANAGER,
    SELECTOR,
    UID_LABEL,
    Manifest,
    ServerSettings,
    certificate_secret,
    host_of,
    image_of,
    manifests,
    object_name,
    port_of,
)
from controller.runtime.pods import obstacle, passing

log = logging.get(__name__)

APPLY = "application/apply-patch+yaml"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_ENDED = (
    "namespace {} is being deleted, which took the server along, and no other can be made in it; machines that are "
    'left stay on the hypervisor: set virtrigaud.io/orphan-on-delete: "true" on their objects, and remove them there'
)

KINDS = (SERVICE_ACCOUNTS, NETWORK_POLICIES, SERVICES, DEPLOYMENTS)
"""In the order of `manifests`."""


class KubernetesRuntime:
    """One Deployment per Provider, and what goes with it."""

    mode: Literal["Process", "External", "Kubernetes"] = "Kubernetes"

    def __init__(
        self,
        api: Api,
        settings: ServerSettings,
        authority: ClusterAuthority,
        certificates: Certificates,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[str], None],
        *,
        namespace: str = "",
    ) -> None:
        """Args:
        changed: gets the UID of a Provider whose objects changed.
        namespace: watch this one only; empty watches all.
        """
        self._api, self._settings, self._authority = api, settings, authority
        self._certificates, self._changed = certificates, changed
        self._informers = {
            kind.kind: Informer(api, kind, clock, rng, namespace=namespace, selector=SELECTOR) for kind in KINDS
        }
        self._applied: dict[tuple[str, str], tuple[str, str]] = {}
        """By UID and kind: digest of what we applied, and the stamp of the object since."""
        self._early: set[str] = set()
        """UIDs of Providers that were asked for before everything was listed."""

    async def run(self) -> None:
        for informer in self._informers.values():
            informer.subscribe(self._tell)
        async with asyncio.TaskGroup() as group:
            for kind, informer in self._informers.items():
                group.create_task(informer.run(), name=f"informer {kind} of providers")
            for informer in self._informers.values():
                await informer.synced.wait()
            for uid in sorted(self._early):
                self._changed(uid)
            self._early.clear()

    def _tell(self, before: Workload | None, after: Workload | None) -> None:
        found = after or before
        if found is not None and (uid := (found.metadata.labels or {}).get(UID_LABEL)):
            self._changed(uid)

    # -- one server ----------------------------------------------------------------------------------------------------

    async def ensure(self, provider: Provider) -> RuntimeState:
        if not all(informer.synced.is_set() for informer in self._informers.values()):
            self._early.add(provider.metadata.uid)
            trouble = next((each.trouble for each in self._informers.values() if each.trouble), "")
            message = "the objects of provider servers are being listed" + (trouble and f": {trouble}")
            return RuntimeState("Pending", "Starting", message)
        if message := unknown_type(provider.spec):
            return RuntimeState("Failed", "NotSupportedYet", message)
        try:
            client = await self._make(provider)
        except Hold as hold:
            return RuntimeState("Pending", hold.reason, str(hold), self._standing(provider))
        except RefusedError as error:
            if "because it is being terminated" in str(error):
                return RuntimeState("Failed", "NamespaceTerminating", _ENDED.format(provider.metadata.namespace))
            return RuntimeState("Failed", API_REFUSED, str(error), self._standing(provider))
        except (ValueError, TlsError) as error:
            return RuntimeState("Failed", "InvalidConfiguration", str(error), self._standing(provider))
        except ApiUnavailableError as error:
            # Both are answers with code 500, and stay until somebody acts: nobody would learn of them otherwise.
            if "failed to create typed patch object" in str(error):
                message = f"spec.runtime: {error}"
                return RuntimeState("Failed", "InvalidConfiguration", message, self._standing(provider))
            if "failed calling webhook" in str(error):
                return RuntimeState("Pending", "WebhookFailed", str(error), self._standing(provider))
            raise
        return await self._state(provider, client)

    async def _make(self, provider: Provider) -> TlsFiles:
        """Everything as it should be; answers with the files to dial with.

        Raises:
            Hold: something is not there yet.
            ValueError: a setting that cannot work, or an object that is in the way.
        """
        refuse_password(provider.spec.endpoint)
        if not image_of(provider, self._settings):
            raise ValueError(
                f"no image for a server of type {provider.spec.type}: set spec.runtime.image, or start the controller "
                f"with --provider-image {provider.spec.type}=IMAGE"
            )
        authority, held = await self._authority.load(), await self._held(provider)
        credentials = await self._credentials(provider)
        made = await self._certificates.make(provider, authority, held)
        if any(
            held.get(name) != value for name, value in made.secret.items()
        ):  # a server takes up another one without a restart
            await self._apply(provider, SECRETS, certificate_secret(provider, encoded(made.secret)))
        for kind, manifest in zip(KINDS, manifests(provider, self._settings, credentials), strict=True):
            await self._keep(provider, kind, manifest)
        return made.client

    async def _keep(self, provider: Provider, kind: Resource[Workload], manifest: Manifest) -> None:
        """Apply it if it is not there, or not as we left it."""
        meta = provider.metadata
        cached = self._informers[kind.kind].get(meta.namespace, object_name(provider))
        key, digest = (meta.uid, kind.kind), digest_of({"": msgspec.json.encode(manifest, order="deterministic")})
        if cached is not None and self._applied.get(key) == (digest, _stamp(cached)):
            return
        applied = await self._apply(provider, kind, manifest)
        self._applied[key] = (digest, _stamp(applied))
        log.info("provider.object.applied", kind=kind.kind, object=f"{meta.namespace}/{object_name(provider)}")

    async def _apply(self, provider: Provider, kind: Resource[Any], manifest: Manifest) -> Any:
        """Server-side apply. Raises: ValueError: it is not of this Provider, and was not touched."""
        meta, name = provider.metadata, object_name(provider)
        path = kind.path(meta.namespace, name)
        found = await self._owner(path)
        if found is not None and meta.uid not in found[1]:
            raise ValueError(
                f"{kind.kind} {meta.namespace}/{name} exists and is not of this Provider: remove it, or rename the "
                "Provider"
            )
        body = dict(manifest)
        if found is not None:  # of this very object, if somebody replaces it meanwhile
            body["metadata"] = {**manifest["metadata"], "uid": found[0]}
        asked = {"fieldManager": MANAGER, "force": "true"}
        try:
            answer = await self._api.request("PATCH", path, params=asked, body=body, content_type=APPLY)
        except RefusedError as error:
            if found is None or "spec.strategy.rollingUpdate" not in str(error):
                raise
            # Somebody gave it another strategy. An apply takes away nothing of others, and is refused beside theirs.
            ours = {"metadata": {"uid": found[0]}, "spec": {"strategy": {"rollingUpdate": None, "type": "Recreate"}}}
            await self._api.request("PATCH", path, params={"fieldManager": MANAGER}, body=ours, content_type=MERGE)
            answer = await self._api.request("PATCH", path, params=asked, body=body, content_type=APPLY)
        return msgspec.json.decode(answer, type=kind.type)

    async def _owner(self, path: str) -> tuple[str, set[str]] | None:
        """UID of an object, and those of its owners."""
        found = await self._metadata(path)
        return None if found is None else (found.uid, {owner.uid for owner in found.owner_references or ()})

    async def _metadata(self, path: str) -> Meta | None:
        try:
            body = await self._api.request("GET", path, accept=METADATA)
        except NotFoundError:
            return None
        return msgspec.json.decode(body, type=Workload).metadata

    # -- secrets -------------------------------------------------------------------------------------------------------

    async def _credentials(self, provider: Provider) -> str:
        """Which state of its Secret the server is to have; changes when the Secret does. Raises: Hold, ValueError."""
        ref, meta = provider.spec.credential_secret_ref, provider.metadata
        if ref is None:
            return ""
        if (ref.namespace or meta.namespace) != meta.namespace:
            raise ValueError(
                f"spec.credentialSecretRef: Secret {ref.namespace}/{ref.name} is in another namespace; copy it to "
                f"{meta.namespace}"
            )
        found = await self._metadata(SECRETS.path(meta.namespace, ref.name))
        if found is None:
            raise Hold(WAITING, f"Secret {meta.namespace}/{ref.name} (spec.credentialSecretRef) does not exist")
        return f"{found.uid}.{found.resource_version}"

    async def _held(self, provider: Provider) -> dict[str, bytes]:
        """What the Secret with its certificate holds; nothing of one that is not its own."""
        meta, name = provider.metadata, object_name(provider)
        owner = await self._owner(SECRETS.path(meta.namespace, name))
        if owner is None or meta.uid not in owner[1]:
            return {}
        secret = await self._api.get(SECRETS, meta.namespace, name)
        return (secret.data or {}) if secret is not None else {}

    # -- how it does ---------------------------------------------------------------------------------------------------

    async def _state(self, provider: Provider, client: TlsFiles) -> RuntimeState:
        meta, name = provider.metadata, object_name(provider)
        deployment = self._informers["Deployment"].get(meta.namespace, name)
        if deployment is None:
            return RuntimeState("Starting", "Starting", f"Deployment {name} is being made")
        status, current = deployment.status, _current(deployment)
        if current and status.available_replicas > 0 and status.updated_replicas > 0:
            return RuntimeState(
                "Running", "DeploymentReady", f"Deployment {name} is available", _target(provider, client)
            )
        pods = await self._pods(provider) if current else []
        if soon := passing(pods):
            return RuntimeState("Starting", "DeploymentNotReady", f"Deployment {name} is not available yet: {soon}")
        if why := _refusal(status) or obstacle(pods):
            return RuntimeState("Failed", "DeploymentNotReady", f"Deployment {name} is not available: {why}")
        return RuntimeState("Starting", "DeploymentNotReady", f"Deployment {name} is not available yet")

    def _standing(self, provider: Provider) -> Target | None:
        """Where the server is that was made before, if it serves: it works on, whatever keeps us from changing it."""
        meta, client = provider.metadata, self._certificates.client(provider)
        deployment = self._informers["Deployment"].get(meta.namespace, object_name(provider))
        if client is None or deployment is None or not _current(deployment) or not _is_of(deployment, meta.uid):
            return None
        return _target(provider, client) if deployment.status.available_replicas > 0 else None

    async def _pods(self, provider: Provider) -> list[Pod]:
        selector = f"{UID_LABEL}={provider.metadata.uid}"
        body = await self._api.request(
            "GET", PODS.path(provider.metadata.namespace), params={"labelSelector": selector}
        )
        return msgspec.json.decode(body, type=Pods).items

    async def remove(self, uid: str) -> None:
        """Delete what is there of a Provider that goes, or has another mode now."""
        kinds: list[Resource[Any]] = [*reversed(KINDS), SECRETS]
        for namespace, name in sorted(self._names(uid)):
            for kind in kinds:
                await self._delete(kind.path(namespace, name), uid)
        self._certificates.forget(uid)
        for key in [key for key in self._applied if key[0] == uid]:
            del self._applied[key]

    def _names(self, uid: str) -> set[tuple[str, str]]:
        return {
            (found.metadata.namespace, found.metadata.name)
            for informer in self._informers.values()
            for found in informer.values()
            if (found.metadata.labels or {}).get(UID_LABEL) == uid
        }

    async def _delete(self, path: str, uid: str) -> None:
        found = await self._owner(path)
        if found is None or uid not in found[1]:
            return
        body = {"propagationPolicy": "Background", "preconditions": {"uid": found[0]}}
        try:
            await self._api.request("DELETE", path, body=body)
        except NotFoundError:
            return


def _target(provider: Provider, client: TlsFiles) -> Target:
    server = identity.Server(provider.metadata.namespace, provider.metadata.name)
    return Target(f"{host_of(provider)}:{port_of(provider)}", client, server)


def _current(deployment: Workload) -> bool:
    """Whether its status is of it as it is now."""
    return deployment.status.observed_generation >= deployment.metadata.generation


def _is_of(found: Workload, uid: str) -> bool:
    return any(owner.uid == uid for owner in found.metadata.owner_references or ())


def _refusal(status: WorkloadStatus) -> str:
    """Why a Deployment makes no pods: a quota, an admission; in the words of whoever refuses."""
    for condition in status.conditions or ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return condition.message
    return ""


def _stamp(found: Workload) -> str:
    """Changes when somebody edits the object, and for kinds that count generations not with the status."""
    meta = found.metadata
    return f"{meta.uid}.{meta.generation or meta.resource_version}"
