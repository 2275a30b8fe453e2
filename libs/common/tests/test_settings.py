"""Where a setting comes from, and what is said when it cannot be used."""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from common.settings import Seconds, SettingsError, duration, load
from hypothesis import given
from hypothesis import strategies as st


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


@dataclass(frozen=True)
class Example:
    """An example service."""

    listen_address: Annotated[str, "host:port to serve on, 100% local"] = "127.0.0.1:9443"
    workers: Annotated[int, "how many"] = 4
    ratio: float = 0.5
    verbose: bool = False
    tls_cert: Annotated[Path | None, "certificate"] = None
    log_level: Literal["debug", "info"] = "info"
    mode: Mode = Mode.SAFE
    drain: Annotated[Seconds, "how long"] = 10.0
    pause: Seconds | None = None
    hosts: list[str] = field(default_factory=list)
    token_file: Path | None = None


def settings(*argv: str, **environ: str) -> Example:
    return load(Example, argv, environ=environ)


def test_defaults():
    assert settings() == Example()


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('workers = 1\nratio = 0.1\nlog_level = "debug"\n')
    got = settings("--config", str(config), "--workers", "3", VIRTRIGAUD_WORKERS="2", VIRTRIGAUD_RATIO="0.2")
    assert (got.workers, got.ratio, got.log_level, got.mode) == (3, 0.2, "debug", Mode.SAFE)


def test_every_type_from_flags():
    got = settings(
        *("--listen-address", "[::1]:0", "--verbose", "--tls-cert", "~/c.pem", "--mode", "fast", "--drain", "1m30s"),
        *("--pause", "250ms", "--hosts", "a,b", "--hosts", "c", "--log-level=debug"),
    )
    assert got == Example(
        "[::1]:0", 4, 0.5, True, Path("~/c.pem").expanduser(), "debug", Mode.FAST, 90.0, 0.25, ["a", "b", "c"]
    )
    assert settings("--no-verbose", VIRTRIGAUD_VERBOSE="yes").verbose is False


def test_every_type_from_the_environment():
    got = settings(
        VIRTRIGAUD_VERBOSE="on",
        VIRTRIGAUD_HOSTS="a, b",
        VIRTRIGAUD_TLS_CERT="",
        VIRTRIGAUD_DRAIN="2h",
        VIRTRIGAUD_MODE="fast",
    )
    assert got == Example(verbose=True, hosts=["a", "b"], tls_cert=None, drain=7200.0, mode=Mode.FAST)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'workers = 7\nhosts = ["a"]\nlisten-address = "x:1"\ndrain = "5s"\nverbose = true\n'),
        ("c.yaml", "workers: 7\nhosts: [a]\nlisten-address: x:1\ndrain: 5s\nverbose: true\n"),
    ],
)
def test_toml_and_yaml(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    expected = Example(workers=7, hosts=["a"], listen_address="x:1", drain=5.0, verbose=True)
    assert settings("--config", str(tmp_path / name)) == expected
    assert settings(VIRTRIGAUD_CONFIG=str(tmp_path / name)) == expected


def test_every_problem_is_named_with_its_source(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("ratio: [1]\nlog_levle: info\nzzz: 1\n")
    with pytest.raises(SettingsError) as caught:
        settings("--config", str(config), "--drain", "soon", VIRTRIGAUD_WORKERS="many", VIRTRIGAUD_MODE="wild")
    assert str(caught.value).splitlines() == [
        f"log_levle (from {config}) is no setting: did you mean log_level?",
        f"zzz (from {config}) is no setting: remove it",
        "workers (from environment VIRTRIGAUD_WORKERS): 'many' is no whole number",
        f"ratio (from {config}): [1] is no number",
        "mode (from environment VIRTRIGAUD_MODE): 'wild' is none of fast, safe",
        """drain (from --drain): 'soon' is no duration: write "90s", "1m30s" or "500ms\"""",
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("missing.toml", None, "cannot be read: No such file"),
        ("c.toml", "workers =", "is no valid TOML"),
        ("c.yaml", "a: [", "is no valid YAML"),
        ("c.yaml", "- a\n", "must hold settings by name"),
        ("c.yaml", "workers: true\n", "True is no whole number"),
        ("c.yaml", "workers: 1.5\n", "1.5 is no whole number"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, text, words):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        settings("--config", str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_flag_is_named():
    with pytest.raises(SettingsError, match="--listen-adress"):
        settings("--listen-adress", "x")
    with pytest.raises(SettingsError, match="--work"):  # no guessing from a beginning
        settings("--work", "3")


def test_a_missing_setting_says_how_to_give_it():
    @dataclass(frozen=True)
    class Needy:
        endpoint: Annotated[str, "where"]

    with pytest.raises(SettingsError, match="endpoint is missing: give --endpoint or set APP_ENDPOINT"):
        load(Needy, [], "APP_", environ={})
    assert load(Needy, [], "APP_", environ={"APP_ENDPOINT": "e"}).endpoint == "e"


def test_a_class_may_judge_the_whole():
    @dataclass(frozen=True)
    class Pair:
        low: int = 0
        high: int = 1

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high: swap them")

    with pytest.raises(SettingsError, match="swap them"):
        load(Pair, ["--low", "2"], environ={})


def test_P5_a_secret_cannot_be_a_setting():
    """A flag shows in the process list, a variable in /proc: secrets come in files."""

    @dataclass(frozen=True)
    class Careless:
        password: str = ""

    with pytest.raises(TypeError, match="take password_file instead"):
        load(Careless, [], environ={})


def test_help_tells_it_all(capsys):
    with pytest.raises(SystemExit) as caught:
        settings("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "An example service.",
        "100% local",
        "VIRTRIGAUD_LISTEN_ADDRESS",
        "default 127.0.0.1:9443",
        "fast|safe",
        "DURATION",
    ):
        assert words in text


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations(number, unit):
    assert duration(f"{number}{unit}") == pytest.approx(
        number * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    )


@pytest.mark.parametrize("text", ["", "s", "1x", "-5", "-5s", "1 m", "nan", "inf", "1s junk", "1.2.3s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        duration(text)


def test_a_list_of_a_file_may_hold_what_is_no_text(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("hosts: [7, b]\n")
    assert settings("--config", str(file)).hosts == ["7", "b"]
    file.write_text("hosts: [{a: b}]\n")
    with pytest.raises(SettingsError, match="hosts"):
        settings("--config", str(file))


@pytest.mark.parametrize("text", ["workers: " + "9" * 5000, "workers: 2001-13-01", "[" * 5000])
def test_a_file_that_yaml_itself_cannot_read_is_named(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"a\.yaml"):
        settings("--config", str(file))


def test_a_duration_beyond_all_numbers_is_none():
    with pytest.raises(ValueError, match="no duration"):
        duration("9" * 400 + "h")
