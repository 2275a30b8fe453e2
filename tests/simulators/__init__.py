"""Stand-ins for hypervisors that no test machine can run; each is a product of its own with its own tests."""
