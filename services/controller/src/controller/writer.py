"""Writes to our own objects: status only if it differs, finalizers, and the cache told at once."""

from __future__ import annotations

from typing import Any, TypeVar

from common import tracing

from .api import Api, ConflictError
from .informer import Informer
from .metrics import Metrics
from .patches import merge_patch

T = TypeVar("T")

MADE_IN = "virtrigaud.io/creation-trace-id"
"""Annotation with the trace in which an object was taken up; set with its finalizer, and never looked after again."""


class Writer:
    """Patches carry the resourceVersion that was read: a write that rests on an old look is refused (ConflictError)."""

    def __init__(self, api: Api, metrics: Metrics) -> None:
        self._api, self._metrics = api, metrics

    async def status(self, cache: Informer[Any], item: Any, status: Any) -> Any:
        """Write the status if it says something new; answers with the object as it is now."""
        patch = merge_patch(item.status, status)
        if not patch:
            return item
        body = {"metadata": {"resourceVersion": item.metadata.resource_version}, "status": patch}
        return await self._patch(cache, item, body, "status")

    async def add_finalizer(self, cache: Informer[Any], item: Any, finalizer: str) -> Any:
        """Make sure that the object cannot go before we have cleaned up."""
        if finalizer in item.metadata.finalizers:
            return item
        trace_id = tracing.trace_id()
        more = {"annotations": {MADE_IN: trace_id}} if trace_id else {}
        return await self._finalizers(cache, item, [*item.metadata.finalizers, finalizer], **more)

    async def remove_finalizer(self, cache: Informer[Any], item: Any, finalizer: str) -> None:
        """Let the object go, as far as we are concerned."""
        if finalizer in item.metadata.finalizers:
            await self._finalizers(cache, item, [name for name in item.metadata.finalizers if name != finalizer])

    async def _finalizers(self, cache: Informer[Any], item: Any, names: list[str], **more: Any) -> Any:
        meta = {"resourceVersion": item.metadata.resource_version, "finalizers": names or None, **more}
        return await self._patch(cache, item, {"metadata": meta}, "")

    async def _patch(self, cache: Informer[Any], item: Any, body: dict[str, Any], subresource: str) -> Any:
        meta = item.metadata
        self._metrics.api.wrote(cache.resource.kind)
        with cache.writing((meta.namespace, meta.name)):
            with tracing.span(f"write {cache.resource.kind}", expected=(ConflictError,), k8s__subresource=subresource):
                patched = await self._api.patch(
                    cache.resource, meta.namespace, meta.name, body, subresource=subresource
                )
            cache.store(patched, meta.resource_version)
        return patched
