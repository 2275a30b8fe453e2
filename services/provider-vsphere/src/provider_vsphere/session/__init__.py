"""What speaks to vSphere: one login, its inventory in memory, tasks, files and the REST interface."""
