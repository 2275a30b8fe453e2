"""From a VMImage to what a provider is asked to prepare."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta

import msgspec
from common import v1
from common.errors import InvalidSpecError, NotSupportedError
from kinds import duration
from kinds.vmimage import VMImage, VMImageSourceHttp, VMImageSourceLibvirt, VMImageSourceVsphere

from .secrets import Secrets


def digest_of(image: VMImage) -> str:
    """Digest of what the image says about its source and its preparation; another one is another artefact."""
    said = json.dumps([msgspec.to_builtins(image.spec.source), _storage(image)], sort_keys=True)
    return "sha256:" + hashlib.sha256(said.encode()).hexdigest()


def _storage(image: VMImage) -> str:
    prepare = image.spec.prepare
    source = image.spec.source
    if source.libvirt is not None and source.libvirt.storage_pool:
        return source.libvirt.storage_pool
    if source.proxmox is not None and source.proxmox.storage:
        return source.proxmox.storage
    storage = prepare.storage if prepare is not None else None
    if storage is None:
        return ""
    if storage.libvirt is not None and storage.libvirt.storage_pool:
        return storage.libvirt.storage_pool
    return storage.vsphere.datastore or "" if storage.vsphere is not None else ""


async def request_for(
    image: VMImage, provider_type: str, owner: str, secrets: Secrets, *, check_only: bool
) -> v1.PrepareImageRequest:
    """What to ask of a provider of this type.

    Raises:
        InvalidSpecError: the image names no source that such a provider can use, or an impossible one.
        NotSupportedError: the source is of a kind that nothing implements yet.
        Hold: a Secret is missing.
    """
    meta = image.metadata
    return v1.PrepareImageRequest(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        owner=owner,
        source=await _source(image, provider_type, secrets),
        storage=_storage(image),
        check_only=check_only,
    )


async def _source(image: VMImage, provider_type: str, secrets: Secrets) -> v1.ImageSource:
    source = image.spec.source
    blocks = {"libvirt": source.libvirt, "vsphere": source.vsphere, "proxmox": source.proxmox}
    kinds = [provider_type] if provider_type in blocks else list(blocks)
    if "libvirt" in kinds and source.libvirt is not None:
        return _libvirt(source.libvirt)
    if "vsphere" in kinds and source.vsphere is not None:
        return _vsphere(source.vsphere)
    if "proxmox" in kinds and source.proxmox is not None:
        block = source.proxmox
        name = str(block.template_id) if block.template_id is not None else block.template_name or ""
        if not name:
            raise InvalidSpecError("spec.source.proxmox: names no template; set templateID or templateName")
        return v1.ImageSource(template=v1.TemplateSource(name=name, node=block.node or ""), format=block.format or "")
    if source.http is not None:
        return await _http(image, source.http, secrets)
    if source.registry is not None:
        if source.registry.pull_secret_ref is not None:
            raise NotSupportedError("spec.source.registry.pullSecretRef: pull secrets are not supported yet")
        return v1.ImageSource(
            registry=v1.RegistrySource(image=source.registry.image), format=source.registry.format or ""
        )
    if source.data_volume is not None:
        raise NotSupportedError("spec.source.dataVolume: DataVolumes are not supported; give a URL or a file")
    given = ", ".join(name for name, block in blocks.items() if block is not None) or "nothing"
    raise InvalidSpecError(
        f"spec.source: has no source for a provider of type {provider_type} (it has {given}); "
        f"add source.{provider_type} or source.http"
    )


def _libvirt(block: VMImageSourceLibvirt) -> v1.ImageSource:
    if bool(block.url) == bool(block.path):
        both = "both are" if block.url else "neither is"
        raise InvalidSpecError(f"spec.source.libvirt: {both} given; set exactly one of url and path")
    checksum = _checksum(block.checksum, block.checksum_type)
    if block.url:
        _refuse_user_information(block.url, "spec.source.libvirt.url")
        return v1.ImageSource(url=v1.UrlSource(url=block.url), format=block.format or "", checksum=checksum)
    return v1.ImageSource(file=v1.FileSource(path=block.path or ""), format=block.format or "", checksum=checksum)


def _vsphere(block: VMImageSourceVsphere) -> v1.ImageSource:
    if block.template_name:
        return v1.ImageSource(template=v1.TemplateSource(name=block.template_name))
    if block.content_library is not None:
        library = block.content_library
        return v1.ImageSource(
            library=v1.LibrarySource(library=library.library, item=library.item, version=library.version or "")
        )
    if block.ova_url:
        _refuse_user_information(block.ova_url, "spec.source.vsphere.ovaURL")
        return v1.ImageSource(
            url=v1.UrlSource(url=block.ova_url), format="ova", checksum=_checksum(block.checksum, block.checksum_type)
        )
    raise InvalidSpecError("spec.source.vsphere: is empty; set templateName, contentLibrary or ovaURL")


async def _http(image: VMImage, block: VMImageSourceHttp, secrets: Secrets) -> v1.ImageSource:
    _refuse_user_information(block.url, "spec.source.http.url")
    headers = dict(block.headers)
    namespace, where = image.metadata.namespace, "spec.source.http.authentication"
    auth = block.authentication
    if auth is not None and auth.client_cert is not None:
        raise NotSupportedError(f"{where}.clientCert: client certificates are not supported yet")
    if auth is not None and auth.bearer is not None:
        bearer = auth.bearer
        token = await secrets.credential(
            namespace, bearer.secret_ref.name, (bearer.token_key or "token",), f"{where}.bearer"
        )
        headers["Authorization"] = f"Bearer {token.strip()}"
    elif auth is not None and auth.basic_auth is not None:
        basic = auth.basic_auth
        name, place = basic.secret_ref.name, f"{where}.basicAuth"
        user = await secrets.credential(namespace, name, (basic.username_key or "username",), place)
        password = await secrets.credential(namespace, name, (basic.password_key or "password",), place)
        coded = base64.b64encode(f"{user.strip()}:{password.strip()}".encode()).decode()
        headers["Authorization"] = f"Basic {coded}"
    url = v1.UrlSource(url=block.url, headers=headers)
    if block.timeout:
        url.timeout = timedelta(seconds=duration.parse(block.timeout))
    return v1.ImageSource(url=url, checksum=_checksum(block.checksum, block.checksum_type))


def _checksum(digest: str | None, algorithm: str | None) -> v1.Checksum | None:
    if not digest:
        return None
    return v1.Checksum(algorithm=algorithm or "sha256", digest=digest.strip().lower())


def _refuse_user_information(url: str, where: str) -> None:
    authority = url.split("://", 1)[-1].split("/", 1)[0]
    if "@" in authority:
        raise InvalidSpecError(f"{where}: has a user name in it; put credentials into a Secret and use source.http")
