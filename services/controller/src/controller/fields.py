"""What a Provider or a VMImage asks for and nobody does: reported, never dropped.

Every field of the two specs that differs from the schema's default is looked up in a table. A field without an entry is
reported as not supported yet, so a field that is added to the schema is told of from its first day on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from kinds.provider import Provider
from kinds.reports import FieldReport
from kinds.vmimage import Prepare, VMImage

from .conditions import Wish
from .status import FIELDS_IGNORED

NOT_YET, NOT_USED = "NotSupportedYet", "NotUsed"
ADOPT = "virtrigaud.io/adopt-vms"

DONE = ""
"""The field does what it says, or asks for nothing; where that is, is said beside it."""

_CONTAINER = "the server of this runtime mode is no container"
_ONE_CHANNEL = (
    "calls share one HTTP/2 connection, which stays open; only maxConnections, calls at the same time, is used"
)

PROVIDER: Mapping[str, str] = {
    "spec.type": DONE,  # runtime/process.py, compose
    "spec.endpoint": DONE,  # runtime/process.py; for a server that runs already it is a note
    "spec.credentialSecretRef": DONE,  # runtime/process.py
    "spec.defaults": DONE,  # compose: where the machine says nothing itself
    "spec.healthCheck": DONE,  # connection.py
    "spec.rateLimit": DONE,  # connection.py
    "spec.connectionPooling.maxConnections": DONE,  # connection.py
    "spec.connectionPooling": _ONE_CHANNEL,
    "spec.consumerNamespaceSelector": DONE,  # references.py
    "spec.topology": "clusters of hosts are not supported yet",
    "spec.insecureSkipVerify": (
        "certificates are always verified; give the provider the right authority, or, for libvirt over TLS, put "
        "no_verify=1 into the endpoint's query"
    ),
    "spec.runtime.mode": DONE,  # providers.py
    "spec.runtime.address": DONE,  # runtime/external.py
    "spec.runtime.env": DONE,  # runtime/process.py
    "spec.runtime.logLevel": DONE,
    "spec.runtime.logFormat": DONE,
    "spec.runtime.service.tls.enabled": DONE,  # runtime/external.py
    "spec.runtime.service.tls.secretRef": DONE,
    "spec.runtime.service.tls.insecureSkipVerify": (
        "the certificate of the provider server is always verified; put its authority into ca.crt of tls.secretRef"
    ),
    "spec.runtime.service.port": "the port is part of spec.runtime.address, and chosen by the system for a process",
    "spec.runtime": _CONTAINER,
}

_OWN = "the server runs already and has settings of its own"
BY_MODE: Mapping[str, Mapping[str, str]] = {
    "Process": {
        "spec.runtime.address": "the controller starts the server itself and knows its address",
        "spec.runtime.service.tls.enabled": "calls to a process of the controller always use mutual TLS",
        "spec.runtime.service.tls.secretRef": "the controller issues the certificates of its processes itself",
    },
    "External": {
        "spec.credentialSecretRef": _OWN,
        "spec.runtime.env": _OWN,
        "spec.runtime.logLevel": _OWN,
        "spec.runtime.logFormat": _OWN,
    },
    "Kubernetes": {
        "spec.runtime": DONE,  # runtime/manifests.py
        "spec.runtime.address": "the controller makes the Service itself and knows its address",
        "spec.runtime.replicas": (
            "one server serves a hypervisor: what works on a machine is kept apart in one process, and the next one "
            "goes on from what is true"
        ),
        "spec.runtime.service.port": DONE,  # runtime/manifests.py
        "spec.runtime.service.tls.enabled": "calls to a server on the cluster always use mutual TLS",
        "spec.runtime.service.tls.secretRef": "the controller issues the certificates of its servers itself",
    },
}
"""What differs by the runtime mode in force."""

IMAGE: Mapping[str, str] = {
    "spec.source": DONE,  # imagesources.py: used, or refused by name
    "spec.source.vsphere.providerRef": "an image is prepared on each provider that needs it",
    "spec.distribution": DONE,  # text for people
    "spec.metadata": DONE,  # text for people
    "spec.consumerNamespaceSelector": DONE,  # references.py
    "spec.prepare.onMissing": DONE,  # images.py
    "spec.prepare.retries": DONE,  # images.py
    "spec.prepare.timeout": DONE,  # imagesources.py
    "spec.prepare.validateChecksum": DONE,  # imagesources.py
    "spec.prepare.storage.libvirt.storagePool": DONE,  # imagesources.py
    "spec.prepare.storage.vsphere.datastore": DONE,  # imagesources.py
    "spec.prepare.storage": "a provider stores images its own way; only where (storagePool, datastore) can be chosen",
    "spec.prepare.force": "an image is fetched once; give it another source, or another name, to have it fetched again",
    "spec.prepare.optimization": "work on an image after it was fetched is not supported yet",
}


def provider_reports(provider: Provider, mode: str) -> list[FieldReport]:
    """What is not done of a Provider. Args: mode: the runtime mode in force."""
    table = {**PROVIDER, **BY_MODE.get(mode, {})}
    if provider.spec.type in ("vsphere", "proxmox"):
        table["spec.insecureSkipVerify"] = _OWN if mode == "External" else DONE  # runtime/arguments.py
    if provider.spec.topology == "single":
        table["spec.topology"] = DONE  # it is what every endpoint is taken for
    service = provider.spec.runtime.service if provider.spec.runtime is not None else None
    if mode == "External" and service is not None and service.tls is not None and not service.tls.enabled:
        table["spec.runtime.service.tls.secretRef"] = "tls.enabled is false, so calls are in plain text"
    found = _looked_up(provider.spec, table)
    if provider.metadata.annotations.get(ADOPT) == "true":
        where = f"metadata.annotations[{ADOPT}]"
        found.append(FieldReport(where, NOT_YET, "adopting machines is not supported yet"))
    return found


def image_reports(image: VMImage) -> list[FieldReport]:
    """What is not done of a VMImage."""
    return _looked_up(image.spec, IMAGE) + _other_sources(image) + _timeout(image)


def _other_sources(image: VMImage) -> list[FieldReport]:
    """Where several ways to the same thing are given, the first one is used."""
    source = image.spec.source
    http, vsphere, proxmox = source.http, source.vsphere, source.proxmox
    groups: dict[str, dict[str, object]] = {
        "spec.source": {"http": http, "registry": source.registry, "dataVolume": source.data_volume}
    }
    if vsphere is not None:
        ways: dict[str, object] = {"templateName": vsphere.template_name, "contentLibrary": vsphere.content_library}
        groups["spec.source.vsphere"] = {**ways, "ovaURL": vsphere.ova_url}
    if proxmox is not None:
        groups["spec.source.proxmox"] = {"templateID": proxmox.template_id, "templateName": proxmox.template_name}
    if http is not None and (auth := http.authentication) is not None:
        groups["spec.source.http.authentication"] = {"bearer": auth.bearer, "basicAuth": auth.basic_auth}
    found = []
    for path, each in groups.items():
        given = [name for name, value in each.items() if value is not None]
        found += [FieldReport(f"{path}.{n}", NOT_USED, f"not used, because {given[0]} is given") for n in given[1:]]
    return found


def _timeout(image: VMImage) -> list[FieldReport]:
    source, prepare = image.spec.source, image.spec.prepare
    downloads = source.http is not None or bool(source.libvirt is not None and source.libvirt.url)
    downloads = downloads or bool(source.vsphere is not None and source.vsphere.ova_url)
    if prepare is None or downloads or prepare.timeout == Prepare().timeout:
        return []
    return [FieldReport("spec.prepare.timeout", NOT_USED, "it limits downloads, and nothing is downloaded")]


def _looked_up(spec: msgspec.Struct, table: Mapping[str, str]) -> list[FieldReport]:
    """One report per field that asks for something which is not done."""
    found = []
    for path in wishes(spec, "spec"):
        entry = _entry(path, table)
        told = table[entry] if entry is not None else "not supported yet"
        if told != DONE:
            found.append(FieldReport(path, NOT_YET if told.endswith("yet") else NOT_USED, told))
    return found


def _entry(path: str, table: Mapping[str, str]) -> str | None:
    """The nearest entry: the field's own, else that of a block around it."""
    while path:
        if path in table:
            return path
        path = path.rpartition(".")[0]
    return None


def wishes(struct: Any, path: str) -> Iterator[str]:
    """Paths of all fields that differ from the schema's default. Any: a Struct of any kind."""
    for each in _fields(type(struct)):  # type: ignore[arg-type]  # a class is hashable, which its metaclass hides
        value = getattr(struct, each.name)
        default = each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory()
        if isinstance(value, msgspec.Struct):
            yield from wishes(value, f"{path}.{each.encode_name}")
        elif value != default:
            yield f"{path}.{each.encode_name}"


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Those of a kind, whose annotations are text that takes long to read."""
    return msgspec.structs.fields(kind)


def wish_of(reports: list[FieldReport]) -> list[Wish]:
    """The condition that tells of them; none when there is nothing to tell."""
    if not reports:
        return []
    message = "; ".join(f"{report.field}: {report.message}" for report in reports)
    return [Wish(FIELDS_IGNORED, "True", reports[0].reason, message)]
