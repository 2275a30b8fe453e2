"""The Kubernetes objects that run the server of one Provider: pure, from the Provider to their manifests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from common import identity
from kinds.provider import Provider

from controller.runtime.arguments import PROGRAMS, log_arguments
from controller.runtime.policies import Network, policy

Manifest = dict[str, Any]  # Any: JSON

API_VERSION = "infra.virtrigaud.io/v1beta1"
MANAGER = "virtrigaud-controller"
SELECTOR = f"app.kubernetes.io/managed-by={MANAGER}"
UID_LABEL = "infra.virtrigaud.io/provider-uid"
CREDENTIALS = "infra.virtrigaud.io/credentials"
"""Annotation of the pods: which state of the Secret they were started with."""
EVERYWHERE = "kubernetes.io/os"
"""Label of nodes with one value on all that can run a server: of pods that must be apart by it, there is one."""
GRPC, METRICS = 9443, 9090
USER = 65532
DRAIN_SECONDS = 45
"""How long a server may finish what it has begun before another takes its place."""
KILL_SECONDS = DRAIN_SECONDS + 15
_TLS, _SECRET, _TMP = "/etc/virtrigaud/tls", "/etc/virtrigaud/credentials", "/tmp"  # noqa: S108  # of the pod alone

RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
"""Without a limit of CPU: a server that is throttled answers late, and late looks like away."""


@dataclass(frozen=True)
class ServerSettings:
    """What all servers of an installation have in common."""

    owner: str
    namespace: str
    """Where the controller runs: nobody else may call the servers."""
    images: dict[str, str] = field(default_factory=dict)
    """Image by type of hypervisor, where the Provider names none."""
    pull_secrets: tuple[str, ...] = ()
    otlp_endpoint: str = ""
    network: Network = field(default_factory=Network)


def object_name(provider: Provider) -> str:
    """Of all its objects, in its own namespace; a DNS label, as a Service has to have."""
    name = provider.metadata.name
    whole = f"virtrigaud-provider-{name}"
    if len(whole) <= 63 and "." not in name:
        return whole
    short = name.replace(".", "-")[:30].rstrip("-")
    return f"virtrigaud-provider-{short}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def port_of(provider: Provider) -> int:
    """spec.runtime.service.port."""
    runtime = provider.spec.runtime
    return runtime.service.port if runtime is not None and runtime.service is not None else GRPC


def host_of(provider: Provider) -> str:
    """The name that the server is dialled by, and that its certificate is for."""
    return f"{object_name(provider)}.{provider.metadata.namespace}.svc"


def image_of(provider: Provider, settings: ServerSettings) -> str:
    """spec.runtime.image, else the installation's for the type; empty when nobody names one."""
    runtime = provider.spec.runtime
    return (runtime.image if runtime is not None else None) or settings.images.get(provider.spec.type, "")


def manifests(provider: Provider, settings: ServerSettings, credentials: str) -> list[Manifest]:
    """All of them but the Secret with the certificate, in the order in which they are made.

    Args:
        credentials: which state of their Secret the pods have; another one needs new pods.
    """
    return [
        _object(provider, "v1", "ServiceAccount", automountServiceAccountToken=False),
        _object(
            provider, "networking.k8s.io/v1", "NetworkPolicy",
            spec=policy(provider, _selected(provider), settings.namespace, settings.otlp_endpoint, settings.network),
        ),
        _object(provider, "v1", "Service", spec=_service(provider)),
        _object(provider, "apps/v1", "Deployment", spec=_deployment(provider, settings, credentials)),
    ]  # fmt: skip


def certificate_secret(provider: Provider, files: dict[str, str]) -> Manifest:
    """The server's certificate. Args: files: base64 by file name."""
    return _object(provider, "v1", "Secret", type="kubernetes.io/tls", data=files)


def labels(provider: Provider) -> dict[str, str]:
    """What selects its pods, and finds all that is its own."""
    return {
        "app.kubernetes.io/name": "virtrigaud-provider",
        "app.kubernetes.io/instance": object_name(provider),
        "app.kubernetes.io/component": provider.spec.type,
        "app.kubernetes.io/part-of": "virtrigaud",
        "app.kubernetes.io/managed-by": MANAGER,
        UID_LABEL: provider.metadata.uid,
    }


def _object(provider: Provider, api_version: str, kind: str, **parts: Any) -> Manifest:
    meta = provider.metadata
    owner = {"apiVersion": API_VERSION, "kind": "Provider", "name": meta.name, "uid": meta.uid, "controller": True}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": object_name(provider),
            "namespace": meta.namespace,
            "labels": labels(provider),
            "ownerReferences": [owner],
        },
        **parts,
    }


def _selected(provider: Provider) -> dict[str, str]:
    return {UID_LABEL: provider.metadata.uid}


def _service(provider: Provider) -> Manifest:
    ports = [
        {"name": "grpc", "port": port_of(provider), "targetPort": "grpc", "protocol": "TCP", "appProtocol": "grpc"},
        {"name": "metrics", "port": METRICS, "targetPort": "metrics", "protocol": "TCP"},
    ]
    return {"type": "ClusterIP", "selector": _selected(provider), "ports": ports}


def _deployment(provider: Provider, settings: ServerSettings, credentials: str) -> Manifest:
    annotations = {CREDENTIALS: credentials} if credentials else {}
    return {
        "replicas": 1,
        "paused": False,  # or what changes would wait for whoever paused it
        # One at a time: what works on a machine is kept apart in one process, so the old one drains first.
        "strategy": {"type": "Recreate"},
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": _selected(provider)},
        "template": {
            "metadata": {"labels": labels(provider), "annotations": annotations},
            "spec": _pod(provider, settings),
        },
    }


def _pod(provider: Provider, settings: ServerSettings) -> Manifest:
    runtime, ref = provider.spec.runtime, provider.spec.credential_secret_ref
    volumes: list[Manifest] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "tls", "secret": {"secretName": object_name(provider), "defaultMode": 0o440}},
    ]
    if ref is not None:
        volumes.append({"name": "credentials", "secret": {"secretName": ref.name, "defaultMode": 0o440}})
    pod: Manifest = {
        "serviceAccountName": object_name(provider),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": KILL_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _affinity(provider),
        "containers": [_container(provider, settings)],
        "volumes": volumes,
    }
    pull = [each.name for each in runtime.image_pull_secrets if each.name] if runtime is not None else []
    if pull or settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in dict.fromkeys([*pull, *settings.pull_secrets])]
    if runtime is not None:
        given = {"nodeSelector": dict(runtime.node_selector), "tolerations": list(runtime.tolerations)}
        pod |= {name: value for name, value in given.items() if value}
    return pod


def _affinity(provider: Provider) -> Manifest:
    """What spec.runtime asks for, and never beside another server of this Provider, be it one that ends.

    The strategy Recreate holds for rollouts only: for a pod that is evicted or deleted, a ReplicaSet makes the next one
    at once, while the last one drains. It is not scheduled before the last one has gone.
    """
    given = (provider.spec.runtime.affinity if provider.spec.runtime is not None else None) or {}
    apart, required = given.get("podAntiAffinity") or {}, "requiredDuringSchedulingIgnoredDuringExecution"
    if not isinstance(apart, dict) or not isinstance(apart.get(required) or [], list):
        raise ValueError("spec.runtime.affinity.podAntiAffinity is none: see `kubectl explain pod.spec.affinity`")
    alone = {"labelSelector": {"matchLabels": _selected(provider)}, "topologyKey": EVERYWHERE}
    return {**given, "podAntiAffinity": {**apart, required: [*(apart.get(required) or ()), alone]}}


def _container(provider: Provider, settings: ServerSettings) -> Manifest:
    runtime, spec = provider.spec.runtime, provider.spec
    program = PROGRAMS[spec.type]
    mounts = [{"name": "tmp", "mountPath": _TMP}, {"name": "tls", "mountPath": _TLS, "readOnly": True}]
    arguments = [
        *("--listen-address", f"0.0.0.0:{GRPC}", "--metrics-address", f"0.0.0.0:{METRICS}"),
        *("--tls-cert", f"{_TLS}/tls.crt", "--tls-key", f"{_TLS}/tls.key", "--tls-ca", f"{_TLS}/ca.crt"),
        *(f"--allowed-clients={identity.client(role, settings.namespace)}" for role in identity.Role),
        *("--owner", settings.owner, "--drain", f"{DRAIN_SECONDS}s"),
        *log_arguments(provider),
    ]
    if spec.credential_secret_ref is not None:
        mounts.append({"name": "credentials", "mountPath": _SECRET, "readOnly": True})
        arguments += ["--credentials-directory", _SECRET]
    if program.spools:  # a home is not to be written here
        arguments += ["--spool-directory", f"{_TMP}/spool"]
    if settings.otlp_endpoint:
        arguments += ["--otlp-endpoint", settings.otlp_endpoint]
    environment = [*(runtime.env if runtime is not None else ())]
    if not any(each.get("name") == "GRPC_VERBOSITY" for each in environment):
        environment.append({"name": "GRPC_VERBOSITY", "value": "INFO"})  # it logs which handshakes it refused, and why
    probe = {"httpGet": {"path": "/healthz", "port": "metrics"}}
    container: Manifest = {
        "name": "provider",
        "image": image_of(provider, settings),
        "imagePullPolicy": runtime.image_pull_policy if runtime is not None else "IfNotPresent",
        "command": [program.command],
        "args": arguments + program.own(spec),
        "env": environment,
        "ports": [{"name": "grpc", "containerPort": GRPC}, {"name": "metrics", "containerPort": METRICS}],
        "resources": (runtime.resources if runtime is not None else None) or RESOURCES,
        # Alive, not well: a hypervisor that is away is told by the Provider, which must reach its server to know.
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": (runtime.readiness_probe if runtime is not None else None) or {**probe, "periodSeconds": 5},
        "livenessProbe": (runtime.liveness_probe if runtime is not None else None) or {**probe, "periodSeconds": 20},
        "securityContext": (runtime.security_context if runtime is not None else None)
        or {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why it ended goes into the Provider's conditions
    }
    return container
