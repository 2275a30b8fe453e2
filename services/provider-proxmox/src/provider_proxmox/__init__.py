"""The VirtRigaud provider for Proxmox VE."""
