"""The stamp in a description: whatever people write beside it."""

from __future__ import annotations

import pytest
from common import v1
from common.errors import InvalidSpecError
from hypothesis import given
from hypothesis import strategies as st
from provider_proxmox import stamp

IDENTITY = v1.MachineIdentity(uid="7a1e2f30-0000-4000-8000-000000000001", namespace="shop", name="web", owner="home")


@given(text=st.text(max_size=500), name=st.text(max_size=60), word=st.text(max_size=60))
def test_reads_back_what_was_written(text: str, name: str, word: str) -> None:
    """Neither the text for people nor a name can break the stamp, or be taken for one."""
    ours = stamp.Stamp(uid="u", owner="o", namespace="n", name=name, settings={word: name})
    seen, found = stamp.read(stamp.written(text, ours))
    assert (seen, found) == (text, ours)


@pytest.mark.parametrize(
    "text", ["", "web server of the shop", "<!-- virtrigaud -->", "<!-- virtrigaud {} -->", "a\n\n"]
)
def test_description_without_a_stamp(text: str) -> None:
    """What others wrote is theirs, even where it looks like ours."""
    assert stamp.read(text) == (text, None)


def test_text_that_people_add_after_it_is_kept() -> None:
    """A note below the comment is still text for people."""
    ours = stamp.of(IDENTITY, 101, created=7)
    text, found = stamp.read(stamp.written("before", ours) + "\nafter")
    assert (text, found) == ("before\nafter", ours)


def test_no_comment_end_inside_of_the_json() -> None:
    """A name with two hyphens would end the comment for a reader of HTML."""
    whole = stamp.written("", stamp.Stamp(uid="u", owner="o", namespace="n", name="a--b-->c"))
    assert whole.count("-->") == 1
    assert "--" not in whole.removeprefix("<!--").removesuffix("-->")


def test_refuses_what_proxmox_would_not_keep() -> None:
    """A cut record would lose the machine."""
    with pytest.raises(InvalidSpecError, match="8192"):
        stamp.written("x" * 8100, stamp.of(IDENTITY, 101, created=0))
