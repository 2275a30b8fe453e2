"""Provider and VMImage: each field of the spec changes what is done, is refused by name, or is reported."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from common.clock import ManualClock, SystemClock
from common.errors import InvalidSpecError, NotSupportedError
from common.pki import Authority
from common.tls import CONTROLLER
from controller.fields import ADOPT, IMAGE, PROVIDER, image_reports, provider_reports, wish_of
from controller.images import FIRST_RETRY, Attempts, Registry
from controller.imagesources import digest_of, request_for
from controller.providers import health_policy, limits
from controller.runtime.external import ExternalRuntime
from controller.runtime.process import ProcessRuntime, ProcessSettings
from kinds.compose import Defaults
from kinds.provider import Provider
from kinds.vmimage import VMImage

pytestmark = pytest.mark.asyncio(loop_scope="session")
META = {"name": "x", "namespace": "ns", "uid": "u-1", "generation": 1}
ELSEWHERE = {
    "Provider spec.consumerNamespaceSelector": "read when a reference is resolved (test_W70_...)",
    "Provider spec.runtime.mode": "picks the runtime",
    "VMImage spec.consumerNamespaceSelector": "read when a reference is resolved (test_W70_...)",
    "VMImage spec.distribution": "text for people",
    "VMImage spec.metadata": "text for people",
    "VMImage spec.prepare.retries": "test_retries_are_a_budget_that_an_edit_renews",
    "VMImage spec.prepare.onMissing": "test_on_missing_fail_and_wait",
}
"""Fields that work at another place than the ones compared here."""
SAMPLES: dict[str, Any] = {
    "spec.runtime.env": [{"name": "VIRTRIGAUD_POOL", "value": "fast"}],
    "spec.runtime.address": "192.0.2.1:9443",
    "spec.prepare.timeout": "7m",
    "spec.endpoint": "qemu:///session",
    "spec.source.proxmox.templateID": 900,
}
BESIDE: dict[str, Any] = {
    "spec.source.http.checksum": {},
    "spec.source.http.checksumType": {"checksum": "00"},
    "spec.source.libvirt.checksumType": {"checksum": "00"},
    "spec.source.vsphere.checksumType": {"checksum": "00"},
    "spec.prepare.validateChecksum": {},
}
"""What must stand beside a field for it to mean something."""


class Vault:
    """Secrets that hold whatever is asked for."""

    async def get(self, namespace: str, name: str, where: str) -> dict[str, bytes]:
        return {key: name.encode() for key in ("tls.crt", "tls.key", "ca.crt")}

    async def credentials(self, namespace: str, name: str, where: str) -> dict[str, bytes]:
        return {"password": name.encode()}

    async def text(self, namespace: str, name: str, keys: tuple[str, ...], where: str) -> str:
        return f"{name}.{keys[0]}"

    credential = text


def bare(info: Any) -> Any:
    """Without annotations and without None."""
    while True:
        if isinstance(info, msgspec.inspect.Metadata):
            info = info.type
        elif isinstance(info, msgspec.inspect.UnionType):
            info = next(each for each in info.types if not isinstance(each, msgspec.inspect.NoneType))
        else:
            return info


def leaves(info: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Each leaf of a Struct: path, type, default."""
    for each in info.fields:
        inner, where = bare(each.type), f"{path}.{each.encode_name}"
        if isinstance(inner, msgspec.inspect.StructType):
            yield from leaves(inner, where)
        else:
            yield where, inner, None if each.default is msgspec.NODEFAULT else each.default


def cases() -> Iterator[Any]:
    for kind in (Provider, VMImage):
        spec = next(each for each in msgspec.inspect.type_info(kind).fields if each.name == "spec").type
        for path, info, default in leaves(bare(spec), "spec"):
            for mode in ("Process", "External") if kind is Provider else ("libvirt", "vsphere"):
                yield pytest.param(kind, path, info, default, mode, id=f"{kind.__name__} {path} {mode}")


def sample(path: str, info: Any, default: Any) -> Any:
    """A valid value that is not the default."""
    if path in SAMPLES:
        return SAMPLES[path]
    match info:
        case msgspec.inspect.LiteralType(values=values):
            return next(value for value in values if value != default)
        case msgspec.inspect.IntType():
            return (default or 1) + 1
        case msgspec.inspect.BoolType():
            return not default
        case msgspec.inspect.StrType():
            return "https://images.example/x.ova" if path.lower().endswith("url") else "11s"
        case msgspec.inspect.ListType():
            return [{"name": "x"}]
        case _:
            return {"key": "value"}


def least(kind: type, path: str) -> dict[str, Any]:
    """The least spec that the field can stand in."""
    if kind is Provider:
        return {"type": "libvirt", "endpoint": "qemu:///system"}
    blocks = {
        "libvirt": {} if path.endswith(("libvirt.url", "libvirt.path")) else {"path": "a.qcow2"},
        "http": {"url": "http://images.example/a"},
        "registry": {"image": "images.example/a:1"},
        "dataVolume": {"name": "d"},
        "proxmox": {} if "template" in path else {"templateName": "t"},
        "vsphere": {"ovaURL": "https://images.example/a.ova"},
    }
    if "contentLibrary" in path:
        return {"source": {"vsphere": {"contentLibrary": {"item": "i", "library": "l"}}}}
    if "templateName" in path and "vsphere" in path:
        return {"source": {"vsphere": {"ovaURL": "https://images.example/a.ova"}}}
    block = next((name for name in blocks if f"source.{name}." in path), "http")
    found = {"source": {block: {**blocks[block], **BESIDE.get(path, {})}}}
    if path == "spec.prepare.validateChecksum":
        found["source"]["http"]["checksum"] = "00"
    if "authentication" in path:
        kind_of = path.split(".")[4]
        found["source"]["http"]["authentication"] = {kind_of: {"secretRef": {"name": "first"}}}
    return found


def with_field(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    *parents, last = path.split(".")[1:]
    at = copied
    for part in parents:
        at = at.setdefault(part, {"name": "n"} if part.endswith("Ref") else {})
    at[last] = value
    return copied


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProcessRuntime, ExternalRuntime]:
    home = tmp_path_factory.mktemp("home")
    authority = Authority.create(home / "ca")
    client = authority.issue(home / "client", CONTROLLER)
    settings = ProcessSettings(home / "run", home / "logs", home / "images", "owner")
    vault: Any = Vault()
    process = ProcessRuntime(settings, authority, client, vault, SystemClock(), random.Random(1), lambda _: None)
    return process, ExternalRuntime(vault, home / "external", client)


async def effect(item: Any, mode: str, runtimes: tuple[ProcessRuntime, ExternalRuntime]) -> object:
    """Everything that the controller does with the object, as far as the spec decides it."""
    process, external = runtimes
    if isinstance(item, VMImage):
        kind = next((k for k in ("libvirt", "vsphere", "proxmox") if getattr(item.spec.source, k)), mode)
        secrets: Any = Vault()
        request = await request_for(item, kind, "owner", secrets, check_only=False)
        return request, digest_of(item)
    server: object = await external.ensure(item) if mode == "External" else await process._wish(item)
    if mode == "External" and (target := getattr(server, "target", None)) is not None and target.tls is not None:
        server = (target.address, target.tls.cert, target.tls.cert.read_bytes())
    return server, limits(item), health_policy(item), Defaults.of(item)


async def outcome(item: Any, mode: str, runtimes: tuple[ProcessRuntime, ExternalRuntime]) -> tuple[object, str]:
    """The effect, or the words of the refusal."""
    try:
        return await effect(item, mode, runtimes), ""
    except (NotSupportedError, InvalidSpecError, ValueError) as refusal:
        return None, str(refusal)


@pytest.mark.parametrize(("kind", "path", "info", "default", "mode"), list(cases()))
async def test_W14_W24_W29_every_field_is_used_or_reported(
    kind: type, path: str, info: Any, default: Any, mode: str, runtimes: tuple[ProcessRuntime, ExternalRuntime]
):
    """Args: mode: of the runtime for Providers, type of the provider for VMImages."""
    name = f"{kind.__name__} {path}"
    if any(name == known or name.startswith(f"{known}.") for known in ELSEWHERE):
        return
    if (mode, path) == ("External", "spec.endpoint"):
        return  # a note for people about the server that runs already
    base = least(kind, path)
    if kind is Provider:
        base["runtime"] = {"address": "192.0.2.2:9443"} if mode == "External" else {}
    if "prepare.storage" in path and mode not in path and "storage." in path.replace("prepare.storage", ""):
        return  # where it is stored on providers of another type
    before: Any = msgspec.convert({"metadata": META, "spec": base}, kind)
    spec = with_field(base, path, sample(path, info, default))
    after: Any = msgspec.convert({"metadata": META, "spec": spec}, kind)
    reports = image_reports(after) if kind is VMImage else provider_reports(after, mode)
    if any(path == report.field or path.startswith(f"{report.field}.") for report in reports):
        assert wish_of(reports)[0].status == "True"
        return
    done, refusal = await outcome(after, mode, runtimes)
    if refusal:
        assert path.split(".")[2 if kind is VMImage else 1] in refusal
        return
    without, refusal = await outcome(before, mode, runtimes)
    if refusal:
        return  # it was needed
    assert done != without or msgspec.to_builtins(after.spec) == msgspec.to_builtins(before.spec), f"{name} is dropped"


async def test_the_tables_name_fields_that_exist():
    for kind, table in ((Provider, PROVIDER), (VMImage, IMAGE)):
        spec = next(each for each in msgspec.inspect.type_info(kind).fields if each.name == "spec").type
        known = [path for path, _, _ in leaves(bare(spec), "spec")]
        for entry in table:
            assert any(path == entry or path.startswith(f"{entry}.") for path in known), entry


async def test_an_unverified_certificate_is_a_wish_that_vsphere_can_have():
    def told(kind: str, mode: str) -> list[str]:
        spec = {"type": kind, "endpoint": "https://vc.example", "insecureSkipVerify": True}
        item = msgspec.convert({"metadata": META, "spec": spec}, Provider)
        return [report.message for report in provider_reports(item, mode) if "insecure" in report.field]

    assert told("vsphere", "Process") == []
    assert told("vsphere", "External") == ["the server runs already and has settings of its own"]
    assert "certificates are always verified" in told("libvirt", "Process")[0]


async def test_defaults_of_the_schema_are_no_wish():
    blocks = {"runtime": {"service": {"tls": {}}}, "connectionPooling": {}, "healthCheck": {}, "topology": "single"}
    spec = {"type": "libvirt", "endpoint": "qemu:///system", **blocks}
    provider = msgspec.convert({"metadata": META, "spec": spec}, Provider)
    prepare: dict[str, Any] = {"optimization": {}, "storage": {"libvirt": {}}}
    image = msgspec.convert(
        {"metadata": META, "spec": {"source": {"libvirt": {"path": "a"}}, "prepare": prepare}}, VMImage
    )
    for mode in ("Process", "External", "Kubernetes"):
        assert provider_reports(provider, mode) == []
    assert image_reports(image) == []
    assert wish_of([]) == []


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"http": {"url": "http://a.example/a"}, "dataVolume": {"name": "d"}}, "spec.source.dataVolume"),
        ({"proxmox": {"templateID": 100, "templateName": "t"}}, "spec.source.proxmox.templateName"),
        ({"vsphere": {"templateName": "t", "ovaURL": "https://a.example/a.ova"}}, "spec.source.vsphere.ovaURL"),
    ],
)
async def test_of_several_ways_the_unused_one_is_named(source: dict[str, Any], field: str):
    assert [report.field for report in image_reports(image_of(source=source))] == [field]


async def test_a_certificate_is_not_used_for_plain_text():
    runtime = {
        "mode": "External",
        "address": "192.0.2.1:1",
        "service": {"tls": {"enabled": False, "secretRef": {"name": "s"}}},
    }
    spec = {"type": "fake", "endpoint": "fake://local", "runtime": runtime}
    provider = msgspec.convert({"metadata": META, "spec": spec}, Provider)
    assert [r.field for r in provider_reports(provider, "External")] == ["spec.runtime.service.tls.secretRef.name"]


async def test_the_wish_to_adopt_is_answered():
    meta = {**META, "annotations": {ADOPT: "true"}}
    provider = msgspec.convert({"metadata": meta, "spec": {"type": "fake", "endpoint": "fake://local"}}, Provider)
    (told,) = wish_of(provider_reports(provider, "Process"))
    assert (told.reason, told.message) == (
        "NotSupportedYet",
        "metadata.annotations[virtrigaud.io/adopt-vms]: adopting machines is not supported yet",
    )


def image_of(**spec: Any) -> VMImage:
    body = {"source": {"http": {"url": "http://images.example/a", "checksum": "AB", "timeout": "5m"}}, **spec}
    return msgspec.convert({"metadata": META, "spec": body}, VMImage)


@pytest.mark.parametrize(("limit", "seconds"), [("2m", 120), ("30m", 300)])
async def test_the_shorter_timeout_counts(limit: str, seconds: int):
    secrets: Any = Vault()
    request = await request_for(image_of(prepare={"timeout": limit}), "libvirt", "o", secrets, check_only=False)
    assert request.source.url.timeout.total_seconds() == seconds
    with pytest.raises(InvalidSpecError, match=r"prepare\.timeout"):
        await request_for(image_of(prepare={"timeout": "0s"}), "libvirt", "o", secrets, check_only=False)


async def test_a_checksum_is_verified_unless_told_otherwise():
    secrets: Any = Vault()
    verified = image_of(prepare={})
    trusted = image_of(prepare={"validateChecksum": False})
    request = await request_for(verified, "libvirt", "o", secrets, check_only=False)
    assert (request.source.checksum.algorithm, request.source.checksum.digest) == ("sha256", "ab")
    assert (await request_for(trusted, "libvirt", "o", secrets, check_only=False)).source.checksum is None
    assert digest_of(trusted) != digest_of(verified)


async def test_each_provider_gets_its_own_storage():
    storage = {"libvirt": {"storagePool": "fast"}, "vsphere": {"datastore": "ds1"}}
    image, secrets = image_of(prepare={"storage": storage}), Vault()
    found = {
        kind: (await request_for(image, kind, "o", secrets, check_only=False)).storage  # type: ignore[arg-type]
        for kind in ("libvirt", "vsphere", "proxmox")
    }
    assert found == {"libvirt": "fast", "vsphere": "ds1", "proxmox": ""}


async def test_a_snapshot_is_one_of_a_template():
    def image(**source: str) -> VMImage:
        return msgspec.convert({"metadata": META, "spec": {"source": {"vsphere": source}}}, VMImage)

    named = image(templateName="golden", snapshotName="patched")
    request = await request_for(named, "vsphere", "o", Vault(), check_only=True)  # type: ignore[arg-type]
    assert (request.source.template.name, request.source.template.snapshot) == ("golden", "patched")
    with pytest.raises(InvalidSpecError, match="set templateName, too"):
        await request_for(image(snapshotName="patched"), "vsphere", "o", Vault(), check_only=True)  # type: ignore[arg-type]


async def test_retries_are_a_budget_that_an_edit_renews():
    clock = ManualClock()
    attempts, image = Attempts(clock), image_of(prepare={"retries": 2})
    assert [attempts.failed(image, "p") for _ in range(3)] == [FIRST_RETRY, FIRST_RETRY * 4, None]
    assert (attempts.wait(image, "p"), attempts.wait(image, "q")) == (None, 0.0)
    edited = msgspec.structs.replace(
        image, metadata=msgspec.structs.replace(image.metadata, annotations={"again": "yes"})
    )
    assert attempts.wait(edited, "p") == 0.0
    assert attempts.failed(edited, "p") == FIRST_RETRY
    await clock.advance(4.0)
    assert attempts.wait(edited, "p") == FIRST_RETRY - 4.0  # being woken early does not spend a retry
    await clock.advance(6.0)
    assert attempts.wait(edited, "p") == 0.0
    attempts.forget("u-1", "p")
    assert attempts.failed(edited, "p") == FIRST_RETRY
    assert attempts.failed(image_of(prepare={"retries": 0}), "q") is None


async def test_without_a_budget_an_outage_ends_by_itself():
    attempts, image = Attempts(ManualClock()), image_of()
    delays = [attempts.failed(image, "p") for _ in range(1000)]
    assert delays[:5] == [10.0, 40.0, 160.0, 600.0, 600.0]
    assert delays[-1] == 600.0


async def test_a_changed_source_is_another_image():
    registry, image = Registry(), image_of()
    assert registry.get(image, "p") is None
    other = image_of(source={"http": {"url": "http://images.example/b"}})
    assert digest_of(other) != digest_of(image)
