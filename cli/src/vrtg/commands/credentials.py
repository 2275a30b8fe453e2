"""`vrtg credentials` and `vrtg hand-over`: what an API server in a container needs, and its users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def credentials(*, into: Path, host: Annotated[list[str], Parameter(negative=())], server: str) -> None:
    """Make certificate, tokens and kubeconfigs for an embedded API server that runs in a container.

    What is there stays, but for a certificate that has come to the last third of its life.

    Parameters
    ----------
    into
        Directory: the authority is or comes into `ca`; `apiserver` gets tls.crt, tls.key, ca.crt and tokens.csv,
        `kubeconfig` a file `controller`, `admin` a file `kubeconfig`, `installation` the settings that controller
        and providers share.
    host
        Name or address that the server is called by; may be given several times. The controller uses the first one.
    server
        URL that its administrator uses, such as https://127.0.0.1:6443. The controller uses the same port.
    """
    from vrtg.credentials import make_container_credentials

    make_container_credentials(into, host, server)


def hand_over(*paths: Path, into: Path, server: str | None = None) -> None:
    """Copy keys out of a container, for the owner of the directory that they come into.

    Parameters
    ----------
    paths
        Files, or folders of files, of `vrtg credentials` or `vrtg certs`.
    into
        The directory. Copies have mode 0600; those that are there are replaced.
    server
        URL that the copy of a kubeconfig names, for those who reach the API server by another name.
    """
    from vrtg.credentials import hand_over as copy
    from vrtg.failures import UsageError

    if not paths:
        raise UsageError("nothing to hand over: name files or folders")
    for path in paths:
        copy(path, into, server)
