"""How the API is reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from controller.api import connect

KUBECONFIG = """apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://api.example:6443"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {token: secret}}]
"""


@pytest.mark.parametrize(
    ("proxy", "exempt", "looked_for"),
    [("", "", False), ("http://proxy.example:3128", "", True), ("http://proxy.example:3128", "api.example", False)],
)
async def test_proxies_are_looked_for_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, exempt: str, looked_for: bool
) -> None:
    """Looking costs a fifth of what a request costs: the environment and ~/.netrc are read anew for each."""
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", exempt)
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    async with connect(str(file)) as api:
        assert api._session.trust_env is looked_for
