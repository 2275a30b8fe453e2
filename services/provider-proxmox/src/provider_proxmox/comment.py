"""A record of ours in a description: an HTML comment at its end, which Proxmox VE's pages do not show.

A description is what creates and clones take, so that the record is there from the first moment. People see their own
text beside it, and may change that.
"""

from __future__ import annotations

import msgspec
from common.errors import InvalidSpecError

LIMIT = 8192
"""Bytes of a description. Source: the API schema of Proxmox VE 9.2."""

_CLOSE = " -->"


def written(text: str, mark: str, record: object) -> str:
    """The text for people, and the record.

    Args:
        mark: tells records of one kind from others.
        record: what msgspec can encode.
    Raises:
        InvalidSpecError: both together are longer than LIMIT.
    """
    # "--" ends a comment in some readers; JSON has another way to write a hyphen.
    json = (
        msgspec.json.encode(record).decode().replace("--", "-\\u002d").replace("<", "\\u003c").replace(">", "\\u003e")
    )
    comment = f"{_opened(mark)}{json}{_CLOSE}"
    whole = f"{text}\n\n{comment}" if text else comment
    size = len(whole.encode())
    if size > LIMIT:
        raise InvalidSpecError(
            f"description: text and record of the machine take {size} bytes, Proxmox VE keeps {LIMIT}; shorten the text"
        )
    return whole


def read(description: str, mark: str) -> tuple[str, str]:
    """The text for people and the record's JSON, empty when there is no record; what people wrote after it is text."""
    text, opened, rest = description.rpartition(_opened(mark))
    json, closed, after = rest.partition(_CLOSE)
    if not opened or not closed:
        return description, ""
    return text.removesuffix("\n\n") + after.rstrip("\n"), json


def _opened(mark: str) -> str:
    return f"<!-- {mark} "
