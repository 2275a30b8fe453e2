"""`python -m apiserver.probe`: whether this container's server is ready; its health check.

It asks where the server itself says that it listens, and trusts the certificate that the server was given.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

SECONDS = 3.0


def main(environ: Mapping[str, str] | None = None) -> int:
    """Exit status 0 if it is ready; what it says goes to standard output."""
    env = os.environ if environ is None else environ
    try:
        data, certificate = env["VIRTRIGAUD_APISERVER_DATA_DIR"], env["VIRTRIGAUD_APISERVER_TLS_CERT"]
        _, _, port = (Path(data) / "endpoint").read_text().strip().rpartition(":")
        trust = ssl.create_default_context(cafile=str(Path(certificate).with_name("ca.crt")))
        question = f"https://localhost:{port}/readyz"
        with urllib.request.urlopen(question, timeout=SECONDS, context=trust) as answer:
            print(answer.read().decode("utf-8", "replace"))  # noqa: T201 - that is its purpose
        return 0
    except KeyError as missing:
        print(f"{missing.args[0]} is not set: the server's settings have to come from the environment")  # noqa: T201
    except OSError as error:  # refused, not ready, no file yet
        print(str(error))  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
