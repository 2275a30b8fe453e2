"""A guest as Proxmox VE writes it. Pure: no I/O."""
