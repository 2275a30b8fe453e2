"""Images that exist: what a source refers to, and back from the image's id."""

from __future__ import annotations

import struct

import pytest
from common import v1
from common.errors import BrokenImageError, InvalidSpecError, NotSupportedError
from hypothesis import given
from hypothesis import strategies as st
from provider_proxmox.images import references, vmdk
from provider_proxmox.images.references import Reference

UID = "7a1e2f30-0000-4000-8000-000000000001"


def request(**source: object) -> v1.PrepareImageRequest:
    return v1.PrepareImageRequest(uid=UID, namespace="shop", name="small", source=v1.ImageSource(**source))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ({"template": v1.TemplateSource(name="9000")}, "template"),
        ({"template": v1.TemplateSource(name="debian-12", node="pve2", linked=True)}, "template"),
        ({"file": v1.FileSource(path="local:import/small.qcow2")}, "volume"),
        ({"file": v1.FileSource(path="local:import/small.qcow2"), "format": "qcow2"}, "volume"),
        ({"file": v1.FileSource(path="local-lvm:vm-101-disk-0"), "format": "raw"}, "volume"),
        ({"file": v1.FileSource(path="nfs:9000/base-9000-disk-0.qcow2")}, "volume"),
        ({"file": v1.FileSource(path="nfs:backup/vzdump-qemu-101-2026_01_01-00_00_00.vma.zst")}, "archive"),
    ],
)
def test_what_exists_is_referred_to(source: dict[str, object], kind: str) -> None:
    found = references.of(request(**source))
    assert found is not None
    assert found.kind == kind
    assert references.parse(found.id()) == found


@pytest.mark.parametrize("path", ["small.qcow2", "/images/small.qcow2", "a:b.qcow2", "dir:small/x.qcow2"])
def test_other_files_are_those_of_the_image_directory(path: str) -> None:
    assert references.of(request(file=v1.FileSource(path=path))) is None
    assert references.of(request(url=v1.UrlSource(url="https://images.example/nfs:import/x.qcow2"))) is None


@pytest.mark.parametrize(
    ("source", "error", "complaint"),
    [
        ({"template": v1.TemplateSource()}, InvalidSpecError, r"source\.template\.name"),
        ({"template": v1.TemplateSource(name="a\nb")}, InvalidSpecError, r"source\.template\.name"),
        ({"template": v1.TemplateSource(name="x" * 1000)}, InvalidSpecError, "too long"),
        ({"template": v1.TemplateSource(name="x", snapshot="s")}, NotSupportedError, "snapshot"),
        ({"template": v1.TemplateSource(name="x"), "checksum": v1.Checksum("sha256", "0" * 64)}, InvalidSpecError,
         "checksum"),
        ({"file": v1.FileSource(path="local:iso/debian.iso")}, InvalidSpecError, "CD drive"),
        ({"file": v1.FileSource(path="local:import/a.qcow2"), "format": "raw"}, InvalidSpecError, "is qcow2"),
        ({"file": v1.FileSource(path="local:import/a b.qcow2")}, InvalidSpecError, "no volume"),
    ],
)  # fmt: skip
def test_what_can_never_be_referred_to_is_refused(
    source: dict[str, object], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        references.of(request(**source))


@given(name=st.text(max_size=100), what=st.text(max_size=100), node=st.text(max_size=20), linked=st.booleans())
def test_every_id_can_be_read_again(name: str, what: str, node: str, linked: bool) -> None:
    reference = Reference(UID, "shop", name, "template", what, node, linked)
    assert references.parse(reference.id()) == reference


@pytest.mark.parametrize("image_id", ["", UID, f"{UID}.r", f"{UID}.rbm9uZQ", f"{UID}.0123456789abcdef", "x.rW10"])
def test_ids_of_something_else(image_id: str) -> None:
    assert references.parse(image_id) is None


def test_one_image_has_one_id() -> None:
    """Base64 can be spelled in several ways; another spelling is no image, else it would be two."""
    found = Reference(UID, "shop", "small", "template", "9000").id()
    assert references.parse(found + "=") is None


def test_a_descriptor_of_blank_lines_is_judged_as_fast_as_any() -> None:
    """Each line was looked through once for each line before it."""
    head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 2048, 128, 1, 127)
    with pytest.raises(BrokenImageError, match="no monolithicSparse"):
        vmdk.examine(head.ljust(512, b"\0") + b"\n" * 65024, "")
