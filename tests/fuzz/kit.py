"""The provider kit: image heads, first-boot data, URLs and redirects, the planner's gate against impossible specs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import yaml
from common import v1, wire
from common.errors import BrokenImageError, DownloadFailedError, ImageNotFoundError, InvalidSpecError
from providerkit import cloudinit, fetch, formats, nocloud, violations
from providerkit.formats import Format
from providerkit.planner import plan

from fuzz.registry import CANARY, UnfitError, parts, target, text, utf8

UID = "0a6b5d6e-3c1c-4a53-9d3e-0000000000a1"
IDENTITY = v1.MachineIdentity(uid=UID, namespace="shop", name="web", owner="home")


def _qcow2() -> bytes:
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 30, 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
    return (head + struct.pack(">QQQII", 0, 0, 0, 4, 104)).ljust(512, b"\0")


@target("kit.image-head", [_qcow2(), bytes(512)], bad=[b"KDMV" + bytes(508), b"<html>"], refuses=(BrokenImageError,))
def image_head(data: bytes, examine: Callable[[bytes, int, str], Format] = formats.examine) -> None:
    """A base image stands alone, and its capacity is one that a disk can have."""
    found = examine(data[: formats.HEADER_BYTES], len(data) << 11, "")
    assert found.name in ("qcow2", "raw")
    assert 0 < found.capacity <= 1 << 60
    if found.name == "qcow2":
        assert not any(data[8:16])  # no file behind it


META = f"""instance-id: other
public-keys: {{me: "ssh-ed25519 AAAA"}}
password: {CANARY}
nested: [1, 2.5, true, null, 2001-12-14, &a {{k: v}}, *a]
text: "52:54:00:46:81:97"
"""


@target("kit.meta-data", [META, "a: b", ""], refuses=(InvalidSpecError,), secret=True, inputs=500)
def meta_data(data: bytes, merge: Callable[..., str] = cloudinit.meta_data) -> None:
    """Every key of the user is there, as it was; ours are below; it reads back as what was merged."""
    given = utf8(data)
    spec = v1.MachineSpec(identity=IDENTITY, boot_data=v1.BootData(meta_data=given))
    written = merge(spec)
    merged, wanted = yaml.safe_load(written), yaml.safe_load(given) or {}
    assert {"instance-id", "local-hostname"} <= set(merged)
    told = {key: merged.get(key) for key in wanted}
    assert cloudinit.text(told) == cloudinit.text(wanted)  # not ==, which writes out every alias
    assert set(merged) == {"instance-id", "local-hostname"} | set(wanted)


@target("kit.network-config", ["192.0.2.7/24\0192.0.2.1\0192.0.2.53\0shop.example\0lan"])
def network_config(data: bytes) -> None:
    """What NICs say is YAML that reads back as it was said."""
    address, gateway, server, domain, name = (utf8(part) for part in parts(data, 5))
    wish = v1.GuestAddressing(addresses=[address], gateway4=gateway, nameservers=[server], search_domains=[domain])
    wish.routes = [v1.Route(destination=address, via=gateway, metric=7)]
    spec = v1.MachineSpec(identity=IDENTITY, nics=[v1.NicSpec(name=name, addressing=wish)])
    files = nocloud.files(spec, {name: address})
    found = yaml.safe_load(files["network-config"])["ethernets"]["nic0"]
    assert found["match"] == {"macaddress": address}
    assert found["addresses"] == [address]
    assert found["nameservers"] == {"addresses": [server], "search": [domain]}


@target("kit.first-boot", ["#cloud-config\n{}\n\0web", "\0web"], inputs=40)
def first_boot(data: bytes) -> None:
    """Any text becomes a file of the drive as it is."""
    user, name = (utf8(part) for part in parts(data, 2))
    spec = v1.MachineSpec(identity=IDENTITY, boot_data=v1.BootData(user_data=user, hostname=name))
    files = nocloud.files(spec, {})
    assert files["user-data"] == (user or "#cloud-config\n{}\n")
    assert files["user-data"].encode() in nocloud.iso(files)


URLS = ("https://images.example/d.qcow2?sig=1", "http://[2a00:1450::1]:8080/x", "http://user@example/")


@target(
    "kit.url",
    URLS[:2],
    bad=[*URLS[2:], "http://10.0.0.1/", "http://127.0.0.1/", "http://[::ffff:7f00:1]"],
    refuses=(InvalidSpecError, DownloadFailedError),
    inputs=500,
)
def url(data: bytes) -> None:
    """No URL reaches this machine itself, nor what a policy forbids; no query is repeated."""
    given = text(data)
    fetch.Policy(forbid_private=True).check_url(given)
    host = fetch.urlsplit(given).hostname
    assert host
    assert host not in ("127.0.0.1", "::1", "10.0.0.1", "169.254.169.254")


@target(
    "kit.redirect",
    ["/other?x=1", "https://cdn.example/x", "//host/x"],
    bad=["http://[::1]/"],
    refuses=(DownloadFailedError,),
)
def redirect(data: bytes) -> None:
    """A server sends nobody from https to where others read along."""
    following = fetch.redirected("https://images.example/d.qcow2?sig=1", data.decode("latin-1"))
    assert following.startswith("https:")


@target(
    "kit.file", ["README.md"], bad=["../../etc/passwd", "/etc/passwd"], refuses=(InvalidSpecError, ImageNotFoundError)
)
def file(data: bytes) -> None:
    """No path leads out of the allowed directories."""
    here = Path(__file__).parent
    assert fetch.locate(text(data), [here]).is_relative_to(here)


def _spec() -> bytes:
    addressing = v1.GuestAddressing(
        addresses=["192.0.2.7/24"], routes=[v1.Route(destination="192.0.2.0/24", via="192.0.2.1")]
    )
    spec = v1.MachineSpec(
        identity=IDENTITY, cpu=v1.CpuSpec(count=4, cores_per_socket=2), memory=v1.MemorySpec(size_bytes=1 << 30),
        disks=[v1.DiskSpec(name="root", size_bytes=8 << 30, image=v1.ImageRef(id="x")), v1.DiskSpec(name="data")],
        nics=[v1.NicSpec(name="lan", mac="52:54:00:00:00:01", addressing=addressing)], tags=["a"],
        boot_data=v1.BootData(user_data="#cloud-config"), extra_config={"vsphere.x": "1"}, attributes={"k": "v"},
        placement=v1.Placement(host="h"), power=v1.PowerSpec(state=v1.PowerState.ON), cdroms=[v1.CdromSpec(name="c")],
        gpus=[v1.GpuSpec(count=1, model="a")],
    )  # fmt: skip
    return wire.codec(v1.MachineSpec).dumps(spec)


@target("kit.spec", [_spec()], inputs=600)
def spec(data: bytes, check: Callable[..., list[str]] = violations.check) -> None:
    """Each violation begins with a field; what has none can be planned."""
    try:
        wanted = wire.codec(v1.MachineSpec).loads(data)
    except wire.DecodeError:
        raise UnfitError from None
    found = check(wanted, v1.Limits(max_cpus=8))
    fields = set(wire.fields_by_name(v1.MachineSpec))
    for line in found:
        assert line.split(":")[0].split(".")[0].split("[")[0].split(" ")[0] in fields, line
        assert line.isprintable(), line
    if not found and not wire.unknown_enums(wanted):
        plan(wanted, None, v1.Capabilities())
        assert wire.codec(v1.MachineSpec).loads(wire.codec(v1.MachineSpec).dumps(wanted)) == wanted
