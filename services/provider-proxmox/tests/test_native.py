"""Proxmox VE's own first-boot fields: what they carry, and what is refused because they cannot."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from common import v1
from common.errors import NotSupportedError
from provider_proxmox.content import native

IDENTITY = v1.MachineIdentity(uid="7a1e2f30-0000-4000-8000-000000000001", namespace="shop", name="web", owner="home")
SLOTS = {"lan": "net0", "wan": "net3"}


def spec(user_data: str = "", *nics: v1.NicSpec, **boot: str) -> v1.MachineSpec:
    return v1.MachineSpec(identity=IDENTITY, nics=list(nics), boot_data=v1.BootData(user_data=user_data, **boot))


def test_every_field_at_once() -> None:
    text = (
        "#cloud-config\nuser: admin\npassword: $6$salt$hash\nchpasswd: {expire: false}\n"
        "ssh_authorized_keys: [ssh-ed25519 AAAA+/= me@home, ssh-rsa BBBB]\npackage_upgrade: true\n"
    )
    wish = v1.GuestAddressing(
        addresses=["2001:db8::7/64", "192.0.2.7/24"],
        gateway4="192.0.2.1",
        gateway6="2001:db8::1",
        nameservers=["192.0.2.53", "2001:db8::53"],
        search_domains=["example.org", "example.net"],
    )
    found = native.fields(spec(text, v1.NicSpec(name="wan", addressing=wish), v1.NicSpec(name="lan")), SLOTS)
    keys = found.pop("sshkeys")
    assert isinstance(keys, str)
    assert "+" not in keys  # Proxmox VE would take it for itself, not for a blank
    assert "%20" in keys
    assert unquote(keys).splitlines() == ["ssh-ed25519 AAAA+/= me@home", "ssh-rsa BBBB"]
    assert found == {
        "ciuser": "admin",
        "cipassword": "$6$salt$hash",
        "ciupgrade": 1,
        "ipconfig3": "ip=192.0.2.7/24,gw=192.0.2.1,ip6=2001:db8::7/64,gw6=2001:db8::1",
        "ipconfig0": "ip=dhcp",
        "nameserver": "192.0.2.53 2001:db8::53",
        "searchdomain": "example.org example.net",
    }


def test_nothing_that_was_not_asked_for() -> None:
    """No user, no key, and no upgrade, which Proxmox VE would do by itself."""
    assert native.fields(spec("", v1.NicSpec(name="lan")), SLOTS) == {"ciupgrade": 0, "ipconfig0": "ip=dhcp"}


@pytest.mark.parametrize(
    ("user_data", "complaint"),
    [
        ("#!/bin/sh\necho hunter2\n", "no #cloud-config"),
        ("#cloud-config\nruncmd: [hunter2]\nwrite_files: []\n", "runcmd, write_files has no field"),
        ("#cloud-config\n- hunter2\n", "no mapping"),
        ("#cloud-config\na: [hunter2\n", "no YAML"),
        ("#cloud-config\npassword: hunter2\n", "expires at once"),
        ("#cloud-config\npassword: hunter2\nchpasswd: {expire: true}\n", "of chpasswd"),
        ("#cloud-config\nuser: {name: hunter2}\n", "user must be a plain name"),
        ("#cloud-config\nuser: 'hunter2: # x'\n", "user must be a plain name"),
        ("#cloud-config\npassword: [hunter2]\n", "password must be a text"),
        ("#cloud-config\nssh_authorized_keys: hunter2\n", "must be a list"),
        ("#cloud-config\npackage_upgrade: hunter2\n", "true or false"),
    ],
)
def test_P18_user_data_that_has_no_field_is_refused(user_data: str, complaint: str) -> None:
    """Refused, not dropped; and never repeated, as it may be secret."""
    with pytest.raises(NotSupportedError, match=complaint) as refusal:
        native.fields(spec(user_data), SLOTS)
    assert "hunter2" not in str(refusal.value)


def test_every_reason_is_named_at_once() -> None:
    wish = v1.GuestAddressing(
        addresses=["192.0.2.7/24", "192.0.2.8/24"],
        dhcp4=True,
        routes=[v1.Route(destination="198.51.100.0/24", via="192.0.2.2")],
        nameservers=["192.0.2.53"],
    )
    other = v1.GuestAddressing(addresses=["2001:db8::7/64"], dhcp6=True, nameservers=["192.0.2.54"])
    nics = v1.NicSpec(name="lan", addressing=wish), v1.NicSpec(name="wan", addressing=other)
    with pytest.raises(NotSupportedError) as refusal:
        native.fields(spec("#!/bin/sh\n", *nics, meta_data="a: b", ignition="{}", hostname="db"), SLOTS)
    for reason in (
        "meta_data", "ignition", "hostname", "2 IPv4 addresses", "routes", "IPv4 address and DHCP",
        "IPv6 address and DHCP", "differ in nameservers", "no #cloud-config",
    ):  # fmt: skip
        assert reason in str(refusal.value)


@pytest.mark.parametrize("text", ["user: 2001-13-01", "user: " + "9" * 5000, "[" * 5000])
def test_user_data_that_yaml_itself_cannot_read_has_no_field(text: str) -> None:
    with pytest.raises(NotSupportedError, match="no YAML"):
        native._user(v1.MachineSpec(boot_data=v1.BootData(user_data=f"#cloud-config\n{text}")))
