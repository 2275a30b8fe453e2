"""vrtg, the VirtRigaud command line."""
