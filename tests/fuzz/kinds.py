"""The Kubernetes kinds: quantities, durations, manifests as people write them, objects as the API gives them."""

from __future__ import annotations

import email
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec
import yaml
from common import v1, wire
from common.errors import InvalidSpecError
from kinds import codec, duration, manifests, quantity, registry
from kinds.codec import BadObject
from kinds.compose import BootSources, Defaults, compose
from kinds.metadata import Resource
from kinds.virtualmachine import VirtualMachine
from kinds.vmclass import VMClass
from kinds.vmnetworkattachment import VMNetworkAttachment
from providerkit import violations

from fuzz.registry import CANARY, UnfitError, target, text
from fuzz.shapes import value

EXAMPLES = Path(__file__).parents[2] / "examples"
QUANTITIES = ("4Gi", "512Mi", "1.5G", "500m", "1e3", "-1", "+2Ki", ".5", "1E", "1Ei", "9223372036854775807", "1e-3")
DURATIONS = ("1h30m", "1.5s", "100ms", "0", "-5m", "3µs", "2562047h", "1ns", ".5h")


@target("kinds.quantity", QUANTITIES, refuses=(ValueError,), inputs=600)
def a_quantity(data: bytes, parse: Callable[[str], int] = quantity.parse) -> None:
    """A number of 64 bits, rounded away from zero, that writes and reads back."""
    given = text(data)
    found, exact = parse(given), quantity.parse_decimal(given)
    assert abs(found) < 1 << 63
    assert abs(Fraction(exact)) <= abs(found) < abs(Fraction(exact)) + 1
    assert parse(quantity.format_binary(found)) == found


@target("kinds.duration", DURATIONS, refuses=(ValueError,), inputs=600)
def a_duration(data: bytes) -> None:
    """Seconds that write and read back, to the nanosecond as far as a float holds them."""
    seconds = duration.parse(text(data))
    assert abs(seconds) < 1e10
    assert abs(duration.parse(duration.format(seconds)) - seconds) <= max(1e-9, abs(seconds) * 1e-15)


MANIFESTS = [path.read_bytes() for path in sorted(EXAMPLES.rglob("*.yaml"))[:12]]
MANIFEST = f"""{{"apiVersion": "v1", "kind": "List", "items": [{{"apiVersion": "infra.virtrigaud.io/v1beta1",
"kind": "VirtualMachine", "metadata": {{"name": "web"}}, "spec": {{"powerState": "On", "x": "{CANARY}"}}}}]}}"""
ALIASES = (
    "apiVersion: v1\nkind: Secret\nmetadata: &m {name: a, labels: {b: c}}\nstringData: {x: kanarienvogel-4711}\nn: *m\n"
)


@target("kinds.manifest", [*MANIFESTS, MANIFEST, ALIASES], refuses=(manifests.ManifestError,), secret=True, inputs=400)
def manifest(data: bytes, load: Callable[[str], manifests.Loaded] = manifests.load) -> None:
    """Documents that can be sent as JSON, with a name each; a refusal quotes keys and never a value."""
    for document in load(text(data)).documents:
        assert document.kind
        assert document.name
        assert document.api_version
        assert document.line >= 1
        json.dumps(document.raw, allow_nan=False).encode()


def _objects() -> list[bytes]:
    found = []
    for each in MANIFESTS:
        found += [json.dumps(one, default=str).encode() for one in yaml.safe_load_all(each) if one]
    return found[:40]


@target("kinds.object", _objects(), inputs=700)
def an_object(data: bytes, decode: Callable[[type[Resource], bytes], Resource | BadObject] = codec.decode) -> None:
    """An object of any kind is read whole, or is a bad one whose error names why; what is read can be written."""
    for kind in registry.KINDS.values():
        found = decode(kind.model, data)
        if isinstance(found, BadObject):
            assert found.error
        else:
            codec.encode(found)


# -- composing a machine -----------------------------------------------------------------------------------------------

META = {"name": "web", "namespace": "shop", "uid": "5e7f9c8e-0000-4000-8000-000000000001"}
PARTS = {
    "vm": {
        "providerRef": {"name": "p"}, "classRef": {"name": "c"}, "imageRef": {"name": "i"}, "powerState": "OffGraceful",
        "disks": [{"name": "root", "sizeGiB": 9}, {"name": "data", "sizeGiB": 1, "type": "thick", "bus": "scsi",
                   "expandPolicy": "Online", "scsi": {"controller": 1}}],
        "networks": [{"name": "lan", "networkRef": {"name": "n"}, "ipAddress": "192.0.2.7", "prefix": 24, "mtu": 1400,
                      "macAddress": "52:54:00:00:00:01", "dns": "192.0.2.53,192.0.2.54", "gateway": "192.0.2.1"}],
        "userData": {"cloudInit": {"inline": "#cloud-config\n{}"}}, "tags": ["a"], "attributes": {"k": "v"},
        "metaData": {"cloudInit": {"inline": "a: b"}}, "placement": {"datastore": "d", "host": "h"},
        "resources": {"cpu": 2, "memoryMiB": 512, "gpu": {"count": 1, "type": "a100", "memory": 1024}},
        "lifecycle": {"gracefulShutdownTimeout": "90s"}, "extraConfig": {"a.b": "c"},
        "customization": {"hostname": "web", "domain": "example.org", "timeZone": "110"},
    },
    "class": {
        "cpu": 2, "memory": "2Gi", "firmware": "UEFI", "diskDefaults": {"size": "40Gi", "type": "thin", "iops": 100},
        "performanceProfile": {"cpuHotAddEnabled": True, "latencySensitivity": "low"},
        "securityProfile": {"secureBoot": True, "tpmEnabled": True, "tpmVersion": "2.0"},
        "resourceLimits": {"cpuReservation": 100, "cpuLimit": 200, "memoryLimit": "4Gi"}, "extraConfig": {"x": "y"},
    },
    "network": {
        "network": {"type": "bridged", "libvirt": {"bridge": {"name": "br0"}}, "proxmox": {"bridge": "vmbr0"}},
        "ipAllocation": {"type": "Static", "staticConfig": {"address": "192.0.2.9/24", "gateway": "192.0.2.1",
                         "routes": [{"destination": "198.51.100.0/24", "gateway": "192.0.2.1", "metric": 7}]}},
        "qos": {"limit": "10Mi"},
    },
    "secret": "#cloud-config\npassword: kanarienvogel-4711\n",
}  # fmt: skip


@target("kinds.compose", [json.dumps(PARTS)], refuses=(InvalidSpecError,), secret=True, inputs=1500)
def composition(data: bytes) -> None:
    """Objects are refused by the path of a field, or become a machine that the kit can judge and the wire can carry."""
    given = value(data)
    given = given if isinstance(given, dict) else {}
    try:
        json.dumps(given, ensure_ascii=False).encode()
        vm = msgspec.convert({"metadata": META, "spec": given.get("vm")}, VirtualMachine)
        size = msgspec.convert({"metadata": {"name": "c"}, "spec": given.get("class")}, VMClass)
        net = msgspec.convert({"metadata": {"name": "n"}, "spec": given.get("network")}, VMNetworkAttachment)
    except (msgspec.ValidationError, OverflowError, ValueError):
        raise UnfitError from None  # it would never have been decoded
    secret = given.get("secret")
    boot = BootSources(user_data=secret if isinstance(secret, str) else None)
    nets = {nic.name: net for nic in vm.spec.networks or () if nic.network_ref is not None}
    for provider in ("libvirt", "proxmox"):
        try:
            found = compose(vm, size, "image-1", nets, boot, "owner", Defaults(provider))
        except InvalidSpecError as error:
            if not re.match(r"(VMClass |VMNetworkAttachment \S* ?)?spec[:. \[]", str(error)):
                raise AssertionError(f"names no field: {error}") from error
            raise
        sent = wire.codec(v1.MachineSpec).dumps(found.spec)
        assert wire.codec(v1.MachineSpec).loads(sent) == found.spec
        fields = set(wire.fields_by_name(v1.MachineSpec))
        assert all(re.split(r"[^a-z_]", line)[0] in fields for line in violations.check(found.spec))
        assert all(report.field and report.reason and report.message for report in found.ignored)
        if boot.user_data and found.spec.boot_data is not None:
            _check_user_data(found.spec.boot_data.user_data, boot.user_data)


def _check_user_data(whole: str, secret: str) -> None:
    """Both documents arrive as they were given; a line end may have become that of MIME."""
    if whole == secret:
        return
    message = email.message_from_string(whole)
    told = [part.get_payload(decode=True).decode() for part in message.get_payload()]
    assert secret.split() == told[-1].split()
