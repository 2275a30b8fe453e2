"""What is around a machine and not part of its hardware."""
