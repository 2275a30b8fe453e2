"""Measures: what we claim about speed, taken on real parts, beside what it is to be compared with."""
