"""A simulator of the Proxmox VE API."""
