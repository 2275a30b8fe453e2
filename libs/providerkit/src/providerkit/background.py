"""A task that lives as long as a context, and whose failure ends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine


@contextlib.asynccontextmanager
async def running(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """Run `work` until the context is left; what the context's body raises comes out as it is, not in a group."""
    raised: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work, name=name)
            try:
                yield
            except BaseException as error:
                raised = error
                raise
            finally:
                task.cancel()
    except BaseExceptionGroup as group_error:
        if raised is not None and group_error.exceptions == (raised,):
            raise raised from raised.__cause__
        raise
