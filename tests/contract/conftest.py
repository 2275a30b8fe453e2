"""Readable assertions in the contract classes, which are not test modules themselves."""

import pytest

for module in (
    "subject", "machines", "capabilities", "watching", "images", "operations", "server", "consoles", "snapshots",
    "clones", "adoption",
):  # fmt: skip
    pytest.register_assert_rewrite(f"{__package__}.{module}")
