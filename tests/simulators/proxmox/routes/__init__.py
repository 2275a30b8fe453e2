"""What the API answers, one module per noun; importing this package fills the table in `calls.py`."""

from . import access, cluster, nodes, pools, storage, storages, tasks

__all__ = ["access", "cluster", "nodes", "pools", "storage", "storages", "tasks"]
