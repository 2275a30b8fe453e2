"""What is on disks, and first-boot data."""
