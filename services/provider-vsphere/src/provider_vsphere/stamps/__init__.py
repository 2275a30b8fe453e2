"""Whose a VM is: what we write on machines, templates and uploads in the very call that makes them."""
