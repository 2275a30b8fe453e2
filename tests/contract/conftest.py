"""Readable assertions in the contract classes, which are not test modules themselves."""

import pytest

for module in ("subject", "machines", "capabilities", "watching", "images", "operations", "server", "consoles"):
    pytest.register_assert_rewrite(f"{__package__}.{module}")
