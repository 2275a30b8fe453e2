"""The REST verbs on resources."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from . import errors, listing, requests, tables, yamltext
from .admission import admit
from .auth import User
from .errors import Cause
from .negotiation import Form, choose
from .operations import Operations, Outcome
from .options import DeleteOptions, WriteOptions
from .patch.jsonpatch import PatchError, PatchMismatch, json_patch, merge_patch
from .patch.strategic import strategic_patch
from .protobuf import MEDIA_TYPE
from .requests import Target
from .resources import Object, Resource
from .scales import scale_of, with_scale
from .selection import Selection
from .streams import Watch

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_BODIES = ("application/json", "application/yaml", "text/yaml", "application/x-yaml", MEDIA_TYPE, "")


class Handlers:
    """Answers requests below /api and /apis."""

    def __init__(self, operations: Operations, stopping: asyncio.Event) -> None:
        """Bind to the operations; `stopping` ends all watches."""
        self._ops = operations
        self._stopping = stopping

    async def handle(self, request: Request, target: Target, user: User) -> Response:
        """Answer one request.

        Raises:
            ApiError: with the status to send.
        """
        resource = self._ops.registry.find(target.group, target.version, target.plural)
        if resource is None or (target.namespace and not resource.namespaced):
            raise errors.no_such_path()
        if target.subresource:
            return await self._subresource(request, target, resource)
        params = request.query_params
        method = request.method
        if not target.name:
            match method:
                case "GET":
                    return self._list(request, target, resource, params)
                case "POST":
                    return await self._create(request, target, resource, user)
                case "DELETE":
                    return await self._delete_many(request, target, resource)
            raise errors.method_not_allowed(resource.group, resource.plural)
        if resource.namespaced and not target.namespace:
            raise errors.no_such_path()
        if "get" not in resource.verbs:
            raise errors.method_not_allowed(resource.group, resource.plural)
        match method:
            case "GET" if target.watch or requests.flag(params, "watch"):
                return self._list(request, target, resource, params)
            case "GET":
                return self._get(request, target, resource)
            case "PUT":
                return await self._update(request, target, resource)
            case "PATCH":
                return await self._patch(request, target, resource)
            case "DELETE":
                return await self._delete(request, target, resource)
        raise errors.method_not_allowed(resource.group, resource.plural)

    # ---- reading ----

    def _get(self, request: Request, target: Target, resource: Resource) -> Response:
        form = choose(accept_of(request), "plain", "table", "partial")
        item = self._ops.find(resource, target.namespace, target.name)
        if form.shape == "plain" and not form.yaml:
            return Response(resource.bytes(item), media_type="application/json")
        return self._answer(request, resource, resource.load(item), form)

    def _list(self, request: Request, target: Target, resource: Resource, params: Mapping[str, str]) -> Response:
        if "list" not in resource.verbs:
            raise errors.method_not_allowed(resource.group, resource.plural)
        form = choose(accept_of(request), "plain", "table", "partial")
        namespace = target.namespace if target.scoped else None
        selection = Selection.of(resource, namespace, target.name, params)
        if target.watch or requests.flag(params, "watch"):
            ops = self._ops
            return Watch(ops.store, ops.registry, selection, params, form, ops.clock, self._stopping)
        items, meta = listing.page(self._ops.store, selection, params)
        include = params.get("includeObject", "Metadata")
        body = listing.render(resource, items, meta, form, include, self._ops.clock())
        if form.yaml:
            body = yamltext.encode(msgspec.json.decode(body))
        return Response(body, media_type=form.content_type)

    def _answer(
        self,
        request: Request,
        resource: Resource,
        obj: Object,
        form: Form | None = None,
        status: int = 200,
        warnings: list[str] | None = None,
    ) -> Response:
        form = form or choose(accept_of(request), "plain", "table", "partial")
        if obj.get("kind") != "Status":
            if form.shape == "table":
                meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
                include = request.query_params.get("includeObject", "Metadata")
                obj = tables.table(resource, [obj], meta, include, self._ops.clock())
            elif form.shape == "partial":
                obj = tables.partial(obj)
        body = yamltext.encode(obj) if form.yaml else msgspec.json.encode(obj)
        response = Response(body, status, media_type=form.content_type)
        for warning in warnings or []:
            text = warning.replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "backslashreplace").decode()
            response.headers.append("Warning", f'299 - "{"".join(c for c in text if c.isprintable())}"')
        return response

    # ---- writing ----

    async def _create(self, request: Request, target: Target, resource: Resource, user: User) -> Response:
        if "create" not in resource.verbs or (resource.namespaced and not target.namespace):
            raise errors.method_not_allowed(resource.group, resource.plural)
        form = choose(accept_of(request), "plain", "table", "partial")
        obj, options = await self._body(request)
        if resource.strategy.review is not None:
            admit(resource, obj, options)
            return self._answer(request, resource, resource.strategy.review(obj, user), form, 201)
        outcome = await self._ops.create(resource, target.namespace, obj, options)
        return self._answer(request, resource, outcome.obj, form, 201, outcome.warnings)

    async def _update(self, request: Request, target: Target, resource: Resource) -> Response:
        obj, options = await self._body(request, target.subresource)
        outcome = await self._ops.update(resource, target.namespace, target.name, obj, options)
        return self._answer(request, resource, outcome.obj, None, 200, outcome.warnings)

    async def _body(self, request: Request, subresource: str = "") -> tuple[Object, WriteOptions]:
        options = write_options(request, subresource)
        kind = requests.media_type(request.headers.get("content-type", ""))
        if kind not in _BODIES:
            raise errors.unsupported_media("application/json, application/yaml")
        body = await read_body(request)
        obj = requests.decode_body(body, kind)
        if not isinstance(obj, dict):
            raise errors.bad_request("the body must be one object")
        if kind in ("application/json", "") and options.validation != "Ignore":
            options = replace(options, duplicates=requests.duplicate_fields(body))
        return obj, options

    async def _patch(self, request: Request, target: Target, resource: Resource) -> Response:
        kind = requests.media_type(request.headers.get("content-type", ""))
        body = await read_body(request)
        options = write_options(request, target.subresource)
        if kind == APPLY_PATCH:
            outcome = await self._apply(request, target, resource, body, options)
        else:
            edit = self._editor(resource, kind, body, options)
            warnings: list[str] = []

            def admitted(live: Object) -> Object:
                changed = edit(live)
                warnings[:] = admit(resource, changed, options)
                return changed

            change = self._ops.change
            outcome = await change(resource, target.namespace, target.name, admitted, options, warnings)
        status = 201 if outcome.created else 200
        return self._answer(request, resource, outcome.obj, None, status, outcome.warnings)

    async def _apply(
        self, request: Request, target: Target, resource: Resource, body: bytes, options: WriteOptions
    ) -> Outcome:
        if not request.query_params.get("fieldManager"):
            text = "Required value: is required for apply patch"
            causes = [Cause("FieldValueRequired", text, "fieldManager")]
            raise errors.invalid("meta.k8s.io", "PatchOptions", "", causes)
        config = requests.decode_body(body, "application/yaml")
        if not isinstance(config, dict) or not config.get("apiVersion") or not config.get("kind"):
            raise errors.bad_request("an apply patch must be one object with apiVersion and kind")
        return await self._ops.apply(resource, target.namespace, target.name, config, options)

    def _editor(self, resource: Resource, kind: str, body: bytes, options: WriteOptions) -> Callable[[Object], Object]:
        if options.force:
            text = "Forbidden: may not be specified for non-apply patch"
            raise errors.invalid("meta.k8s.io", "PatchOptions", "", [Cause("FieldValueForbidden", text, "force")])
        offered = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH] + ([] if resource.custom else [STRATEGIC_PATCH])
        if kind not in offered:
            raise errors.unsupported_media(", ".join(offered))
        patch = requests.decode_body(body, kind)
        if kind != JSON_PATCH and not isinstance(patch, dict):
            raise errors.bad_request("the patch must be one object")

        def edit(live: Object) -> Object:
            try:
                if kind == JSON_PATCH:
                    changed = json_patch(live, patch)
                elif kind == MERGE_PATCH:
                    changed = merge_patch(live, patch)
                else:
                    changed = strategic_patch(resource.schema, live, patch)
            except PatchError as error:
                raise errors.bad_request(str(error)) from error
            except PatchMismatch as error:
                cause = Cause("FieldValueInvalid", f"Invalid value: {error}", "patch")
                raise errors.invalid(resource.group, resource.kind, live["metadata"]["name"], [cause]) from error
            if not isinstance(changed, dict) or not isinstance(changed.get("metadata"), dict):
                raise errors.bad_request("the patch would leave no object with metadata")
            return changed

        return edit

    # ---- deleting ----

    async def _delete(self, request: Request, target: Target, resource: Resource) -> Response:
        options = await delete_options(request)
        outcome = await self._ops.delete(resource, target.namespace, target.name, options)
        if not outcome.gone:
            return self._answer(request, resource, outcome.obj)
        meta = outcome.obj["metadata"]
        details = {"name": meta["name"], "group": resource.group, "kind": resource.plural, "uid": meta["uid"]}
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {k: v for k, v in details.items() if v},
        }
        return self._answer(request, resource, status)

    async def _delete_many(self, request: Request, target: Target, resource: Resource) -> Response:
        if "deletecollection" not in resource.verbs or (resource.namespaced and not target.namespace):
            raise errors.method_not_allowed(resource.group, resource.plural)
        options = await delete_options(request)
        namespace = target.namespace if target.scoped else None
        selection = Selection.of(resource, namespace, "", request.query_params)
        items, meta = listing.page(self._ops.store, selection, request.query_params)
        deleted = []
        for item in items:
            try:
                outcome = await self._ops.delete(resource, item.namespace, item.name, options)
            except errors.ApiError as error:
                if error.code != 404:
                    raise
                continue  # somebody else was faster
            deleted.append(outcome.obj)
        body = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": meta, "items": deleted}
        return Response(msgspec.json.encode(body), media_type="application/json")

    # ---- subresources ----

    async def _subresource(self, request: Request, target: Target, resource: Resource) -> Response:
        if resource.namespaced and not target.namespace:
            raise errors.no_such_path()
        answers: dict[str, Callable[[Request, Target, Resource], Awaitable[Response]]] = {}
        if resource.has_status:
            answers["status"] = self._status
        if resource.scale is not None:
            answers["scale"] = self._scale
        answer = answers.get(target.subresource)
        if answer is None:
            raise errors.no_such_path()
        return await answer(request, target, resource)

    async def _status(self, request: Request, target: Target, resource: Resource) -> Response:
        match request.method:
            case "GET":
                return self._get(request, target, resource)
            case "PUT":
                return await self._update(request, target, resource)
            case "PATCH":
                return await self._patch(request, target, resource)
        raise errors.method_not_allowed(resource.group, resource.plural)

    async def _scale(self, request: Request, target: Target, resource: Resource) -> Response:
        find = self._ops.find
        if request.method == "GET":
            return _json(scale_of(resource, resource.load(find(resource, target.namespace, target.name))))
        options = write_options(request, "")
        if request.method == "PUT":
            wanted, _ = await self._body(request)

            def edit(live: Object) -> Object:
                return with_scale(resource, live, wanted)

        elif request.method == "PATCH":
            kind = requests.media_type(request.headers.get("content-type", ""))
            if kind == APPLY_PATCH:
                raise errors.unsupported_media(f"{JSON_PATCH}, {MERGE_PATCH}")
            change = self._editor(resource, kind, await read_body(request), options)

            def edit(live: Object) -> Object:
                return with_scale(resource, live, change(scale_of(resource, live)))

        else:
            raise errors.method_not_allowed(resource.group, resource.plural)
        outcome = await self._ops.change(resource, target.namespace, target.name, edit, options)
        return _json(scale_of(resource, outcome.obj))


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def accept_of(request: Request) -> str:
    return request.headers.get("accept", "")


async def read_body(request: Request) -> bytes:
    """Return the body.

    Raises:
        ApiError: 413; what lies beyond the limit is never kept.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > requests.MAX_BODY:
        raise errors.too_large(requests.MAX_BODY)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > requests.MAX_BODY:
            raise errors.too_large(requests.MAX_BODY)
        parts.append(part)
    return b"".join(parts)


def write_options(request: Request, subresource: str) -> WriteOptions:
    """Read the options of a write from the query.

    Raises:
        ApiError: 400 or 422.
    """
    params = request.query_params
    causes = []
    manager = params.get("fieldManager") or request.headers.get("user-agent", "").partition("/")[0] or "unknown"
    if len(manager) > 128 or not manager.isprintable():
        text = "Invalid value: must be at most 128 printable characters"
        causes.append(Cause("FieldValueInvalid", text, "fieldManager"))
    validation = params.get("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Warn", "Strict"):
        text = f'Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        causes.append(Cause("FieldValueNotSupported", text, "fieldValidation"))
    dry_run = _dry_run(params.getlist("dryRun"), causes)
    if causes:
        raise errors.invalid("meta.k8s.io", "PatchOptions", "", causes)
    return WriteOptions(manager, dry_run, validation, requests.flag(params, "force"), subresource)


def _dry_run(values: list[str], causes: list[Cause]) -> bool:
    values = [v for v in values if v]
    for value in values:
        if value != "All":
            text = f'Unsupported value: "{value}": supported values: "All"'
            causes.append(Cause("FieldValueNotSupported", text, "dryRun"))
    return bool(values)


async def delete_options(request: Request) -> DeleteOptions:
    """Read the options of a delete from the body, or else the query.

    Raises:
        ApiError: 400 or 422.
    """
    body = await read_body(request)
    params = request.query_params
    kind = requests.media_type(request.headers.get("content-type", ""))
    given = requests.decode_body(body, kind) if body.strip() else {}
    if not isinstance(given, dict):
        raise errors.bad_request("DeleteOptions must be an object")
    causes: list[Cause] = []
    raw = given.get("dryRun") or params.getlist("dryRun")
    dry_run = _dry_run([str(v) for v in raw] if isinstance(raw, list) else [str(raw)], causes)
    propagation = given.get("propagationPolicy") or params.get("propagationPolicy") or ""
    if given.get("orphanDependents") is True or requests.flag(params, "orphanDependents"):
        propagation = propagation or "Orphan"
    if propagation not in ("", "Background", "Foreground", "Orphan"):
        text = f'Unsupported value: "{propagation}": supported values: "Background", "Foreground", "Orphan"'
        causes.append(Cause("FieldValueNotSupported", text, "propagationPolicy"))
    if causes:
        raise errors.invalid("meta.k8s.io", "DeleteOptions", "", causes)
    conditions = given.get("preconditions") or {}
    if not isinstance(conditions, dict):
        raise errors.bad_request("preconditions must be an object")
    uid, version = conditions.get("uid") or "", conditions.get("resourceVersion") or ""
    return DeleteOptions(propagation, str(uid), str(version), dry_run)
