"""What a provider server is told on its command line, wherever it runs: one row per type of hypervisor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec
from kinds.provider import Provider, ProviderDefaults, ProviderSpec

COMMANDS = {
    "libvirt": "virtrigaud-provider-libvirt",
    "vsphere": "virtrigaud-provider-vsphere",
    "proxmox": "virtrigaud-provider-proxmox",
    "fake": "virtrigaud-provider-fake",
}
"""Console script of each type that has a provider."""

PASSWORD = re.compile(r"//[^/?#]*:[^/?#]*@|//[^/?#@:\[]*:(?!\d*(?:[/?#]|$)).*@")
"""user:password@ of a URI, also where the password holds a / ? or # that nobody escaped; host:port/path@ is none."""


def unknown_type(spec: ProviderSpec) -> str:
    """What to say of a type that has no provider; empty for one that has."""
    if spec.type in COMMANDS:
        return ""
    return f"providers of type {spec.type} are not supported yet; this version has {', '.join(sorted(COMMANDS))}"


def log_arguments(provider: Provider) -> list[str]:
    """spec.runtime.logLevel and logFormat."""
    runtime = provider.spec.runtime
    if runtime is None:
        return ["--log-level", "info", "--log-format", "json"]
    level = {"warn": "warning"}.get(runtime.log_level, runtime.log_level)
    return ["--log-level", level, "--log-format", runtime.log_format]


def own_arguments(spec: ProviderSpec) -> list[str]:
    """Where its hypervisor is, and what a type alone understands."""
    return _OWN[spec.type](spec)


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


_OWN: Mapping[str, Callable[[ProviderSpec], list[str]]] = {
    "libvirt": _libvirt,
    "vsphere": _vsphere,
    "proxmox": _proxmox,
    "fake": lambda spec: [],
}
