"""The infra.virtrigaud.io API: ten kinds as typed models, their CRDs, and how they compose a machine."""

from .registry import API_VERSION, GROUP, KINDS, VERSION, Kind

__all__ = ["API_VERSION", "GROUP", "KINDS", "VERSION", "Kind"]
