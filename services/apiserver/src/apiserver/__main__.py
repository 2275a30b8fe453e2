"""`virtrigaud-apiserver`: run the embedded Kubernetes API."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import structlog

from .auth import TokenFileError
from .errors import ApiError
from .logs import configure
from .server import StartError, serve
from .settings import parse
from .store import StoreError


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    settings = parse(argv)
    configure(settings.log_level)
    try:
        asyncio.run(serve(settings))
    except (StartError, StoreError, TokenFileError, ApiError) as error:
        structlog.get_logger(__name__).error("apiserver.failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
