"""`python -m common.probe HOST:PORT [PATH]`: whether a service says that it is ready; a container's health check.

Exit status 0 and 1; what is missing goes to standard output, for `docker inspect`. It imports little: it runs often.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence

SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Ask once."""
    address, path = [*(sys.argv[1:] if argv is None else argv), "/readyz"][:2]
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace").strip())  # noqa: T201 - that is its purpose
        return 0 if answer.status == 200 else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"http://{address}{path}: {error or type(error).__name__}")  # noqa: T201
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
