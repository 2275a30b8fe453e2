"""`vrtg apply`: manifests into the API server."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from vrtg.commands.options import HERE, Where
from vrtg.failures import FAILURE, CommandError, UnreachableError
from vrtg.terminal import clean, paint, say, warn


def apply(
    *,
    filename: Annotated[list[str], Parameter(name=["--filename", "-f"], allow_leading_hyphen=True)],
    where: Where = HERE,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Create or change the objects of files, folders or standard input (-).

    Parameters
    ----------
    filename
        File, folder or "-"; may be given several times.
    dry_run
        Let the API server validate everything, and change nothing.
    """
    from vrtg.applying import apply as apply_one
    from vrtg.discovery import by_kind
    from vrtg.manifests import load

    manifests = load(filename, warn)
    api = where.connect()
    code = 0
    for manifest in manifests:
        try:
            resource = by_kind(manifest.api_version, manifest.kind, api)
            namespace = manifest.body["metadata"].get("namespace") or where.within(api)
            if where.namespace and namespace != where.namespace:
                raise CommandError(
                    f'it says namespace "{namespace}", and -n says "{where.namespace}": drop one of them'
                )
            place = namespace if resource.namespaced else None
            outcome, _ = apply_one(api, resource, manifest.body, place, dry_run=dry_run)
            print(f"{resource.label}/{manifest.name} {outcome}{' (dry run)' if dry_run else ''}", flush=True)
        except UnreachableError:
            raise
        except CommandError as error:
            # The others are still worth applying; the first kind of failure decides the exit code.
            say(f"{paint('error:', 'red')} {clean(f'{manifest.source}: {error}')}")
            code = code or error.code or FAILURE
    return code
