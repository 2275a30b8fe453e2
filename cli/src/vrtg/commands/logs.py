"""`vrtg logs`: what the parts of the embedded stack wrote."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vrtg.failures import NotFoundError, UsageError
from vrtg.home import Home
from vrtg.logfiles import tail

Part = Literal["apiserver", "controller", "provider", "supervisor", "libvirtd"]


def logs(
    part: Part = "controller",
    name: str | None = None,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    lines: Annotated[int, Parameter(name="--tail")] = 100,
) -> None:
    """Show the log of a part of the embedded stack.

    Parameters
    ----------
    part
        apiserver, controller, provider, supervisor or libvirtd.
    name
        Name of the provider: NAME or NAMESPACE/NAME.
    follow
        Go on showing what is written until Ctrl-C.
    lines
        How many lines to begin with.
    """
    if lines < 0:
        raise UsageError(f"--tail {lines}: give a number of lines, 0 or more")
    path = log_path(Home.from_environment(), part, name)
    text, position = tail(path, lines)
    _write(text)
    while follow:
        inode = path.stat().st_ino
        with path.open("rb") as file:
            file.seek(position)
            while True:
                if data := file.read(1 << 16):
                    _write(data)
                    continue
                position = file.tell()
                if not path.exists() or path.stat().st_ino != inode or path.stat().st_size < position:
                    position = 0  # rotated: go on with the new file
                    break
                time.sleep(0.2)
        while not path.exists():
            time.sleep(0.2)


def log_path(home: Home, part: Part, name: str | None) -> Path:
    """The file of a part.

    Raises:
        NotFoundError: it does not exist; says which there are.
    """
    if part != "provider":
        if name is not None:
            raise UsageError(f"{part} takes no name")
        path = home.logs / f"{part}.log"
        if not path.exists():
            raise NotFoundError(f"there is no log of {part} in {home.logs}: the stack has not run it yet")
        return path
    found = {p.stem.removeprefix("provider-"): p for p in sorted(home.logs.glob("provider-*.log"))}
    if name is None:
        if len(found) == 1:
            return next(iter(found.values()))
        raise UsageError(f"say which provider: {', '.join(found) or 'none has run yet'}")
    wanted = name.replace("/", "-")
    for known, path in found.items():
        if known == wanted or ("/" not in name and known.endswith(f"-{name}")):
            return path
    raise NotFoundError(f'there is no log of a provider "{name}" (there are: {", ".join(found) or "none"})')


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
