"""The cluster: its API with fail-over, its tasks, and its inventory in memory."""
