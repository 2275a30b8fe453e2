"""`vrtg credentials` and `vrtg hand-over`: keys for containers."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID


def make(vrtg: Callable[..., Any], into: Path) -> Any:  # Any: what a run of vrtg answers
    return vrtg("credentials", "--into", str(into), "--host", "apiserver", "--server", "https://127.0.0.1:6443")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_controller_and_administrator_call_the_server_by_their_own_names(
    vrtg: Callable[..., Any], tmp_path: Path
) -> None:
    ran = make(vrtg, tmp_path)
    assert ran.code == 0, ran.err
    controller = yaml.safe_load((tmp_path / "kubeconfig" / "controller").read_text())
    admin = yaml.safe_load((tmp_path / "admin" / "kubeconfig").read_text())
    assert controller["clusters"][0]["cluster"]["server"] == "https://apiserver:6443"
    assert admin["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    tokens = (tmp_path / "apiserver" / "tokens.csv").read_text()
    for config in (controller, admin):
        assert config["users"][0]["user"]["token"] in tokens
    assert controller["users"][0]["user"] != admin["users"][0]["user"]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".crt":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_repeating_it_changes_nothing(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    """The installation's id above all: with another one, every machine would be somebody else's."""
    make(vrtg, tmp_path)
    before = content(tmp_path)
    assert make(vrtg, tmp_path).code == 0
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("apiserver/tokens.csv", "", "has no token for controller: remove the file"),
        ("apiserver/tokens.csv", "rubbish", "has no token for controller"),
        ("installation/settings.yaml", "", "has no owner"),
        ("installation/settings.yaml", "owner:\n", "has no owner"),
        ("ca/ca.crt", "rubbish", "are broken: restore both"),
    ],
)
def test_what_is_broken_is_named_and_left(
    vrtg: Callable[..., Any], tmp_path: Path, file: str, content: str, problem: str
) -> None:
    make(vrtg, tmp_path)
    (tmp_path / file).write_text(content)
    ran = make(vrtg, tmp_path)
    assert (ran.code, problem in ran.err, "bug" in ran.err) == (1, True, False), ran.err
    assert (tmp_path / file).read_text() == content


def test_a_lost_id_is_not_replaced_by_another(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    """All machines would be somebody else's."""
    make(vrtg, tmp_path)
    settings = tmp_path / "installation" / "settings.yaml"
    settings.unlink()
    ran = make(vrtg, tmp_path)
    assert (ran.code, f"{settings} is lost" in ran.err) == (1, True), ran.err
    assert not settings.exists()
    (tmp_path / "apiserver" / "tokens.csv").unlink()  # as it says
    assert make(vrtg, tmp_path).code == 0
    assert settings.exists()


def test_what_is_in_the_way_is_named(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("a file")
    ran = make(vrtg, tmp_path)
    assert (ran.code, f"{tmp_path}/kubeconfig" in ran.err, "bug" in ran.err) == (1, True, False), ran.err


def test_two_installations_never_have_the_same_id(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    make(vrtg, tmp_path / "a")
    make(vrtg, tmp_path / "b")
    ids = {(tmp_path / each / "installation" / "settings.yaml").read_text() for each in "ab"}
    assert len(ids) == 2


@pytest.mark.parametrize(
    "server", ["127.0.0.1", "https://127.0.0.1", "https://[::1:6443", "https://a:70000", "https://me:hunter22@a:6443"]
)
def test_a_server_that_is_no_url_is_refused(vrtg: Callable[..., Any], tmp_path: Path, server: str) -> None:
    ran = vrtg("credentials", "--into", str(tmp_path), "--host", "apiserver", "--server", server)
    assert ran.code == 2
    assert "https://127.0.0.1:6443" in ran.err
    assert "hunter22" not in ran.err


def test_an_address_of_ipv6_is_called_as_urls_have_it(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    ran = vrtg("credentials", "--into", str(tmp_path), "--host", "fd00::1", "--server", "https://[::1]:6443")
    assert ran.code == 0, ran.err
    controller = yaml.safe_load((tmp_path / "kubeconfig" / "controller").read_text())
    assert controller["clusters"][0]["cluster"]["server"] == "https://[fd00::1]:6443"


def test_the_servers_certificate_opens_no_other_door(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    """Providers have the same authority: with it, nobody can be a client of theirs."""
    make(vrtg, tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "apiserver" / "tls.crt").read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_keys_are_handed_over(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    """Files and folders, private again where they come to; what was there is replaced."""
    make(vrtg, tmp_path / "pki")
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "kubeconfig").write_text("old")
    for _ in range(2):
        sources = [str(tmp_path / "pki" / "admin" / "kubeconfig"), str(tmp_path / "pki" / "apiserver")]
        ran = vrtg("hand-over", *sources, "--into", str(tmp_path / "host"))
        assert ran.code == 0, ran.err
    assert content(tmp_path / "host" / "apiserver") == content(tmp_path / "pki" / "apiserver")
    copy = tmp_path / "host" / "kubeconfig"
    assert copy.read_bytes() == (tmp_path / "pki" / "admin" / "kubeconfig").read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_kubeconfig_is_handed_over_for_another_address(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    """Only its servers change."""
    make(vrtg, tmp_path / "pki")
    source = tmp_path / "pki" / "admin" / "kubeconfig"
    ran = vrtg("hand-over", str(source), "--into", str(tmp_path), "--server", "https://k3s:7443")
    assert ran.code == 0, ran.err
    before, after = yaml.safe_load(source.read_text()), yaml.safe_load((tmp_path / "kubeconfig").read_text())
    assert after["clusters"][0]["cluster"].pop("server") == "https://k3s:7443"
    before["clusters"][0]["cluster"].pop("server")
    assert after == before


@pytest.mark.parametrize("text", ["secret", "clusters: [secret]", "{secret", "[" * 100])
def test_what_is_no_kubeconfig_gets_no_other_address(vrtg: Callable[..., Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    (tmp_path / "host").mkdir()
    ran = vrtg("hand-over", str(tmp_path / "file"), "--into", str(tmp_path / "host"), "--server", "https://k3s:6443")
    assert ran.code == 2
    assert "is no kubeconfig" in ran.err
    assert "secret" not in ran.err
    assert not list((tmp_path / "host").iterdir())


def test_what_is_missing_is_named(vrtg: Callable[..., Any], tmp_path: Path) -> None:
    ran = vrtg("hand-over", str(tmp_path / "none"), "--into", str(tmp_path))
    assert ran.code != 0
    assert str(tmp_path / "none") in ran.err
