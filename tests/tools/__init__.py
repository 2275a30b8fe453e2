"""Foreign programs that tests run: built here from their own sources, by name and version."""
