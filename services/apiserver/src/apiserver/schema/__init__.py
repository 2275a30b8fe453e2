"""What a kind's objects look like: shape, defaults, validation."""
