"""VMImage: what machines are built from."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from msgspec import field as named

from .metadata import Conditions, LabelSelector, Model, Resource
from .patterns import IMAGE_REFERENCE
from .shared import Duration, LocalObjectReference, ObjectRef, Quantity, Timestamp


class BasicAuth(Model):
    """User/password."""

    secret_ref: Annotated[LocalObjectReference, Meta(description="Secret")]
    password_key: Annotated[str, Meta(description="Key of the password")] = "password"
    username_key: Annotated[str, Meta(description="Key of the user")] = "username"


class Bearer(Model):
    """Token."""

    secret_ref: Annotated[LocalObjectReference, Meta(description="Secret")]
    token_key: Annotated[str, Meta(description="Key of the token")] = "token"


class ClientCert(Model):
    """Mutual TLS."""

    secret_ref: Annotated[LocalObjectReference, Meta(description="Secret")]
    cert_key: Annotated[str, Meta(description="Key of the certificate")] = "tls.crt"
    key_key: Annotated[str, Meta(description="Key of the private key")] = "tls.key"


class Authentication(Model):
    """Credentials block."""

    basic_auth: Annotated[BasicAuth | None, Meta(description="User/password")] = None
    bearer: Annotated[Bearer | None, Meta(description="Token")] = None
    client_cert: Annotated[ClientCert | None, Meta(description="Mutual TLS")] = None


class VMImageSourceHttp(Model):
    """Download, for any provider."""

    url: Annotated[str, Meta(description="Address", pattern=r"^https?://.*")]
    authentication: Annotated[Authentication | None, Meta(description="Credentials block")] = None
    checksum: Annotated[str | None, Meta(description="Expected digest")] = None
    checksum_type: Annotated[Literal["md5", "sha1", "sha256", "sha512"], Meta(description="Digest algorithm")] = (
        "sha256"
    )
    headers: Annotated[dict[str, str], Meta(description="Extra request headers", max_length=20)] = {}
    timeout: Annotated[Duration, Meta(description="Download limit")] = "30m"


class VMImageSourceLibvirt(Model):
    """libvirt sources."""

    checksum: Annotated[str | None, Meta(description="Expected digest")] = None
    checksum_type: Annotated[Literal["md5", "sha1", "sha256", "sha512"], Meta(description="Digest algorithm")] = (
        "sha256"
    )
    format: Annotated[
        Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "iso", "ova", "ovf"], Meta(description="Source format")
    ] = "qcow2"
    path: Annotated[
        str | None,
        Meta(description="File on the provider's side: inside an allowed directory, or relative to the first of them"),
    ] = None
    storage_pool: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Pool to import into")] = None
    url: Annotated[
        Annotated[str, Meta(pattern=r"^(https?|ftp)://.*")] | None, Meta(description="Where to download it from")
    ] = None


class VMImageSourceProxmox(Model):
    """Proxmox sources."""

    format: Annotated[Literal["raw", "qcow2", "vmdk"], Meta(description="Disk format")] = "qcow2"
    full_clone: Annotated[bool, Meta(description="Copy the template's disks instead of linking to them")] = True
    node: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Node that holds the template")] = (
        None
    )
    storage: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Target storage")] = None
    template_id: Annotated[
        Annotated[int, Meta(ge=100, le=999999999)] | None,
        Meta(description="VMID of an existing template (100-999999999)"),
    ] = named(name="templateID", default=None)
    template_name: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Template by name")] = None


class Registry(Model):
    """Image inside an OCI image."""

    image: Annotated[str, Meta(description="Reference", pattern=IMAGE_REFERENCE, max_length=512)]
    format: Annotated[
        Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "iso", "ova", "ovf"], Meta(description="Format found inside")
    ] = "qcow2"
    pull_secret_ref: Annotated[LocalObjectReference | None, Meta(description="Pull secret")] = None


class ContentLibrary(Model):
    """Item of a content library."""

    item: Annotated[str, Meta(description="Item name", max_length=255)]
    library: Annotated[str, Meta(description="Library name", max_length=255)]
    version: Annotated[str | None, Meta(description="Item version")] = None


class VMImageSourceVsphere(Model):
    """vSphere sources."""

    checksum: Annotated[str | None, Meta(description="Expected digest of the download")] = None
    checksum_type: Annotated[Literal["md5", "sha1", "sha256", "sha512"], Meta(description="Digest algorithm")] = (
        "sha256"
    )
    content_library: Annotated[ContentLibrary | None, Meta(description="Item of a content library")] = None
    ova_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://.+", max_length=2048)] | None,
        Meta(description="OVA/OVF to import. Pattern forbids query strings and upper-case extensions"),
    ] = named(name="ovaURL", default=None)
    provider_ref: Annotated[LocalObjectReference | None, Meta(description="Provider that should do the import")] = None
    template_name: Annotated[
        Annotated[str, Meta(max_length=255)] | None, Meta(description="Existing template, bare name or inventory path")
    ] = None
    snapshot_name: Annotated[
        Annotated[str, Meta(max_length=255)] | None,
        Meta(
            description=(
                "Snapshot of templateName, which may then be a machine as well: machines share its disks and write to "
                "their own deltas"
            )
        ),
    ] = None


class VMImageSource(Model):
    """Where the image comes from; one member."""

    data_volume: Annotated[ObjectRef | None, Meta(description="CDI DataVolume")] = None
    http: Annotated[VMImageSourceHttp | None, Meta(description="Download, for any provider")] = None
    libvirt: Annotated[VMImageSourceLibvirt | None, Meta(description="libvirt sources")] = None
    proxmox: Annotated[VMImageSourceProxmox | None, Meta(description="Proxmox sources")] = None
    registry: Annotated[Registry | None, Meta(description="Image inside an OCI image")] = None
    vsphere: Annotated[VMImageSourceVsphere | None, Meta(description="vSphere sources")] = None


class Kernel(Model):
    """Kernel identity."""

    type: Annotated[Literal["linux", "windows", "freebsd", "other"] | None, Meta(description="Kind")] = None
    version: Annotated[str | None, Meta(description="Version")] = None


class Distribution(Model):
    """OS identity, informational."""

    family: Annotated[Literal["linux", "windows", "bsd", "other"] | None, Meta(description="OS family")] = None
    kernel: Annotated[Kernel | None, Meta(description="Kernel identity")] = None
    name: Annotated[
        Literal["ubuntu", "centos", "rhel", "fedora", "debian", "suse", "windows", "freebsd", "coreos", "other"] | None,
        Meta(description="Distribution"),
    ] = None
    variant: Annotated[Annotated[str, Meta(max_length=100)] | None, Meta(description="Edition")] = None
    version: Annotated[Annotated[str, Meta(max_length=100)] | None, Meta(description="Release")] = None


class VMImageMetadata(Model):
    """Catalogue data, informational."""

    annotations: Annotated[dict[str, str], Meta(description="Annotations", max_length=50)] = {}
    architecture: Annotated[Literal["amd64", "arm64", "x86_64", "aarch64"], Meta(description="Architecture")] = "amd64"
    description: Annotated[Annotated[str, Meta(max_length=1024)] | None, Meta(description="Text")] = None
    display_name: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Label")] = None
    tags: Annotated[dict[str, str], Meta(description="Tags", max_length=50)] = {}
    version: Annotated[Annotated[str, Meta(max_length=100)] | None, Meta(description="Image version")] = None


class Optimization(Model):
    """Post-import work."""

    convert_format: Annotated[
        Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "iso", "ova", "ovf"] | None, Meta(description="Convert")
    ] = None
    enable_compression: Annotated[bool, Meta(description="Compress")] = False
    enable_delta_sync: Annotated[bool, Meta(description="Transfer only differences")] = False
    remove_unused_space: Annotated[bool, Meta(description="Sparsify")] = False


class PrepareStorageLibvirt(Model):
    """libvirt target."""

    allocation_policy: Annotated[Literal["eager", "lazy"] | None, Meta(description="Eager or lazy allocation")] = None
    preallocation: Annotated[
        Literal["off", "metadata", "falloc", "full"] | None, Meta(description="qemu-img preallocation mode")
    ] = None
    storage_pool: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Pool")] = None


class PrepareStorageVsphere(Model):
    """vSphere target."""

    datastore: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Datastore")] = None
    disk_type: Annotated[Literal["thin", "thick", "eagerzeroedthick"] | None, Meta(description="Provisioning type")] = (
        None
    )
    folder: Annotated[Annotated[str, Meta(max_length=255)] | None, Meta(description="Folder")] = None
    thin_provisioned: Annotated[bool | None, Meta(description="Thin provisioned")] = None


class PrepareStorage(Model):
    """Where and how to store."""

    compression: Annotated[bool, Meta(description="Compress")] = False
    libvirt: Annotated[PrepareStorageLibvirt | None, Meta(description="libvirt target")] = None
    preferred_format: Annotated[
        Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "iso", "ova", "ovf"] | None, Meta(description="Wanted format")
    ] = None
    vsphere: Annotated[PrepareStorageVsphere | None, Meta(description="vSphere target")] = None


class Prepare(Model):
    """How to import."""

    force: Annotated[bool | None, Meta(description="Re-import although present")] = None
    on_missing: Annotated[
        Literal["Import", "Fail", "Wait"],
        Meta(description="What to do where the image is not prepared: Import it, Fail, or Wait for somebody else"),
    ] = "Import"
    optimization: Annotated[Optimization | None, Meta(description="Post-import work")] = None
    retries: Annotated[int, Meta(description="Retry budget", ge=0, le=10)] = 3
    storage: Annotated[PrepareStorage | None, Meta(description="Where and how to store")] = None
    timeout: Annotated[Duration, Meta(description="Limit for preparing it on one provider")] = "30m"
    validate_checksum: Annotated[bool, Meta(description="Verify the checksum, where one is given")] = True


class VMImageSpec(Model):
    """What is wanted."""

    source: Annotated[VMImageSource, Meta(description="Where the image comes from; one member")]
    distribution: Annotated[Distribution | None, Meta(description="OS identity, informational")] = None
    metadata: Annotated[VMImageMetadata | None, Meta(description="Catalogue data, informational")] = None
    prepare: Annotated[Prepare | None, Meta(description="How to import")] = None
    consumer_namespace_selector: Annotated[
        LabelSelector | None,
        Meta(description="Namespaces whose machines may use the image; unset means its own only, {} means all"),
    ] = None


class ImportProgress(Model):
    """Progress block."""

    eta: Annotated[str | None, Meta(description="Remaining time as a duration string")] = None
    percentage: Annotated[Annotated[int, Meta(ge=0, le=100)] | None, Meta(description="0-100")] = None
    start_time: Annotated[Timestamp | None, Meta(description="Start")] = None
    total_bytes: Annotated[int | None, Meta(description="Size")] = None
    transfer_rate: Annotated[int | None, Meta(description="Bytes/s")] = None
    transferred_bytes: Annotated[int | None, Meta(description="Done")] = None


class VMImageStatusProviderStatus(Model):
    """Map keyed by bare Provider name."""

    available: Annotated[bool, Meta(description="Present there")]
    id: Annotated[str | None, Meta(description="Template id/name")] = None
    last_updated: Annotated[Timestamp | None, Meta(description="Time")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    path: Annotated[str | None, Meta(description="File path")] = None
    size: Annotated[Quantity | None, Meta(description="Size there")] = None
    provider_uid: Annotated[str | None, Meta(description="UID of the Provider")] = named(
        name="providerUID", default=None
    )
    task_ref: Annotated[str | None, Meta(description="Operation that prepares it there")] = None
    source_digest: Annotated[str | None, Meta(description="Digest of the source as fetched")] = None
    progress: Annotated[str | None, Meta(description="Step that the preparation is at")] = None


class VMImageStatus(Model):
    """What is true."""

    available_on: Annotated[list[str], Meta(description="Providers that have it ready")] = []
    checksum: Annotated[str | None, Meta(description="Real digest")] = None
    conditions: Annotated[Conditions, Meta(description="What holds: Ready, Importing, Validated")] = []
    format: Annotated[
        Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "iso", "ova", "ovf"] | None, Meta(description="Real format")
    ] = None
    import_progress: Annotated[ImportProgress | None, Meta(description="Progress block")] = None
    last_prepare_time: Annotated[Timestamp | None, Meta(description="Last prepare start/finish")] = None
    message: Annotated[str | None, Meta(description="Text")] = None
    observed_generation: Annotated[int | None, Meta(description="Generation last processed")] = None
    phase: Annotated[
        Literal["Pending", "Downloading", "Importing", "Converting", "Optimizing", "Ready", "Failed"] | None,
        Meta(description="Step of the preparation"),
    ] = None
    prepare_task_ref: Annotated[str | None, Meta(description="ONE task handle for the whole image")] = None
    provider_status: Annotated[
        dict[str, VMImageStatusProviderStatus], Meta(description="Map keyed by bare Provider name")
    ] = {}
    ready: Annotated[bool | None, Meta(description="At least one provider has it ready")] = None
    size: Annotated[Quantity | None, Meta(description="Size")] = None


class VMImage(Resource):
    """What machines are built from."""

    spec: VMImageSpec
    status: VMImageStatus = named(default_factory=VMImageStatus)
