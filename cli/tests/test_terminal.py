"""What reaches the terminal: aligned, and harmless."""

from __future__ import annotations

import pytest
from vrtg.terminal import age, clean, table


def test_columns_are_aligned_without_trailing_blanks() -> None:
    text = table(["NAME", "PHASE"], [["a", "Running"], ["longer", ""]])
    assert text.splitlines() == ["NAME     PHASE", "a        Running", "longer"]


def test_control_characters_of_others_do_not_reach_the_terminal() -> None:
    """A guest's hostname could otherwise rewrite the screen."""
    assert "\x1b" not in clean("\x1b[2Jweb\x07")
    assert "\x1b" not in table(["A"], [["\x1b]0;title\x07"]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (119, "119s"), (120, "2m"), (330, "5m30s"), (3600, "60m"), (4 * 3600 + 60, "4h1m"), (100 * 3600, "4d")],
)
def test_ages_read_like_those_of_kubectl(seconds: float, text: str) -> None:
    assert age(seconds) == text
