"""A deterministic simulation of everything that may go wrong: see README.md here, and ADR 17."""
