"""Watches infra.virtrigaud.io objects and hands desired state to providers."""
