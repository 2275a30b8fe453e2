"""Fuzz targets on every parser of foreign input. See README.md."""
