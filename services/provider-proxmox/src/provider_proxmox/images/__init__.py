"""What machines are made from."""
