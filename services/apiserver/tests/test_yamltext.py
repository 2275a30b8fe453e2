"""YAML is read as sigs.k8s.io/yaml reads it, which kubectl and kube-apiserver use."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from apiserver import yamltext

ANSWERS: dict[str, Any] = {
    "y": True, "Y": True, "yes": True, "on": True, "true": True, '"y"': "y", "yEs": "yEs",
    "n": False, "NO": False, "Off": False,
    "": None, "~": None, "null": None, "Null": None,
    "22:22": "22:22", "190:20:30": "190:20:30", "2026-01-01": "2026-01-01", "=": "=",
    "1e3": 1000, "1e+21": 1e21, "1.5e3": 1500, "12e03": 12000, "1E400": "1E400",
    ".5": 0.5, "+.5": 0.5, "5.": 5, ".": ".", ".e5": ".e5", "1_0.5": 10.5,
    "0777": 511, "00": 0, "08": 8, "0o17": 15, "0x1F": 31, "0X1f": 31, "0b101": 5, "-0b11": -3, "-0x1": -1,
    "0x": "0x", "0b2": "0b2", "1_000": 1000, "_1": "_1", "+5": 5, "-5": -5, "+": "+",
    "18446744073709551615": 18446744073709551615, "99999999999999999999": 1e20, "-9223372036854775809": -(2.0**63),
    "!!str 5": "5", '!!int "5"': 5, "!!float 5": 5, '!!bool "y"': True,
}  # fmt: skip
"""What it made of them: v1.4.0, asked."""


@pytest.mark.parametrize("text", ANSWERS)
def test_scalars(text: str):
    found = yamltext.decode(f"a: {text}\n".encode())["a"]
    assert found == ANSWERS[text]
    assert isinstance(found, bool) == isinstance(ANSWERS[text], bool)


@pytest.mark.parametrize("text", ['!!int "x"', "!!bool 1", ".nan", "+.inf"])
def test_what_it_refuses(text: str):
    with pytest.raises((ValueError, yaml.YAMLError)):
        yamltext.decode(f"a: {text}\n".encode())


@pytest.mark.parametrize("text", [each for each in ANSWERS if "!" not in each and '"' not in each])
def test_text_stays_text(text: str):
    """Nor may whoever reads what is written take it for something else."""
    assert yamltext.decode(yamltext.encode({"a": text})) == {"a": text}
