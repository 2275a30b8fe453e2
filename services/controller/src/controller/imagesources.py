"""From a VMImage to what a provider is asked to prepare."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta

import msgspec
from common import redact, v1
from common.errors import InvalidSpecError, NotSupportedError
from kinds import duration
from kinds.vmimage import PrepareStorage, VMImage, VMImageSourceHttp, VMImageSourceLibvirt, VMImageSourceVsphere

from .secrets import Secrets


def digest_of(image: VMImage) -> str:
    """Digest of what the image says about its source and its preparation; another one is another artefact."""
    prepare = image.spec.prepare
    said = [
        msgspec.to_builtins(image.spec.source),
        msgspec.to_builtins(prepare.storage) if prepare is not None and prepare.storage is not None else None,
        _verified(image),
    ]
    return "sha256:" + hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _verified(image: VMImage) -> bool:
    return image.spec.prepare is None or image.spec.prepare.validate_checksum


def _storage(image: VMImage, provider_type: str) -> str:
    """Pool or datastore on a provider of this type; what the source says itself goes first."""
    source, prepare = image.spec.source, image.spec.prepare
    storage = prepare.storage if prepare is not None and prepare.storage is not None else PrepareStorage()
    found = {
        "libvirt": [
            source.libvirt.storage_pool if source.libvirt is not None else None,
            storage.libvirt.storage_pool if storage.libvirt is not None else None,
        ],
        "proxmox": [source.proxmox.storage if source.proxmox is not None else None],
        "vsphere": [storage.vsphere.datastore if storage.vsphere is not None else None],
    }
    names = found[provider_type] if provider_type in found else [name for each in found.values() for name in each]
    return next((name for name in names if name), "")


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
    source = await _source(image, provider_type, secrets)
    if not _verified(image):
        source.checksum = None
    _limit(image, source)
    return v1.PrepareImageRequest(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        owner=owner,
        source=source,
        storage=_storage(image, provider_type),
        check_only=check_only,
    )


def _limit(image: VMImage, source: v1.ImageSource) -> None:
    """The shorter one of the source's own limit and prepare.timeout is that of the download."""
    prepare = image.spec.prepare
    if prepare is None or source.url is None:
        return
    limit = _duration(prepare.timeout, "spec.prepare.timeout")
    if source.url.timeout is None or limit < source.url.timeout:
        source.url.timeout = limit


def _duration(text: str, where: str) -> timedelta:
    try:
        found = timedelta(seconds=duration.parse(text))
    except (ValueError, OverflowError) as error:
        raise InvalidSpecError(f"{where}: {error}") from None
    if found <= timedelta(0):
        raise InvalidSpecError(f"{where}: {text} is no limit; give a time such as 30m")
    return found


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
        return v1.ImageSource(
            template=v1.TemplateSource(name=name, node=block.node or "", linked=not block.full_clone),
            format=block.format or "",
        )
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
        return v1.ImageSource(template=v1.TemplateSource(name=block.template_name, snapshot=block.snapshot_name or ""))
    if block.snapshot_name:
        raise InvalidSpecError("spec.source.vsphere.snapshotName: is of a template; set templateName, too")
    if block.content_library is not None:
        library = block.content_library
        return v1.ImageSource(
            library=v1.LibrarySource(library=library.library, item=library.item, version=library.version or "")
        )
    if block.ova_url:
        _refuse_user_information(block.ova_url, "spec.source.vsphere.ovaURL")
        kind = "ovf" if block.ova_url.endswith(".ovf") else "ova"
        return v1.ImageSource(
            url=v1.UrlSource(url=block.ova_url), format=kind, checksum=_checksum(block.checksum, block.checksum_type)
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
        user = await secrets.text(namespace, name, (basic.username_key or "username",), place)
        password = await secrets.credential(namespace, name, (basic.password_key or "password",), place)
        coded = base64.b64encode(f"{user.strip()}:{password.strip()}".encode()).decode()
        redact.register(coded, slot=f"{namespace}/{name} as basic")
        headers["Authorization"] = f"Basic {coded}"
    url = v1.UrlSource(url=block.url, headers=headers)
    if block.timeout:
        url.timeout = _duration(block.timeout, "spec.source.http.timeout")
    return v1.ImageSource(url=url, checksum=_checksum(block.checksum, block.checksum_type))


def _checksum(digest: str | None, algorithm: str | None) -> v1.Checksum | None:
    if not digest:
        return None
    return v1.Checksum(algorithm=algorithm or "sha256", digest=digest.strip().lower())


def _refuse_user_information(url: str, where: str) -> None:
    authority = url.split("://", 1)[-1].split("/", 1)[0]
    if "@" in authority:
        raise InvalidSpecError(f"{where}: has a user name in it; put credentials into a Secret and use source.http")
