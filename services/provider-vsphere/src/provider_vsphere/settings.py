"""Settings of the vSphere provider."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from common.settings import Seconds
from providerkit.imagesettings import ImageSettings

from provider_vsphere.places import Defaults


@dataclass(frozen=True)
class VsphereSettings(ImageSettings):
    """What this provider is told, besides what every provider is."""

    endpoint: Annotated[str, "URL of a vCenter or an ESXi host: https://vcenter.example.org"] = ""
    thumbprint: Annotated[
        str, "SHA-256 or SHA-1 of the server's certificate, which then needs no authority; colons are allowed"
    ] = ""
    insecure_skip_verify: Annotated[
        bool, "believe any certificate; whoever sits in between then reads the password"
    ] = False
    default_datacenter: Annotated[str, "datacenter of machines whose spec leaves it open"] = ""
    default_cluster: Annotated[str, "cluster, or standalone host"] = ""
    default_host: Annotated[str, "host"] = ""
    default_resource_pool: Annotated[str, "resource pool"] = ""
    default_folder: Annotated[str, "VM folder; empty means the datacenter's own"] = ""
    default_datastore: Annotated[str, "datastore; wins over a datastore cluster"] = ""
    default_storage_pod: Annotated[str, "datastore cluster"] = ""
    default_network: Annotated[str, "network of NICs that name none"] = ""
    extra_config_keys: Annotated[
        list[str], "keys of a VM's extra configuration that a VMClass may set, besides those of the provider's own"
    ] = field(default_factory=lambda: ["disk.EnableUUID"])
    call_timeout: Annotated[Seconds, "how long vSphere may take for an answer"] = 30.0
    task_timeout: Annotated[Seconds, "how long a task may run before it counts as hanging"] = 3600.0
    concurrency: Annotated[int, "calls, and tasks, that vSphere is asked for at the same time"] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.endpoint)
        if parts.username is not None or parts.password is not None:
            raise ValueError("endpoint: holds credentials; put them into files of the credentials directory")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                "endpoint is missing or no URL: give --endpoint https://HOST, of a vCenter or an ESXi host"
            )
        if parts.scheme == "http" and not self.insecure_skip_verify:
            raise ValueError("endpoint: http sends the password in plaintext; use https, or set insecure_skip_verify")
        digits = self.thumbprint.replace(":", "")
        if digits and (len(digits) not in (40, 64) or set(digits) - set(string.hexdigits)):
            raise ValueError(
                "thumbprint: is neither the SHA-256 (64 hexadecimal digits) nor the SHA-1 (40) of a certificate"
            )
        if digits and self.insecure_skip_verify:
            raise ValueError("insecure_skip_verify contradicts thumbprint: leave one of them out")
        if self.credentials_directory is None:
            raise ValueError(
                "credentials_directory is missing: give one with the files `username` and `password`, or `token`"
            )
        for key in self.extra_config_keys:
            if key.lower().startswith(("guestinfo.", "virtrigaud.", "vsphere.")):
                raise ValueError(f"extra_config_keys: {key} is the provider's own")
        if self.call_timeout < 1:
            raise ValueError("call_timeout: at least 1s")
        if self.task_timeout < 1:
            raise ValueError("task_timeout: at least 1s")
        if self.concurrency < 1:
            raise ValueError("concurrency: at least 1")

    def defaults(self) -> Defaults:
        """What machines get whose spec names nothing."""
        return Defaults(
            datacenter=self.default_datacenter,
            cluster=self.default_cluster,
            host=self.default_host,
            resource_pool=self.default_resource_pool,
            folder=self.default_folder,
            datastore=self.default_datastore,
            storage_pod=self.default_storage_pod,
            network=self.default_network,
        )
