"""Keys of a Secret or ConfigMap that first-boot data is read from; the first that is there wins."""

from __future__ import annotations

USER_DATA_KEYS = ("userdata", "user-data", "cloud-init", "cloud-config")
META_DATA_KEYS = ("metadata", "meta-data", "meta_data")
IGNITION_KEYS = ("ignition", "userdata", "user-data", "config.ign")
