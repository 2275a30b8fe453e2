"""`vrtg screenshot`: what a machine's display shows, as a file."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vrtg.api import Api, Object
from vrtg.commands.options import HERE, Where
from vrtg.failures import CommandError, UsageError
from vrtg.home import Home
from vrtg.links import CALL_LIMIT, machine, provider_of, service
from vrtg.terminal import say


def screenshot(
    name: str,
    /,
    *,
    output: Annotated[str, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = "",
    where: Where = HERE,
) -> None:
    """Save a picture of a machine's display, as PNG.

    Parameters
    ----------
    name
        The machine.
    output
        File to write; "-" is standard output. Default: NAME.png.
    """
    if output == "-" and sys.stdout.isatty():
        raise UsageError("a picture is nothing for a terminal: name a file with -o")
    api = where.connect()
    picture = asyncio.run(_capture(api, machine(api, name, where.within(api))))
    if output == "-":
        sys.stdout.buffer.write(picture)
        return
    path = Path(output or f"{name}.png")
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    say(f"{path}: {len(picture)} bytes")


async def _capture(api: Api, body: Object) -> bytes:
    from common import v1

    request = v1.CaptureScreenshotRequest(uid=body["metadata"]["uid"])
    async with service(Home.from_environment(), provider_of(api, body), "MachineService") as machines:
        answer: v1.CaptureScreenshotResponse = await machines.capture_screenshot(request, timeout=CALL_LIMIT)
    return answer.image
