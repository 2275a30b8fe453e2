"""JSONPath, selectors, ages and tokens, as tables."""

from __future__ import annotations

import pytest
from apiserver.auth import TokenFileError, Tokens
from apiserver.errors import ApiError
from apiserver.jsonpath import compile_path
from apiserver.selectors import parse_labels
from apiserver.settings import parse
from apiserver.times import age, human

OBJ = {
    "spec": {"a": {"b.c": 1}, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}, {"v": 3}]},
    "metadata": {"labels": {"app.io/x": "y"}},
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (".spec.list[0].n", ["x"]),
        (".spec.list[-1].v", [3]),
        (".spec.list[9].v", []),
        (".spec.list[*].v", [1, 2, 3]),
        (".spec.list[0:2].v", [1, 2]),
        ('.spec.list[?(@.n=="y")].v', [2]),
        (".spec.list[?(@.n=='y')].v", [2]),
        (".spec.list[?(@.v>1)].v", [2, 3]),
        (".spec.list[?(@.n)].v", [1, 2]),
        (".spec.list[?(@.n<1)].v", []),
        ("..n", ["x", "y"]),
        (".spec.a['b.c']", [1]),
        (r".spec.a.b\.c", [1]),
        (r".metadata.labels.app\.io/x", ["y"]),
        ("{.spec.list[1].n}", ["y"]),
        (".nope.nope", []),
        (".", [OBJ]),
    ],
)
def test_jsonpath(path, values):
    assert compile_path(path)(OBJ) == values


@pytest.mark.parametrize("path", [".a[", ".a[x]", "a b", ".a[?(b)]", ".a[?(@.b==c)]"])
def test_jsonpath_that_cannot_be_read(path):
    with pytest.raises(ValueError, match="cannot be read"):
        compile_path(path)


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a notin (b,c)", {"a": "c"}, False),
        ("a notin (b,c)", {}, True),
        ("a=b,x in (y,z),!q", {"a": "b", "x": "z"}, True),
        ("a=b,x in (y,z),!q", {"a": "b", "x": "z", "q": "1"}, False),
        ("n>3", {"n": "4"}, True),
        ("n<3", {"n": "4"}, False),
        ("n>3", {"n": "x"}, False),
        ("app.io/x=y", {"app.io/x": "y"}, True),
    ],
)
def test_label_selector(selector, labels, matches):
    assert all(term.matches(labels) for term in parse_labels(selector)) is matches


@pytest.mark.parametrize("selector", ["a in b", "a in (b", "=b", "a=b=c", "a,,b", "-a=b", "a=b c"])
def test_label_selector_that_cannot_be_read(selector):
    with pytest.raises(ApiError, match="parse requirement"):
        parse_labels(selector)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (600, "10m"), (3600 * 3 - 1, "179m"),
        (3600 * 3, "3h"), (3600 * 3 + 60, "3h1m"), (3600 * 8, "8h"), (3600 * 48, "2d"), (3600 * 50, "2d2h"),
        (3600 * 24 * 8, "8d"), (3600 * 24 * 800, "2y70d"), (3600 * 24 * 365 * 9, "9y"),
    ],
)  # fmt: skip
def test_ages(seconds, text):
    assert human(seconds) == text


def test_age_of_nothing():
    assert age(None, 0) == "<unknown>"
    assert age("nonsense", 0) == "<unknown>"


def test_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text('one,alice,1,"dev,ops"\n\n two ,bob,2\nthree\n')
    tokens = Tokens.load(path)
    alice = tokens.caller("Bearer one")
    assert (alice.name, alice.groups) == ("alice", ("dev", "ops", "system:authenticated"))
    assert tokens.caller("bearer two").name == "bob"
    assert tokens.caller("Bearer three").name == "admin"
    assert [tokens.caller(h) for h in ("", "Bearer", "Bearer ", "Basic one", "Bearer on", "one")] == [None] * 6


def test_a_token_file_that_is_missing(tmp_path):
    with pytest.raises(TokenFileError, match="cannot read the token file"):
        Tokens.load(tmp_path / "none")


def test_settings_come_from_flags_and_environment(tmp_path):
    for name in ("cert", "key", "tokens"):
        (tmp_path / name).write_text("x")
    env = {
        "VIRTRIGAUD_APISERVER_TLS_CERT": str(tmp_path / "cert"),
        "VIRTRIGAUD_APISERVER_TLS_KEY": str(tmp_path / "key"),
        "VIRTRIGAUD_APISERVER_TOKEN_FILE": str(tmp_path / "tokens"),
        "VIRTRIGAUD_APISERVER_LISTEN": "127.0.0.1:1",
    }
    made = parse(["--data-dir", str(tmp_path), "--listen", "[::1]:0"], env)
    assert (made.host, made.port, made.tls_key) == ("::1", 0, tmp_path / "key")
    assert made.metrics is None
    assert parse(["--data-dir", str(tmp_path), "--metrics-address", "[::1]:9"], env).metrics == ("::1", 9)


@pytest.mark.parametrize(
    "bad",
    [
        ["--listen", "here"],
        ["--listen", "h:99999"],
        ["--metrics-address", "9"],
        ["--event-ttl", "x"],
        ["--crds", "/nope"],
    ],
)
def test_settings_that_are_refused(tmp_path, bad, capsys):
    (tmp_path / "f").write_text("x")
    base = [f"--{n}={tmp_path / 'f'}" for n in ("tls-cert", "tls-key", "token-file")]
    with pytest.raises(SystemExit):
        parse([*base, "--data-dir", str(tmp_path), *bad], {})
    assert bad[0] in capsys.readouterr().err
