"""What is on disks: the format, the leases, and disks read and written."""
