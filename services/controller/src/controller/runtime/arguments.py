"""Which program serves a type of hypervisor, and what it is told on its command line, wherever it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from kinds.provider import Provider, ProviderDefaults, ProviderSpec

PASSWORD = re.compile(r"//[^/?#]*:[^/?#]*@|//[^/?#@:\[]*:(?!\d*(?:[/?#]|$)).*@")
"""user:password@ of a URI, also where the password holds a / ? or # that nobody escaped; host:port/path@ is none."""


@dataclass(frozen=True)
class Program:
    """The server of one type of hypervisor."""

    command: str
    """Console script."""
    own: Callable[[ProviderSpec], list[str]]
    """Where its hypervisor is, and what this type alone understands."""
    spools: bool = False
    """Content waits in a directory of the server's; its own default is in a home."""
    is_hypervisor: bool = False
    """It keeps its machines itself, in a file, and shares no directory of images with anybody."""


def unknown_type(spec: ProviderSpec) -> str:
    """What to say of a type that has no provider; empty for one that has."""
    if spec.type in PROGRAMS:
        return ""
    return f"providers of type {spec.type} are not supported yet; this version has {', '.join(sorted(PROGRAMS))}"


def log_arguments(provider: Provider) -> list[str]:
    """spec.runtime.logLevel and logFormat."""
    runtime = provider.spec.runtime
    if runtime is None:
        return ["--log-level", "info", "--log-format", "json"]
    level = {"warn": "warning"}.get(runtime.log_level, runtime.log_level)
    return ["--log-level", level, "--log-format", runtime.log_format]


def refuse_password(endpoint: str) -> None:
    """Everybody on the machine can read a command line. Raises: ValueError: it holds a password, which is not shown."""
    if PASSWORD.search(endpoint):
        raise ValueError(
            "spec.endpoint holds a password; take it out, change it, and put the new one into the Secret of "
            "spec.credentialSecretRef"
        )


def _libvirt(spec: ProviderSpec) -> list[str]:
    return ["--endpoint", spec.endpoint]


def _vsphere(spec: ProviderSpec) -> list[str]:
    words = ["--endpoint", spec.endpoint, *_unverified(spec)]
    for each in msgspec.structs.fields(ProviderDefaults) if spec.defaults is not None else ():
        if value := getattr(spec.defaults, each.name):
            words.append(f"--default-{each.name.replace('_', '-')}={value}")
    return words


def _proxmox(spec: ProviderSpec) -> list[str]:
    defaults = spec.defaults or ProviderDefaults()
    given = {"storage": defaults.datastore, "pool": defaults.resource_pool, "bridge": defaults.network}
    words = [word for node in spec.endpoint.split(",") for word in ("--endpoint", node)] + _unverified(spec)
    return words + [f"--default-{name}={value}" for name, value in given.items() if value]


def _unverified(spec: ProviderSpec) -> list[str]:
    return ["--insecure-skip-verify"] if spec.insecure_skip_verify else []


PROGRAMS: Mapping[str, Program] = {
    "libvirt": Program("virtrigaud-provider-libvirt", _libvirt),
    "vsphere": Program("virtrigaud-provider-vsphere", _vsphere),
    "proxmox": Program("virtrigaud-provider-proxmox", _proxmox, spools=True),
    "fake": Program("virtrigaud-provider-fake", lambda spec: [], is_hypervisor=True),
}
"""Each type of hypervisor that has a provider."""
