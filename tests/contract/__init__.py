"""The contract suite: what every provider owes its callers, asked over real gRPC. See docs/writing-a-provider.md."""
