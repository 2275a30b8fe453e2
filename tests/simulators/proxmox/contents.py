"""What a storage may hold: the kinds of content, where their files lie, and which names they may have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import PveError, bad, refused
from .images import format_of
from .world import Storage

FORMATS = ("raw", "qcow2", "vmdk")


@dataclass(frozen=True)
class Kind:
    """One kind of content.

    Attributes:
        folder: below the path of a storage of files.
        names: of files that may be uploaded or downloaded; None: none may.
        refusal: of a name that is none of these.
    """

    folder: str
    names: re.Pattern[str] | None = None
    refusal: str = "wrong file extension"


KINDS = {
    "images": Kind("images"),
    "iso": Kind("template/iso", re.compile(r"[^/]+\.(?:iso|img)", re.IGNORECASE)),
    "vztmpl": Kind("template/cache", re.compile(r"[^/]+\.tar(?:\.(?:gz|xz|zst|bz2))?")),
    "import": Kind("import", re.compile(r"[\w.-]+\.(?:ova|qcow2|raw|vmdk)"), "invalid filename or wrong extension"),
    "backup": Kind("dump"),
    "snippets": Kind("snippets"),
}
_IMAGE = re.compile(r"(?:[^/]+/)*(?:vm|base)-(?P<vmid>\d+)-[^/]+")


def kind_of(volid: str) -> str:
    """The kind of content that a volume's name tells."""
    prefix, slash, _ = volid.partition(":")[2].partition("/")
    return prefix if slash and prefix in KINDS else "images"


def path_of(storage: Storage, volid: str) -> str:
    """Where a volume lies on its node."""
    name = volid.partition(":")[2]
    if storage.files:
        kind = kind_of(volid)
        last = name.rpartition("/")[2]
        # A linked clone's name starts with its base's: 111/base-111-disk-0.qcow2/115/vm-115-disk-0.qcow2
        tail = "/".join(name.split("/")[-2:]) if kind == "images" else last
        return f"{storage.options.get('path', '/mnt/pve/' + storage.name)}/{KINDS[kind].folder}/{tail}"
    group = storage.options.get("vgname") or storage.options.get("pool") or storage.name
    return f"/dev/{'zvol/' if storage.kind == 'zfspool' else ''}{group}/{name.rpartition('/')[2]}"


def cleaned(filename: str) -> str:
    """A file's name as it is kept: its last part, with everything odd replaced."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", re.split(r"[/\\]", filename)[-1])


def volume_name(storage: Storage, content: str, filename: str) -> str:
    """The volume that a file with this name becomes.

    Raises:
        PveError: its extension does not suit the content, or the storage does not hold such.
    """
    kind, name = KINDS[content], cleaned(filename)
    if not storage.files:
        raise refused(f"can't upload to storage type '{storage.kind}'")
    if kind.names is None or not kind.names.fullmatch(name):
        raise bad(filename=kind.refusal)
    if content not in storage.content:
        raise refused(f"storage '{storage.name}' does not support '{content}' content")
    return f"{storage.name}:{content}/{name}"


def format_named(volid: str) -> str:
    """The format that lists show for a file: its extension, or the kind where that tells nothing."""
    content, name = kind_of(volid), volid.rpartition("/")[2]
    if content == "snippets":
        return "snippet"
    if content == "iso":
        return "iso"
    if content == "vztmpl":
        return {"gz": "tgz", "xz": "txz", "zst": "tzst"}.get(name.rpartition(".")[2], "tar")
    if content == "backup":
        return name.partition("_")[2].partition(".")[2] or "vma.zst"
    return name.rpartition(".")[2]


def check_image(file: Path, format: str, shown: str) -> None:
    """Refuse a file that is not of the format that its name tells.

    Args:
        shown: the path that the refusal names.
    """
    if format in ("qcow2", "vmdk") and format_of(file) != format:
        raise refused(f"qemu-img: Could not open '{shown}': Image is not in {format} format")


def owner_named(volid: str) -> int | None:
    """The guest whose image the name says it is."""
    found = _IMAGE.fullmatch(volid.partition(":")[2])
    return int(found["vmid"]) if found else None


def image_name(storage: Storage, vmid: int, filename: str) -> str:
    """The volume id of an image that is made under a name of the caller's choice.

    Raises:
        PveError: the storage's names look otherwise.
    """
    if not storage.files:
        if not re.fullmatch(rf"vm-{vmid}-[A-Za-z0-9_.-]+", filename):
            raise refused(f"illegal name '{filename}' - should be 'vm-{vmid}-*'")
        return f"{storage.name}:{filename}"
    if filename.rpartition(".")[2] not in FORMATS:
        raise PveError(400, "unable to determine image format")
    return f"{storage.name}:{vmid}/{filename}"
