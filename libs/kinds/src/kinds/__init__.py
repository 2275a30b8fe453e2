"""The infra.virtrigaud.io API: ten kinds as typed models, their CRDs, and how they compose a machine."""
