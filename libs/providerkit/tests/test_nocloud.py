"""The NoCloud drive, read back."""

from __future__ import annotations

import io
import uuid

import pycdlib
import pytest
import yaml
from common import v1
from common.errors import InvalidSpecError
from hypothesis import given
from hypothesis import strategies as st
from providerkit import nocloud

MACS = {"lan": "52:54:00:00:00:01", "wan": "52:54:00:00:00:02"}


def machine_spec(name: str = "web", **fields: object) -> v1.MachineSpec:
    """A machine without anything."""
    identity = v1.MachineIdentity(uid=str(uuid.uuid4()), namespace="lab", name=name)
    return v1.MachineSpec(identity=identity, **fields)  # type: ignore[arg-type]  # fields of the message


def uid_of(spec: v1.MachineSpec) -> str:
    assert spec.identity is not None
    return spec.identity.uid


def iso(spec: v1.MachineSpec, macs: dict[str, str]) -> bytes:
    return nocloud.iso(nocloud.files(spec, macs))


def read_back(image_bytes: bytes) -> dict[str, str]:
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(image_bytes))
    files = {}
    for child in image.list_children(joliet_path="/"):
        name = child.file_identifier().decode("utf-16_be")
        if child.is_file():
            out = io.BytesIO()
            image.get_file_from_iso_fp(out, joliet_path="/" + name)
            files[name] = out.getvalue().decode()
            again = io.BytesIO()
            image.get_file_from_iso_fp(again, rr_path="/" + name)
            assert again.getvalue() == out.getvalue()
    assert image.pvd.volume_identifier.decode().strip() == "cidata"
    image.close()
    return files


def test_user_data_arrives_as_it_stands_and_metadata_is_ours_under_the_users() -> None:
    script = "#!/bin/sh\necho 'ä <&>' \"$HOME\"\n"
    spec = machine_spec(
        "web", boot_data=v1.BootData(user_data=script, meta_data="local-hostname: other\nzone: [1, 2]\n")
    )
    files = read_back(iso(spec, MACS))
    assert files["user-data"] == script
    assert yaml.safe_load(files["meta-data"]) == {
        "instance-id": uid_of(spec),
        "local-hostname": "other",
        "zone": [1, 2],
    }
    assert "network-config" not in files


def test_P3_W25_no_credential_is_ever_injected() -> None:
    """Without user-data the guest gets an empty cloud-config: no user, no key, no package."""
    files = read_back(iso(machine_spec("web", boot_data=v1.BootData(hostname="db")), MACS))
    assert files["user-data"] == "#cloud-config\n{}\n"
    assert yaml.safe_load(files["meta-data"])["local-hostname"] == "db"
    assert set(files) == {"user-data", "meta-data"}


def test_without_boot_data_and_addresses_there_is_no_iso() -> None:
    spec = machine_spec(nics=[v1.NicSpec(name="lan")])
    assert not nocloud.needed(spec)
    spec.nics[0].addressing = v1.GuestAddressing(addresses=["192.0.2.7/24"])
    assert nocloud.needed(spec)


def test_every_text_is_quoted_since_parsers_differ_on_plain_ones() -> None:
    """A MAC of digits is a number in base 60 to some, and the guest would find no NIC that has it."""
    mac = "52:54:00:46:81:97"
    spec = machine_spec(
        nics=[v1.NicSpec(name="lan", addressing=v1.GuestAddressing(addresses=["192.0.2.7/24"]))],
        boot_data=v1.BootData(hostname="1e3"),
    )
    files = read_back(iso(spec, {"lan": mac}))
    assert f'"macaddress": "{mac}"' in files["network-config"]
    assert '"local-hostname": "1e3"' in files["meta-data"]


def test_static_addresses_are_matched_by_mac() -> None:
    addressing = v1.GuestAddressing(
        addresses=["192.0.2.7/24", "2001:db8::7/64"],
        gateway4="192.0.2.1",
        gateway6="2001:db8::1",
        nameservers=["192.0.2.53"],
        search_domains=["example.org"],
        routes=[v1.Route(destination="198.51.100.0/24", via="192.0.2.2", metric=7)],
    )
    spec = machine_spec(nics=[v1.NicSpec(name="lan", addressing=addressing, mtu=1400), v1.NicSpec(name="wan")])
    config = yaml.safe_load(read_back(iso(spec, MACS))["network-config"])
    assert config == {
        "version": 2,
        "ethernets": {
            "nic0": {
                "match": {"macaddress": MACS["lan"]},
                "dhcp4": False,
                "addresses": ["192.0.2.7/24", "2001:db8::7/64"],
                "routes": [
                    {"to": "0.0.0.0/0", "via": "192.0.2.1"},
                    {"to": "::/0", "via": "2001:db8::1"},
                    {"to": "198.51.100.0/24", "via": "192.0.2.2", "metric": 7},
                ],
                "nameservers": {"addresses": ["192.0.2.53"], "search": ["example.org"]},
                "mtu": 1400,
            },
            "nic1": {"match": {"macaddress": MACS["wan"]}, "dhcp4": True},
        },
    }


def test_ignition_is_the_user_data() -> None:
    """Where Ignition of the platform `proxmoxve` looks for it, as it stands."""
    config = '{"ignition": {"version": "3.4.0"}}'
    spec = machine_spec(boot_data=v1.BootData(ignition=config))
    assert read_back(iso(spec, {}))["user-data"] == config


@pytest.mark.parametrize(
    "text", ["- a\n- list\n", "a: [", "just words", "1: number key", "!!python/object:os.system {}"]
)
def test_metadata_that_is_no_mapping_is_refused_without_repeating_it(text: str) -> None:
    spec = machine_spec(boot_data=v1.BootData(meta_data=text))
    with pytest.raises(InvalidSpecError, match=r"boot_data\.meta_data") as refusal:
        iso(spec, MACS)
    assert text.strip() not in str(refusal.value)


@given(st.text(max_size=400), st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_whatever_is_in_it_comes_out_again(user_data: str, hostname: str) -> None:
    try:
        user_data.encode()
    except UnicodeEncodeError:
        return
    spec = machine_spec(boot_data=v1.BootData(user_data=user_data or "#cloud-config", hostname=hostname or "x"))
    files = read_back(iso(spec, MACS))
    assert files["user-data"] == (user_data or "#cloud-config")
    assert yaml.safe_load(files["meta-data"])["local-hostname"] == (hostname or "x")


def test_small_isos_are_padded() -> None:
    """Tools that look for labels read the first 68 KiB of a device and give up on a smaller one."""
    assert len(iso(machine_spec(boot_data=v1.BootData(hostname="x")), {})) > 68 * 1024


@pytest.mark.parametrize("text", ["a: 2001-13-01", "a: " + "9" * 5000, "[" * 5000])
def test_metadata_that_yaml_itself_cannot_read_is_refused(text: str) -> None:
    """PyYAML raises more than errors of its own."""
    with pytest.raises(InvalidSpecError, match=r"boot_data\.meta_data"):
        iso(machine_spec(boot_data=v1.BootData(meta_data=text)), {})
