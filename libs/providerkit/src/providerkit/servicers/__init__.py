"""One servicer per service of the contract: they translate, and decide nothing."""
