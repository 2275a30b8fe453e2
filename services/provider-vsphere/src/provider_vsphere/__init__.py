"""The vSphere provider: vCenter and standalone ESXi through pyvmomi."""
