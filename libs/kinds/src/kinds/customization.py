"""Personalisation of a guest by the hypervisor's own tools."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .metadata import Model
from .patterns import IPV4, MAC
from .shared import Duration, LocalObjectReference, PasswordSpec, UserData


class Certificate(Model):
    """Trust anchors."""

    name: Annotated[str, Meta(description="Name", max_length=255)]
    data: Annotated[str | None, Meta(description="PEM text")] = None
    secret_key: Annotated[str, Meta(description="Key")] = "tls.crt"
    secret_ref: Annotated[LocalObjectReference | None, Meta(description="Secret")] = None
    store: Annotated[Literal["root", "ca", "my", "trust"], Meta(description="Windows store")] = "root"


class GuestCommand(Model):
    """Commands in the guest."""

    command: Annotated[str, Meta(description="Executable", max_length=1000)]
    arguments: Annotated[list[str], Meta(description="Arguments", max_length=20)] = []
    run_as_user: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="User")] = None
    stage: Annotated[Literal["pre-customization", "post-customization", "first-boot"], Meta(description="When")] = (
        "post-customization"
    )
    timeout: Annotated[Duration, Meta(description="Limit")] = "5m"
    working_directory: Annotated[Annotated[str, Meta(max_length=500)] | None, Meta(description="Directory")] = None


class CustomizationNetwork(Model):
    """Per-NIC settings."""

    name: Annotated[str, Meta(description="Which NIC", max_length=255)]
    dhcp: Annotated[bool | None, Meta(description="Use DHCP")] = None
    dns: Annotated[list[str], Meta(description="Resolver list (VM networks use one string instead)", max_length=5)] = []
    gateway: Annotated[Annotated[str, Meta(pattern=IPV4)] | None, Meta(description="Gateway")] = None
    ip_address: Annotated[Annotated[str, Meta(pattern=IPV4)] | None, Meta(description="Static address")] = None
    mac_address: Annotated[Annotated[str, Meta(pattern=MAC)] | None, Meta(description="MAC")] = None
    subnet_mask: Annotated[
        Annotated[str, Meta(pattern=IPV4)] | None,
        Meta(description="Dotted mask (VM networks use a prefix length instead)"),
    ] = None


class JoinDomain(Model):
    """AD join."""

    domain: Annotated[str, Meta(description="Domain", max_length=255)]
    password: Annotated[PasswordSpec, Meta(description="Password")]
    username: Annotated[str, Meta(description="User", max_length=255)]
    organizational_unit: Annotated[Annotated[str, Meta(max_length=500)] | None, Meta(description="OU")] = None


class Sysprep(Model):
    """Windows."""

    admin_password: Annotated[PasswordSpec | None, Meta(description="Administrator password")] = None
    custom_commands: Annotated[list[str], Meta(description="Commands", max_length=20)] = []
    enabled: Annotated[bool, Meta(description="On/off")] = False
    join_domain: Annotated[JoinDomain | None, Meta(description="AD join")] = None
    organization: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Organisation")] = None
    owner: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Owner")] = None
    product_key: Annotated[str | None, Meta(description="Licence key in clear text")] = None


class Customization(Model):
    """Personalisation of the guest."""

    certificates: Annotated[list[Certificate], Meta(description="Trust anchors", max_length=10)] = []
    domain: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="DNS domain")] = None
    guest_commands: Annotated[list[GuestCommand], Meta(description="Commands in the guest", max_length=20)] = []
    hostname: Annotated[
        Annotated[str, Meta(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?$", max_length=255)] | None,
        Meta(description="Host name"),
    ] = None
    networks: Annotated[list[CustomizationNetwork], Meta(description="Per-NIC settings", max_length=10)] = []
    sysprep: Annotated[Sysprep | None, Meta(description="Windows")] = None
    tags: Annotated[list[str], Meta(description="Tags", max_length=50)] = []
    time_zone: Annotated[Annotated[str, Meta(max_length=100)] | None, Meta(description="Time zone")] = None
    user_data: Annotated[UserData | None, Meta(description="First-boot payload")] = None
    stored: Annotated[
        Annotated[str, Meta(max_length=255)] | None,
        Meta(description="Specification that is stored on the hypervisor; what is said here overwrites its own"),
    ] = None
