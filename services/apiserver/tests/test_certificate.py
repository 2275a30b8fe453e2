"""A certificate that ends before the server does."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import trustme
from apiserver.certificate import Certificate


def put(directory: Path, made: trustme.LeafCert) -> None:
    """Replace the files, the key first, as `vrtg credentials` does."""
    for name, blob in (("key.pem", made.private_key_pem), ("cert.pem", made.cert_chain_pems[0])):
        blob.write_to_path(directory / "new")
        (directory / "new").rename(directory / name)


def shown(server: Any) -> str:
    """The certificate that who connects now is shown."""
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    return ssl.get_server_certificate((host, int(port))).strip()


def test_who_connects_later_is_shown_the_new_certificate(process: Any, tmp_path: Path) -> None:
    process.start()
    new = trustme.CA().issue_cert("127.0.0.1")
    put(tmp_path, new)
    deadline = time.monotonic() + 30
    while shown(process) != new.cert_chain_pems[0].bytes().decode().strip():
        assert time.monotonic() < deadline, process.log()
        time.sleep(0.1)


def test_half_a_pair_changes_nothing_until_the_other_half_comes(process: Any, tmp_path: Path) -> None:
    """It goes on with what it had, and says so once."""
    certificate = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    new = trustme.CA().issue_cert("127.0.0.1")
    new.private_key_pem.write_to_path(tmp_path / "key.pem")
    assert not certificate.refresh()
    assert not certificate.refresh()
    new.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    assert certificate.refresh()
    assert not certificate.refresh()
