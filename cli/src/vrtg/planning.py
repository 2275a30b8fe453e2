"""What applying manifests would change on the hypervisor, asked of the provider that would do it."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from kinds.bootkeys import IGNITION_KEYS, META_DATA_KEYS, USER_DATA_KEYS

from vrtg.api import Api, Object
from vrtg.applying import last_applied, merge_patch, stamped
from vrtg.failures import NotFoundError, RefusedError
from vrtg.home import Home
from vrtg.kinds_table import PROVIDER, SECRET, VIRTUAL_MACHINE, VM_CLASS, VM_IMAGE, VM_NETWORK, Resource
from vrtg.links import CALL_LIMIT, link
from vrtg.manifests import Manifest

if TYPE_CHECKING:
    from common import v1
    from kinds import compose as composing

T = TypeVar("T")


@dataclass(frozen=True)
class PlannedChange:
    """One difference, in words."""

    field: str
    effect: str
    change: str
    reasons: list[str]


@dataclass(frozen=True)
class Plan:
    """What would happen to one machine."""

    namespace: str
    name: str
    exists: bool
    changes: list[PlannedChange] = field(default_factory=list)
    ignored: list[PlannedChange] = field(default_factory=list)
    """Fields that nothing implements."""


class Objects:
    """The API server's objects with the manifests laid over them, as they would be after the apply."""

    def __init__(self, api: Api, manifests: list[Manifest]) -> None:
        self._api = api
        self._given: dict[tuple[str, str, str], Object] = {}
        for manifest in manifests:
            place = manifest.body["metadata"].get("namespace") or api.target.namespace
            self._given[manifest.kind, place, manifest.name] = manifest.body

    def get(self, resource: Resource, name: str, namespace: str, why: str = "") -> Object:
        """The object as it would be. Raises NotFoundError naming who refers to it."""
        given = self._given.get((resource.kind, namespace, name))
        live = self.live(resource, name, namespace)
        if given is None and live is None:
            raise NotFoundError(f'{why}there is no {resource.kind} "{name}" in namespace "{namespace}": apply it first')
        if given is None:
            assert live is not None
            return live
        wanted = stamped(given, namespace)
        if live is None:
            return wanted
        merged: Object = _merged(live, merge_patch(last_applied(live), wanted, live))
        return merged

    def live(self, resource: Resource, name: str, namespace: str) -> Object | None:
        try:
            return self._api.get(resource, name, namespace)
        except NotFoundError:
            return None

    def users_of(self, manifests: list[Manifest]) -> list[tuple[str, str]]:
        """Namespace and name of every machine that the manifests are about: given, or referring to a given object."""
        found = {(ns, name) for kind, ns, name in self._given if kind == VIRTUAL_MACHINE.kind}
        others = {(kind, ns, name) for kind, ns, name in self._given if kind != VIRTUAL_MACHINE.kind}
        if others:
            for body in self._api.list(VIRTUAL_MACHINE, None)["items"]:
                if _references(body) & others:
                    found.add((body["metadata"]["namespace"], body["metadata"]["name"]))
        return sorted(found)


def _references(body: Object) -> set[tuple[str, str, str]]:
    spec, own = body["spec"], body["metadata"]["namespace"]
    pairs = [(PROVIDER, spec.get("providerRef")), (VM_CLASS, spec.get("classRef")), (VM_IMAGE, spec.get("imageRef"))]
    pairs += [(VM_NETWORK, nic.get("networkRef")) for nic in spec.get("networks") or []]
    return {(kind.kind, ref.get("namespace") or own, ref["name"]) for kind, ref in pairs if ref}


def _merged(base: Any, patch: Any) -> Any:  # Any: JSON
    """A JSON merge patch applied. Source: RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = copy.deepcopy(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


async def plan(api: Api, home: Home, manifests: list[Manifest]) -> list[Plan]:
    """Ask each machine's provider what it would do.

    Raises:
        NotFoundError, RefusedError, UnreachableError: with the object's name and the reason.
    """
    objects = Objects(api, manifests)
    return [await _plan_one(api, home, objects, name, namespace) for namespace, name in objects.users_of(manifests)]


async def _plan_one(api: Api, home: Home, objects: Objects, name: str, namespace: str) -> Plan:
    from common import errors, v1

    body = objects.get(VIRTUAL_MACHINE, name, namespace)
    label = f"{namespace}/{name}"
    # A machine that is yet to be made has no UID; any fresh one stands for it.
    body["metadata"].setdefault("uid", str(uuid.uuid4()))
    reference = _reference(body, "providerRef", label)
    provider = objects.get(PROVIDER, reference[1], reference[0], f"{label}: spec.providerRef: ")
    async with link(home, provider) as stub:
        server = await stub("ProviderService").get_provider(v1.GetProviderRequest(), timeout=CALL_LIMIT)
        try:
            composed = _compose(objects, body, provider, label, server.owner)
        except errors.InvalidSpecError as error:
            raise RefusedError(f"{label}: {error}") from error
        request = v1.PlanMachineRequest(spec=composed.spec)
        answer = await stub("MachineService").plan_machine(request, timeout=CALL_LIMIT)
    changes = [_in_words(change) for change in answer.changes]
    ignored = [PlannedChange(r.field, "ignored", r.message, [r.reason]) for r in composed.ignored]
    return Plan(namespace, name, answer.machine is not None, changes, ignored)


def _in_words(change: v1.Change) -> PlannedChange:
    effect = change.effect.name or "UNSPECIFIED"
    reasons = [reason.message or reason.code for reason in change.reasons]
    return PlannedChange(change.field, effect.lower(), change.message, reasons)


def _reference(body: Object, key: str, label: str) -> tuple[str, str]:
    """Namespace and name that a field refers to."""
    reference = body["spec"].get(key)
    if not isinstance(reference, dict) or not reference.get("name"):
        raise RefusedError(f"{label}: spec.{key}.name is missing")
    return reference.get("namespace") or body["metadata"].get("namespace") or "default", reference["name"]


def _compose(objects: Objects, body: Object, provider: Object, label: str, owner: str) -> composing.Composed:
    from kinds import compose as composing
    from kinds.provider import Provider
    from kinds.virtualmachine import VirtualMachine
    from kinds.vmclass import VMClass
    from kinds.vmnetworkattachment import VMNetworkAttachment

    spec, own = body["spec"], body["metadata"].get("namespace") or "default"
    place, name = _reference(body, "classRef", label)
    vmclass = objects.get(VM_CLASS, name, place, f"{label}: spec.classRef: ")
    image_id = None
    if spec.get("imageRef"):
        place, name = _reference(body, "imageRef", label)
        image_id = _image_id(objects.get(VM_IMAGE, name, place, f"{label}: spec.imageRef: "), provider)
    networks = {}
    for nic in spec.get("networks") or []:
        if reference := nic.get("networkRef"):
            where = f"{label}: spec.networks[{nic.get('name')}].networkRef: "
            attachment = objects.get(VM_NETWORK, reference["name"], reference.get("namespace") or own, where)
            networks[nic["name"]] = _typed(attachment, VMNetworkAttachment, label)
    defaults = composing.Defaults.of(_typed(provider, Provider, label))
    return composing.compose(
        _typed(body, VirtualMachine, label),
        _typed(vmclass, VMClass, label),
        image_id,
        networks,
        _boot(objects, spec, own, composing),
        owner,
        defaults,
    )


def _typed(body: Object, kind: type[T], label: str) -> T:
    import msgspec

    try:
        return msgspec.convert(body, kind, strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(f"{label}: {body.get('kind')} {body['metadata']['name']}: {error}") from error


def _image_id(image: Object, provider: Object) -> str:
    """Id under which the provider has the image; a word of ours while it is not prepared, which plans the same."""
    metadata = provider["metadata"]
    known: Mapping[str, Any] = (image.get("status") or {}).get("providerStatus") or {}
    for key in (
        f"{metadata['namespace']}/{metadata['name']}",
        f"{metadata['namespace']}.{metadata['name']}",
        metadata["name"],
    ):
        if found := (known.get(key) or {}).get("id"):
            return str(found)
    return f"not-prepared-yet/{image['metadata']['name']}"


def _boot(objects: Objects, spec: Object, namespace: str, composing: Any) -> composing.BootSources:  # Any: the module
    user = spec.get("userData") or {}
    cloud, ignition = user.get("cloudInit") or {}, user.get("ignition") or {}
    sysprep = (spec.get("customization") or {}).get("sysprep") or {}
    meta = (spec.get("metaData") or {}).get("cloudInit") or {}
    return composing.BootSources(  # type: ignore[no-any-return]  # the module is passed in
        user_data=_secret(objects, cloud.get("secretRef"), namespace, USER_DATA_KEYS),
        meta_data=_secret(objects, meta.get("secretRef"), namespace, META_DATA_KEYS),
        ignition=_secret(objects, ignition.get("secretRef"), namespace, IGNITION_KEYS),
        admin_password=_password(objects, sysprep.get("adminPassword"), namespace),
        join_password=_password(objects, (sysprep.get("joinDomain") or {}).get("password"), namespace),
    )


def _password(objects: Objects, wish: Object | None, namespace: str) -> str | None:
    if not wish:
        return None
    return _secret(objects, wish.get("secretRef"), namespace, (wish.get("secretKey") or "password",))


def _secret(objects: Objects, reference: Object | None, namespace: str, keys: tuple[str, ...]) -> str | None:
    """Content of the first key that the Secret has."""
    if not reference:
        return None
    import base64

    body = objects.get(SECRET, reference["name"], namespace)
    for key in keys:
        if key in (body.get("stringData") or {}):
            return str(body["stringData"][key])
        if key in (body.get("data") or {}):
            return base64.b64decode(body["data"][key]).decode(errors="replace")
    raise RefusedError(f"Secret {namespace}/{reference['name']} has none of the keys {', '.join(keys)}")
