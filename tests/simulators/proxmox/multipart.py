"""Forms with a file, cut as narrowly as Proxmox VE cuts them.

Its parser looks for `content`, `checksum-algorithm` and `checksum` in this order, then for the file, whose part begins
with its Content-Disposition; any other order, or another header before it, is no upload for it.
Source: file_upload_multipart in PVE::APIServer::AnyEvent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import PveError

FIELDS = ("content", "checksum-algorithm", "checksum")
HEAD_BYTES = 64 << 10  # what the product keeps at most while it looks for the file
NEWLINE = rb"\r?\n"


@dataclass
class Head:
    """What stands before the file.

    Attributes:
        start: the first byte of the file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    start: int = 0


def head(data: bytes, boundary: str) -> Head:
    """Read the beginning of a form.

    Raises:
        PveError: 501, it has not the one form that is understood.
    """
    mark = rb"--" + re.escape(boundary.encode()) + NEWLINE
    begin = re.search(mark, data)
    if begin is None:
        raise failed()
    found, at = Head(), begin.start()
    for name in FIELDS:
        wanted = rb"%s.*?Content-Disposition: (.*?); name=\"%s\"" % (mark, name.encode())
        if (part := re.compile(wanted, re.DOTALL).match(data, at)) is None:
            continue
        check_disposition(part[1])
        value = re.compile(rb".*?" + NEWLINE + NEWLINE + rb"(.*?)(?=" + mark + rb")", re.DOTALL).match(data, part.end())
        if value is None:
            raise failed()
        found.fields[name] = value[1].decode(errors="replace").strip()
        at = value.end()
    form = rb"%sContent-Disposition: ([^\r\n]*?); name=\"([^\r\n]*?)\"; filename=\"([^\"]+)\"%s" % (mark, NEWLINE)
    part = re.compile(form).match(data, at)
    if part is None:
        raise failed()
    check_disposition(part[1])
    if part[2] != b"filename":
        raise PveError(501, f"wrong field name '{part[2].decode()}' for file upload, expected 'filename'")
    found.filename = part[3].decode(errors="replace").strip()
    blank = re.compile(rb"(?:[^\r\n]+" + NEWLINE + rb")*" + NEWLINE).match(data, part.end())
    if blank is None:
        raise failed()
    found.start = blank.end()
    return found


def end(tail: bytes, boundary: str) -> int:
    """Where the file ends in the last bytes of a form.

    Raises:
        PveError: 501, the form does not end.
    """
    found = re.search(rb"(?:\r?\n)?--" + re.escape(boundary.encode()) + rb"--", tail)
    if found is None:
        raise failed()
    return found.start()


def check_disposition(told: bytes) -> None:
    if told != b"form-data":
        text = told.decode(errors="replace")
        raise PveError(501, f"wrong Content-Disposition '{text}' in multipart, expected 'form-data'")


def failed() -> PveError:
    return PveError(501, "upload failed")
