"""An embedded single-node Kubernetes API on SQLite."""
