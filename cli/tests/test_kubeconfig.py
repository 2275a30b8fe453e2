"""Whom to speak to: kubectl's rules for kubeconfig files."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from vrtg.failures import CommandError, UnreachableError, UsageError
from vrtg.home import Home
from vrtg.kubeconfig import choose

CONFIG = """
current-context: one
clusters:
- {name: c, cluster: {server: "https://10.0.0.1:6443/", certificate-authority: ca.crt}}
users:
- {name: u, user: {token: secret-token}}
- {name: file, user: {tokenFile: token}}
- {name: plugin, user: {exec: {command: sh, args: ["-c", 'echo "{\\"status\\":{\\"token\\":\\"fresh\\"}}"']}}}
- {name: broken, user: {exec: {command: "false"}}}
- {name: missing, user: {exec: {command: no-such-plugin, installHint: "get it at example.com"}}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: shop}}
- {name: two, context: {cluster: c, user: file}}
- {name: plugin, context: {cluster: c, user: plugin}}
- {name: broken, context: {cluster: c, user: broken}}
- {name: missing, context: {cluster: c, user: missing}}
- {name: dangling, context: {cluster: nope, user: u}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return Home(tmp_path / "home")


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "ca.crt").write_bytes(b"PEM")
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "config").write_text(CONFIG)
    return str(tmp_path / "config")


def test_the_current_context_gives_server_user_and_namespace(home: Home, config: str) -> None:
    target = choose(home, config, None)
    assert (target.server, target.namespace, target.ca) == ("https://10.0.0.1:6443", "shop", b"PEM")
    assert target.authorization == "Bearer secret-token"
    assert "secret-token" not in repr(target)


@pytest.mark.parametrize(("context", "token"), [("two", "Bearer from-file"), ("plugin", "Bearer fresh")])
def test_tokens_come_from_files_and_plugins(home: Home, config: str, context: str, token: str) -> None:
    assert choose(home, config, context).authorization == token


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ("nope", "known: broken, dangling"),
        ("dangling", 'names cluster "nope"'),
        ("broken", "gave no credentials"),
        ("missing", "get it at example.com"),
    ],
)
def test_what_does_not_fit_is_named(home: Home, config: str, context: str, sentence: str) -> None:
    with pytest.raises(CommandError) as failure:
        choose(home, config, context)
    assert sentence in str(failure.value)


def test_the_embedded_stack_is_the_default_and_others_come_before_it(
    home: Home, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreachableError, match="vrtg up"):
        choose(home, None, None)
    home.root.mkdir()
    home.kubeconfig.write_text(CONFIG.replace("10.0.0.1", "10.0.0.2").replace("certificate-authority: ca.crt", ""))
    chosen = choose(home, None, None)
    assert (chosen.server, chosen.embedded) == ("https://10.0.0.2:6443", True)
    monkeypatch.setenv("KUBECONFIG", f"{config}:{tmp_path / 'not-there'}")
    assert (choose(home, None, None).server, choose(home, None, None).embedded) == ("https://10.0.0.1:6443", False)


@pytest.mark.parametrize("text", ["a: [", "text", "clusters: {", "\x00"])
def test_an_unreadable_file_is_a_usage_error(home: Home, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(UsageError, match="bad"):
        choose(home, str(tmp_path / "bad"), None)


def test_bad_base64_is_named(home: Home, tmp_path: Path) -> None:
    data = base64.b64encode(b"x").decode()
    text = CONFIG.replace("certificate-authority: ca.crt", "certificate-authority-data: '%%%'")
    (tmp_path / "bad").write_text(text)
    with pytest.raises(UsageError, match="not base64"):
        choose(home, str(tmp_path / "bad"), None)
    (tmp_path / "good").write_text(text.replace("%%%", data))
    assert choose(home, str(tmp_path / "good"), None).ca == b"x"


@pytest.mark.parametrize(
    "text",
    ["clusters: true", "contexts: [x]", "users: [{name: u, user: [a]}]", "[" * 100_000, "a: 2001-13-01", "a: '"],
)
def test_a_file_of_another_shape_is_refused_without_its_content(home: Home, tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd"
    path.write_text(f"note: secret-token\n{text}")
    with pytest.raises(UsageError, match="kubeconfig") as refusal:
        choose(home, str(path), None)
    assert "secret-token" not in str(refusal.value)
