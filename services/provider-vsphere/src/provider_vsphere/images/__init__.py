"""What machines are made from: templates, snapshots, and packages that become templates."""
