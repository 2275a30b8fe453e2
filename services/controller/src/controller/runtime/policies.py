"""The NetworkPolicy of one Provider's server: pure. ADR 26 says what is restricted, and what only on demand."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from kinds.provider import Provider, ProviderSpec

Rule = dict[str, Any]  # Any: JSON

DNS = (53, 5353)
"""Where pods of a cluster's DNS listen: 5353 is OpenShift's."""
ESXI = (443, 902)
"""Hosts that a vCenter sends a transfer or a console to: nobody knows which before."""
SSH = 22
_LIBVIRT = {"ssh": SSH, "libssh": SSH, "libssh2": SSH, "tcp": 16509}
_LIBVIRT_TLS = 16514
_OTLP = 443
"""gRPC's own, where the endpoint names no port."""


class Peer(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, rename="camel"):
    """NetworkPolicyPeer; what its parts hold is for the API server to judge."""

    namespace_selector: Rule | None = None
    pod_selector: Rule | None = None
    ip_block: Rule | None = None


class EgressRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """NetworkPolicyEgressRule."""

    ports: list[Rule] = []
    to: list[Peer] = []


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What an installation lets its servers do and suffer.

    Attributes:
        metrics_from: who may read metrics; none: everybody.
        egress: what servers may call besides their hypervisor, DNS and the collector; None: everything.
    """

    metrics_from: list[Peer] = []
    egress: list[EgressRule] | None = None


def parsed(text: str) -> Network:
    """A Network from JSON; of an empty text the default. Raises: ValueError: it is none."""
    try:
        return msgspec.json.decode(text.encode(), type=Network) if text else Network()
    except msgspec.MsgspecError as error:
        raise ValueError(f"server_network: {text!r} is not {{metricsFrom: [peer], egress: [rule]}}: {error}") from error


def policy(
    provider: Provider, selected: Mapping[str, str], namespace: str, otlp_endpoint: str, network: Network
) -> Rule:
    """Only the controllers in `namespace` call it; who reads its metrics, and what it calls, is as `network` says."""
    controller = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "virtrigaud-controller"}},
    }
    metrics: Rule = {"ports": [{"port": "metrics", "protocol": "TCP"}]}
    if network.metrics_from:
        metrics["from"] = msgspec.to_builtins(network.metrics_from)
    spec: Rule = {
        "podSelector": {"matchLabels": dict(selected)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [controller], "ports": [{"port": "grpc", "protocol": "TCP"}]}, metrics],
    }
    if network.egress is not None:
        spec["policyTypes"] = ["Ingress", "Egress"]
        spec["egress"] = [*_egress(provider.spec, otlp_endpoint), *msgspec.to_builtins(network.egress)]
    return spec


def _egress(spec: ProviderSpec, otlp_endpoint: str) -> list[Rule]:
    rules = [{"ports": [{"port": port, "protocol": protocol} for port in DNS for protocol in ("UDP", "TCP")]}]
    if otlp_endpoint:
        parts = urlsplit(otlp_endpoint)
        rules.append(_at(parts.hostname or "", parts.port or _OTLP))
    return rules + _HYPERVISOR[spec.type](spec)


def _libvirt(spec: ProviderSpec) -> list[Rule]:
    """Of a URI without a host nothing: it is a socket."""
    parts = urlsplit(spec.endpoint)
    if not parts.hostname:
        return []
    transport = parts.scheme.partition("+")[2]
    return [_at(parts.hostname, parts.port or _LIBVIRT.get(transport, _LIBVIRT_TLS))]


def _vsphere(spec: ProviderSpec) -> list[Rule]:
    return [_url(spec.endpoint), _at("", *ESXI)]


def _proxmox(spec: ProviderSpec) -> list[Rule]:
    """Files go to a node by SSH, at the address that the cluster tells."""
    return [*(_url(node) for node in spec.endpoint.split(",")), _at("", SSH)]


def _url(url: str) -> Rule:
    parts = urlsplit(url)
    return _at(parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))


def _at(host: str, *ports: int) -> Rule:
    """These ports of a host; of every one where it is a name, which no NetworkPolicy knows."""
    rule: Rule = {"ports": [{"port": port, "protocol": "TCP"} for port in ports]}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return rule
    return {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}], **rule}


_HYPERVISOR: Mapping[str, Callable[[ProviderSpec], list[Rule]]] = {
    "libvirt": _libvirt,
    "vsphere": _vsphere,
    "proxmox": _proxmox,
    "fake": lambda spec: [],
}
