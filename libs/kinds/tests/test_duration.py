"""Durations: Go's syntax in, seconds out, and back."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import duration


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("0s", 0.0),
        ("60s", 60.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("100ms", 0.1),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("7ns", 7e-9),
        ("-1m30s", -90.0),
        ("+5s", 5.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1s1s", 2.0),
        ("0.9ns", 0.0),
        ("2562047h", 2562047 * 3600.0),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, want: float) -> None:
    assert duration.parse(text) == want


BAD = ["", "5", "s", ".s", "1.2.3s", "1 s", "1h 30m", "1d", "1S", "--1s", "1h-30m", "abc", "30s\n", "٣s", "1e3s"]


@pytest.mark.parametrize("text", BAD)
def test_bad_text_is_refused_with_the_value_and_the_syntax(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        duration.parse(text)
    assert repr(text) in str(caught.value)
    assert '"1h30m"' in str(caught.value)


@pytest.mark.parametrize("text", ["2562048h", "9223372037s"])
def test_beyond_go_s_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        duration.parse(text)


@pytest.mark.parametrize("value", [True, 30, None, "1s" * 500])
def test_what_a_manifest_may_hold_instead_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        duration.parse(value)  # type: ignore[arg-type]  # a wrong type is the point


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (0, "0s"),
        (90, "1m30s"),
        (3600, "1h0m0s"),
        (5400, "1h30m0s"),
        (1.5, "1.5s"),
        (0.0015, "1.5ms"),
        (0.00025, "250µs"),
        (7e-9, "7ns"),
        (-90, "-1m30s"),
        (61.001, "1m1.001s"),
        (1e-12, "0s"),
        (0.9999999999, "1s"),
    ],
)
def test_seconds_are_written_as_go_writes_them(seconds: float, want: str) -> None:
    assert duration.format(seconds) == want


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, 1e12])
def test_what_is_no_duration_is_not_written(seconds: float) -> None:
    with pytest.raises(ValueError, match="292 years"):
        duration.format(seconds)


MOST = 2**23 * 10**9
"""Beyond 97 days a float of seconds no longer tells two nanoseconds apart."""


@given(st.integers(-MOST, MOST))
def test_what_is_written_reads_back_to_the_nanosecond(nanoseconds: int) -> None:
    text = duration.format(nanoseconds / 10**9)
    assert round(Fraction(duration.parse(text)) * 10**9) == nanoseconds  # exact: a product of floats rounds once more
    assert re.search(duration.PATTERN, text)


PARTS = st.lists(
    st.tuples(st.integers(0, 9999), st.sampled_from(["h", "m", "s", "ms", "us", "ns"])), min_size=1, max_size=5
)


@given(PARTS)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    sizes = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert duration.parse(text) == sum(number * sizes[unit] for number, unit in parts) / 10**9


@given(st.text(alphabet="0123456789.+-hmsunµμ \n") | st.from_regex(duration.PATTERN) | st.text())
def test_the_pattern_and_the_parser_agree(text: str) -> None:
    accepted = re.fullmatch(duration.PATTERN, text) is not None and len(text) <= 100
    try:
        duration.parse(text)
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    assert accepted == (refusal == "" or "out of range" in refusal)
