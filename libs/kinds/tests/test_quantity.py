"""Quantities: exact, rounded up, refused with a reason."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import quantity

POWERS = {"n": (10, -9), "u": (10, -6), "m": (10, -3), "": (10, 0), "k": (10, 3), "M": (10, 6), "G": (10, 9)}
POWERS |= {"T": (10, 12), "P": (10, 15), "E": (10, 18), "Ki": (2, 10), "Mi": (2, 20), "Gi": (2, 30), "Ti": (2, 40)}
POWERS |= {"Pi": (2, 50), "Ei": (2, 60)}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0", 0),
        ("4Gi", 4294967296),
        ("40Gi", 42949672960),
        ("512Mi", 536870912),
        ("1.5Gi", 1610612736),
        (".5Ki", 512),
        ("1.Ki", 1024),
        ("+1k", 1000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("1E3", 1000),
        ("1e3", 1000),
        ("1e-1", 1),
        ("500m", 1),
        ("1500m", 2),
        ("1n", 1),
        ("0.1Ki", 103),
        ("-1.5", -2),
        ("-4Gi", -4294967296),
        ("9223372036854775807", 2**63 - 1),
        (1024, 1024),
        (-3, -3),
    ],
)
def test_a_quantity_is_read_exactly(text: str | int, want: int) -> None:
    assert quantity.parse(text) == want


BAD = [
    "",
    " ",
    "4 Gi",
    "4GiB",
    "4gi",
    "4ki",
    "4K",
    "Gi",
    ".",
    "1e",
    "1e3Ki",
    "1_000",
    "--1",
    "0x10",
    "٣",
    "4Gi\n",
    "nan",
    "inf",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_text_is_refused_with_the_value_and_the_syntax(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        quantity.parse(text)
    assert repr(text) in str(caught.value)
    assert '"512Mi"' in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["9223372036854775808", "8Ei", "1e9999", "-1e30", 2**63, 1 << 20000],
    ids=lambda value: type(value).__name__,
)
def test_beyond_64_bits_is_refused_not_capped(value: str | int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        quantity.parse(value)


@pytest.mark.parametrize("value", [True, 1.5, None, ["4Gi"], "1" * 5000])
def test_what_a_manifest_may_hold_instead_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        quantity.parse(value)  # type: ignore[arg-type]  # a wrong type is the point


def test_a_fraction_survives_in_decimal() -> None:
    assert quantity.parse_decimal("250m") == Decimal("0.25")
    assert quantity.parse_decimal("-1n") == Decimal("-0.000000001")


@given(st.integers(-(10**15), 10**15), st.integers(0, 12), st.sampled_from(sorted(POWERS)))
def test_any_number_and_suffix_agree_with_rational_arithmetic(digits: int, places: int, suffix: str) -> None:
    text = f"{abs(digits):0{places + 1}d}"
    number = f"{text[: len(text) - places]}.{text[len(text) - places :]}" if places else text
    base, power = POWERS[suffix]
    exact = Fraction(abs(digits), 10**places) * Fraction(base) ** power
    value = ("-" if digits < 0 else "") + number + suffix
    if exact > quantity.LIMIT:
        with pytest.raises(ValueError):
            quantity.parse(value)
        return
    assert Fraction(quantity.parse_decimal(value)) == (-exact if digits < 0 else exact)
    assert abs(quantity.parse(value)) == -(-exact.numerator // exact.denominator)


@given(
    st.integers(-quantity.LIMIT, quantity.LIMIT)
    | st.builds(lambda n, p: n * 1024**p, st.integers(-7, 7), st.integers(0, 6))
)
def test_what_is_written_reads_back_the_same(n: int) -> None:
    assert quantity.parse(quantity.format_binary(n)) == n


@pytest.mark.parametrize(
    ("n", "want"),
    [(0, "0"), (4294967296, "4Gi"), (1024, "1Ki"), (1000, "1000"), (1536 * 2**20, "1536Mi"), (-(2**40), "-1Ti")],
)
def test_the_largest_exact_binary_suffix_is_used(n: int, want: str) -> None:
    assert quantity.format_binary(n) == want


@given(st.text())
def test_any_text_is_read_or_refused_with_value_error(text: str) -> None:
    try:
        outcome: int | str = quantity.parse(text)
    except ValueError as error:
        outcome = str(error)
    if isinstance(outcome, int):
        assert abs(outcome) <= quantity.LIMIT
    else:
        assert outcome.startswith("quantity ")
