"""`vrtg certs`: the authority and certificates of a stack that is put together by hand, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vrtg.certificates import CA_DAYS, DAYS, SYSTEM, Wanted, make, wanted
from vrtg.failures import UsageError

NO_GROUP = 2**32 - 1
"""Stands for "leave it as it is" in system calls."""


def certs(
    *,
    into: Path,
    controller: bool = False,
    provider: Annotated[list[str] | None, Parameter(negative=())] = None,
    host: Annotated[list[str] | None, Parameter(negative=())] = None,
    viewer: Annotated[list[str] | None, Parameter(negative=())] = None,
    operator: Annotated[list[str] | None, Parameter(negative=())] = None,
    server: Annotated[list[str] | None, Parameter(negative=())] = None,
    namespace: str = "default",
    system_namespace: str = SYSTEM,
    group: int | None = None,
    days: int = DAYS,
) -> None:
    """Make an authority and certificates as files, and renew those in the last third of their life.

    Repeating it changes nothing that is good. Running servers take up new files without a restart.

    Parameters
    ----------
    into
        Directory: ca/ holds the authority, whose key no service needs; provider-NAME/, controller/ and so on hold
        tls.crt, tls.key and ca.crt.
    controller
        A certificate for the controller.
    provider
        Name of a Provider object whose server gets a certificate; may be repeated.
    host
        Further host name or address of the servers, for clients that check hosts; may be repeated.
    viewer
        Name of a client that may only look; may be repeated.
    operator
        Name of a client that may also open consoles and press reset, such as vrtg; may be repeated.
    server
        Name of a server that is none of a Provider, such as the API server; may be repeated.
    namespace
        Namespace of the Provider objects.
    system_namespace
        Namespace of the installation, which the names of clients hold.
    group
        Id of a group that may read the keys too, so that containers which do not run as root can.
    days
        Life of a certificate.
    """
    if not 1 <= days <= CA_DAYS:
        raise UsageError(
            f"--days {days}: a certificate lives for a day at least, and {CA_DAYS} at most, as its authority"
        )
    if group is not None and not 0 <= group < NO_GROUP:
        raise UsageError(f"--group {group} is no id of a group")
    wish: list[Wanted] = wanted(
        controller=controller,
        providers=provider or [],
        viewers=viewer or [],
        operators=operator or [],
        servers=server or [],
        hosts=host or [],
        namespace=namespace,
        system_namespace=system_namespace,
    )
    if not wish:
        raise UsageError("nothing to make: name --controller, --provider NAME, --viewer NAME, --operator or --server")
    for line in make(into, wish, group, days):
        print(line)
