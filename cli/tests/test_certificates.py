"""`vrtg certs`: the files of a stack that is put together by hand."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from common import identity, pki, tls
from common.clock import SystemClock
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

Vrtg = Callable[..., Any]  # Any: the Ran of conftest.py
ALL = (
    "--controller",
    "--provider",
    "lab",
    "--host",
    "lab-server",
    "--viewer",
    "wall",
    "--operator",
    "me",
    "--server",
    "api",
)


def names(path: Path) -> set[str]:
    cert = x509.load_pem_x509_certificate(path.read_bytes())
    return {str(each.value) for each in cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value}


def ends(path: Path) -> set[Any]:
    cert = x509.load_pem_x509_certificate(path.read_bytes())
    return set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_gets_a_certificate_for_what_it_is(vrtg: Vrtg, tmp_path: Path) -> None:
    ran = vrtg("certs", "--into", tmp_path, "--namespace", "shop", *ALL)
    assert ran.code == 0, ran.err
    host, uri = "lab.shop.provider.virtrigaud.io", "spiffe://virtrigaud.io/ns/shop/provider/lab"
    assert names(tmp_path / "provider-lab" / "tls.crt") == {host, uri, "lab-server", "localhost", "127.0.0.1"}
    assert names(tmp_path / "controller" / "tls.crt") == {"spiffe://virtrigaud.io/ns/virtrigaud-system/controller"}
    assert names(tmp_path / "viewer-wall" / "tls.crt") == {"spiffe://virtrigaud.io/ns/virtrigaud-system/viewer"}
    assert names(tmp_path / "operator-me" / "tls.crt") == {"spiffe://virtrigaud.io/ns/virtrigaud-system/operator"}
    assert names(tmp_path / "server-api" / "tls.crt") == {"api", "lab-server", "localhost", "127.0.0.1"}
    for place in ("controller", "viewer-wall", "operator-me"):
        assert ends(tmp_path / place / "tls.crt") == {ExtendedKeyUsageOID.CLIENT_AUTH}
    for place in ("provider-lab", "server-api"):
        assert ends(tmp_path / place / "tls.crt") == {ExtendedKeyUsageOID.SERVER_AUTH}
    assert ran.out.count("made ") == 6
    for place in tmp_path.glob("*/tls.key"):
        assert mode(place) == 0o600
    assert mode(tmp_path / "ca" / "ca.key") == 0o600


def test_asked_again_it_keeps_what_is_good_and_says_so(vrtg: Vrtg, tmp_path: Path) -> None:
    vrtg("certs", "--into", tmp_path, *ALL)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    ran = vrtg("certs", "--into", tmp_path, *ALL)
    assert ran.out.count("kept ") == 6
    assert {path: path.read_bytes() for path in before} == before


def test_it_renews_what_is_in_the_last_third_of_its_life(vrtg: Vrtg, tmp_path: Path) -> None:
    vrtg("certs", "--into", tmp_path, "--controller", "--viewer", "wall")
    authority, uri = pki.Authority.create(tmp_path / "ca"), identity.client(identity.Role.CONTROLLER)
    files = tls.TlsFiles(*(tmp_path / "controller" / file for file in ("tls.crt", "tls.key", "ca.crt")))
    files.cert.unlink()
    authority.issue(files.cert.parent, uri, days=0.001, end=pki.End.CLIENT)  # the time before now counts as lived
    ran = vrtg("certs", "--into", tmp_path, "--controller", "--viewer", "wall")
    assert "renewed controller/tls.crt" in ran.out
    assert "kept viewer-wall/tls.crt" in ran.out
    assert (files.check() - SystemClock().now()).days >= 89


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to a group that is not its own")
def test_a_group_may_read_the_keys_but_never_that_of_the_authority(vrtg: Vrtg, tmp_path: Path) -> None:
    vrtg("certs", "--into", tmp_path, "--controller")
    assert vrtg("certs", "--into", tmp_path, "--controller", "--group", "65532").code == 0
    key = tmp_path / "controller" / "tls.key"
    assert (mode(key), key.stat().st_gid, mode(key.parent), key.parent.stat().st_gid) == (0o640, 65532, 0o750, 65532)
    assert mode(tmp_path / "ca") == 0o700
    assert mode(tmp_path / "ca" / "ca.key") == 0o600


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "nothing to make"),
        (("--provider", "Lab"), "'Lab' is no name of a Provider"),
        (("--provider", "lab", "--namespace", "a.b"), "'a.b' is no name of a namespace"),
        (("--viewer", "../wall"), "cannot be the name of a certificate"),
        (("--server", "api", "--host", "a b"), "'a b' is no DNS name"),
        (("--controller", "--days", "0"), "for a day at least"),
        (("--controller", "--days", "99999999"), "3650 at most"),
        (("--controller", "--group", "-1"), "--group -1 is no id of a group"),
        (("--controller", "--group", "99999999999"), "is no id of a group"),
    ],
)
def test_what_makes_no_sense_is_refused(vrtg: Vrtg, tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    ran = vrtg("certs", "--into", tmp_path / "pki", *arguments)
    assert (ran.code, problem in ran.err) == (2, True), ran.err
    assert not list(tmp_path.rglob("tls.key"))


def test_a_broken_authority_is_named_and_left(vrtg: Vrtg, tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.crt").write_text("nonsense")
    (tmp_path / "ca" / "ca.key").write_text("nonsense")
    ran = vrtg("certs", "--into", tmp_path, "--controller")
    assert ran.code == 1
    assert "broken: restore both, or remove both" in ran.err
    assert (tmp_path / "ca" / "ca.crt").read_text() == "nonsense"


def test_a_new_authority_says_whom_it_cuts_off(vrtg: Vrtg, tmp_path: Path) -> None:
    """As after a volume that was lost; a renewed one, which has the old key, cuts nobody off."""
    said = "of another authority, and refused from now on unless they are made anew: controller, viewer-wall"
    vrtg("certs", "--into", tmp_path, "--controller", "--viewer", "wall")
    (tmp_path / "ca" / "ca.crt").unlink()
    ran = vrtg("certs", "--into", tmp_path, "--controller")
    assert (ran.code, "another authority" in ran.out) == (0, False), ran.out
    shutil.rmtree(tmp_path / "ca")
    ran = vrtg("certs", "--into", tmp_path, "--controller")
    assert (ran.code, said in ran.out) == (0, True), ran.out


def trusted(material: tls.Material, ca: bytes, place: Path) -> None:
    """Raises: TlsError: who has this CA file refuses that certificate."""
    files = tls.TlsFiles(place / "met.crt", place / "met.key", place / "met.ca")
    for path, content in ((files.cert, material.cert), (files.key, material.key), (files.ca, ca)):
        path.write_bytes(content)
    files.check()


def test_a_new_authority_takes_the_place_of_one_as_the_manual_says(vrtg: Vrtg, tmp_path: Path) -> None:
    """Each end is good for the other one, though that may have its files of now, or of the step before."""
    into, make = tmp_path / "pki", ("certs", "--controller", "--provider", "lab", "--into")
    vrtg(*make, into)
    vrtg(*make, tmp_path / "new")
    places = (into / "controller", into / "provider-lab")
    ends = [tls.TlsFiles(each / "tls.crt", each / "tls.key", each / "ca.crt") for each in places]
    old, new = (into / "ca" / "ca.crt").read_bytes(), (tmp_path / "new" / "ca" / "ca.crt").read_bytes()
    steps = [[end.read() for end in ends]]

    def done() -> None:
        assert vrtg(*make, into).code == 0  # as it runs each day
        steps.append([end.read() for end in ends])
        for one, other in ((0, 1), (1, 0)):
            for mine, theirs in itertools.product(steps[-2:], repeat=2):
                trusted(mine[one], theirs[other].ca, tmp_path)

    for end in ends:
        end.ca.write_bytes(old + new)
    done()
    assert [each.cert for each in steps[-1]] == [each.cert for each in steps[0]]
    shutil.copytree(tmp_path / "new" / "ca", into / "ca", dirs_exist_ok=True)
    done()
    assert [each.ca for each in steps[-1]] == [old + new] * 2
    for end in ends:
        shutil.copy(into / "ca" / "ca.crt", end.ca)
    done()
    assert [each.ca for each in steps[-1]] == [new, new]
