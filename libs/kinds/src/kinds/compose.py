"""From the objects that a user writes to the machine that a provider makes: one pure function.

Every field of VirtualMachine, VMClass and VMNetworkAttachment ends in one of three ways: it is in the MachineSpec (and
the planner says if the provider cannot have it), it is reported in `Composed.ignored`, or it is INFORMATIONAL: text for
people that asks for nothing. Blocks of a VMNetworkAttachment for other providers do not concern the machine.

Shared by the controller and `vrtg plan`, so that both always mean the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.generator import Generator
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from io import StringIO

from common import v1
from common.errors import InvalidSpecError

from .customization import Sysprep
from .provider import Provider, ProviderDefaults
from .reading import byte_count, check_cidr, mac_address, meaning, optional_uint32, seconds_of, uint32, uint64
from .reports import FieldReport
from .shared import DiskSpec, PasswordSpec, VMNetworkRef
from .virtualmachine import VirtualMachine
from .vmclass import VMClass
from .vmnetworkattachment import IpAllocation, VMNetworkAttachment
from .wires import Wire

GIB, MIB = 1 << 30, 1 << 20
ROOT = "root"
"""Name of the boot disk. An entry of this name in spec.disks describes the boot disk itself, not another one."""
DEFAULT_DISK_TYPE = "thin"
"""The schema writes this default into every disk: it is no wish against what the class has chosen."""
DEFAULT_TOOLS_POLICY = "install"
"""Likewise for VMClass guestToolsPolicy: a policy that nobody chose must not make every machine incomplete."""

INFORMATIONAL = frozenset(
    {
        "VirtualMachine spec.importedDisk.source",
        "VirtualMachine spec.importedDisk.migrationRef",
        "VMNetworkAttachment spec.metadata",
    }
)


@dataclass(frozen=True)
class BootSources:
    """Contents of the Secrets that the VM's boot data and customization refer to; None where none is referred to."""

    user_data: str | None = None
    meta_data: str | None = None
    ignition: str | None = None
    admin_password: str | None = None
    join_password: str | None = None

    def __repr__(self) -> str:
        return "BootSources(...)"  # the contents are secret


@dataclass(frozen=True)
class Defaults:
    """What the Provider object adds."""

    provider_type: str = ""
    """Picks the block of a VMNetworkAttachment; empty or "fake" takes the first block that is there."""
    placement: ProviderDefaults | None = None

    @staticmethod
    def of(provider: Provider) -> Defaults:
        return Defaults(provider.spec.type, provider.spec.defaults)


@dataclass(frozen=True)
class Composed:
    """The whole desired state, and what is left out of it."""

    spec: v1.MachineSpec
    ignored: list[FieldReport] = field(default_factory=list)


def compose(
    vm: VirtualMachine,
    vmclass: VMClass,
    image_id: str | None,
    networks: Mapping[str, VMNetworkAttachment],
    boot: BootSources,
    owner: str,
    defaults: Defaults | None = None,
) -> Composed:
    """The machine that these objects ask for.

    Args:
        image_id: Image.id of the prepared image; None where there is none (importedDisk), or none yet.
        networks: the attachment of each NIC that has a networkRef, by the NIC's name.
        owner: installation id.

    Raises:
        InvalidSpecError: names the field and the cure.
    """
    return _Composer(vm, vmclass, networks, boot, defaults or Defaults()).compose(image_id, owner)


class _Composer:
    """One composition in the making; collects reports as it goes."""

    def __init__(
        self,
        vm: VirtualMachine,
        vmclass: VMClass,
        networks: Mapping[str, VMNetworkAttachment],
        boot: BootSources,
        defaults: Defaults,
    ) -> None:
        self.vm, self.vmclass, self.networks, self.boot, self.defaults = vm, vmclass, networks, boot, defaults
        self.ignored: list[FieldReport] = []

    def compose(self, image_id: str | None, owner: str) -> Composed:
        meta, spec, size = self.vm.metadata, self.vm.spec, self.vmclass.spec
        identity = v1.MachineIdentity(uid=meta.uid, namespace=meta.namespace, name=meta.name, owner=owner)
        self._unsupported()
        machine = v1.MachineSpec(
            identity=identity,
            cpu=self._cpu(),
            memory=self._memory(),
            firmware=self._firmware(),
            disks=self._disks(image_id),
            cdroms=[v1.CdromSpec(name=drive.name, medium=drive.medium or "") for drive in spec.cdroms or ()],
            nics=[self._nic(nic) for nic in spec.networks or ()],
            boot_data=self._boot_data(),
            placement=self._placement(),
            power=self._power(),
            tags=list(spec.tags or ()),
            attributes=dict(spec.attributes),
            customization=self._customization(),
            extra_config={**(size.extra_config or {}), **spec.extra_config},
            tuning=self._tuning(),
            gpus=self._gpus(),
            guest_tools_policy=""
            if size.guest_tools_policy in (None, DEFAULT_TOOLS_POLICY)
            else size.guest_tools_policy,
        )
        return Composed(machine, self.ignored)

    def _report(self, path: str, reason: str, message: str) -> None:
        self.ignored.append(FieldReport(path, reason, message))

    def _not_yet(self, value: object, path: str, what: str) -> None:
        """Report a field that is set and that nothing implements yet."""
        if value is not None and value != [] and value != {} and value != "":
            self._report(path, "NotSupportedYet", f"{what} not supported yet")

    def _unsupported(self) -> None:
        spec = self.vm.spec
        lifecycle = spec.lifecycle
        if lifecycle is not None:
            self._not_yet(lifecycle.pre_stop, "spec.lifecycle.preStop", "lifecycle hooks are")
            self._not_yet(lifecycle.post_start, "spec.lifecycle.postStart", "lifecycle hooks are")
        self._not_yet(spec.placement_ref, "spec.placementRef", "placement policies are")
        if spec.snapshot is not None:
            self._not_yet(spec.snapshot.revert_to_ref, "spec.snapshot.revertToRef", "reverting to a snapshot is")

    # -- processor, memory, firmware -------------------------------------------------------------------------------

    def _cpu(self) -> v1.CpuSpec:
        size, wish = self.vmclass.spec, self.vm.spec.resources
        count, where = size.cpu, "VMClass spec.cpu"
        if wish is not None and wish.cpu is not None:
            count, where = wish.cpu, "spec.resources.cpu"
        profile, limits = size.performance_profile, size.resource_limits
        cpu = v1.CpuSpec(count=uint32(count, where, least=1))
        if profile is not None:
            cpu.hot_add = bool(profile.cpu_hot_add_enabled)
            cpu.nested_virtualization = bool(profile.nested_virtualization)
        if limits is not None:
            where = "VMClass spec.resourceLimits"
            cpu.reservation_mhz = optional_uint32(limits.cpu_reservation, f"{where}.cpuReservation")
            cpu.limit_mhz = optional_uint32(limits.cpu_limit, f"{where}.cpuLimit")
            cpu.shares = optional_uint32(limits.cpu_shares, f"{where}.cpuShares")
        return cpu

    def _memory(self) -> v1.MemorySpec:
        size, wish = self.vmclass.spec, self.vm.spec.resources
        count = byte_count(size.memory, "VMClass spec.memory")
        if wish is not None and wish.memory_mib is not None:
            count = uint64(wish.memory_mib * MIB, "spec.resources.memoryMiB")
        if count < MIB:
            raise InvalidSpecError("VMClass spec.memory: a machine needs at least 1Mi; write a quantity such as 4Gi")
        memory = v1.MemorySpec(size_bytes=count)
        if size.performance_profile is not None:
            memory.hot_add = bool(size.performance_profile.memory_hot_add_enabled)
        if (limits := size.resource_limits) is not None:
            where = "VMClass spec.resourceLimits"
            if limits.memory_reservation is not None:
                memory.reservation_bytes = byte_count(limits.memory_reservation, f"{where}.memoryReservation")
            if limits.memory_limit is not None:
                memory.limit_bytes = byte_count(limits.memory_limit, f"{where}.memoryLimit")
        return memory

    def _firmware(self) -> v1.FirmwareSpec:
        size = self.vmclass.spec
        kinds = {"BIOS": v1.FirmwareType.BIOS, "UEFI": v1.FirmwareType.UEFI, "EFI": v1.FirmwareType.UEFI}
        firmware = v1.FirmwareSpec(
            type=meaning(size.firmware, kinds, "VMClass spec.firmware", v1.FirmwareType.UNSPECIFIED)
        )
        if (profile := size.security_profile) is not None:
            firmware.secure_boot = bool(profile.secure_boot)
            firmware.tpm = bool(profile.tpm_enabled)
            firmware.tpm_version = {"2": "2.0"}.get(profile.tpm_version or "", profile.tpm_version or "")
            if profile.tpm_version and not profile.tpm_enabled:
                self._report(
                    "VMClass spec.securityProfile.tpmVersion",
                    "NoEffect",
                    "a TPM version without tpmEnabled has no effect",
                )
        return firmware

    def _tuning(self) -> v1.Tuning:
        tuning = v1.Tuning()
        if (profile := self.vmclass.spec.performance_profile) is not None:
            tuning.latency_sensitivity = profile.latency_sensitivity or ""
            tuning.hyper_threading_policy = profile.hyper_threading_policy or ""
            tuning.virtualization_based_security = bool(profile.virtualization_based_security)
        if (security := self.vmclass.spec.security_profile) is not None:
            tuning.iommu = bool(security.vtd_enabled)
            if (encryption := security.encryption_policy) is not None:
                tuning.encryption = bool(encryption.enabled)
                tuning.encryption_required = bool(encryption.require_encryption)
                tuning.encryption_key_provider = encryption.key_provider or ""
                if tuning.encryption_required and not tuning.encryption:
                    where = "VMClass spec.securityProfile.encryptionPolicy"
                    raise InvalidSpecError(f"{where}: requireEncryption without enabled; set enabled: true")
        return tuning

    def _gpus(self) -> list[v1.GpuSpec]:
        wish = self.vm.spec.resources
        if wish is None or wish.gpu is None:
            return []
        where, gpu = "spec.resources.gpu", wish.gpu
        memory = uint64((gpu.memory or 0) * MIB, f"{where}.memory")
        return [
            v1.GpuSpec(count=uint32(gpu.count, f"{where}.count", least=1), model=gpu.type or "", memory_bytes=memory)
        ]

    # -- disks -----------------------------------------------------------------------------------------------------

    def _disks(self, image_id: str | None) -> list[v1.DiskSpec]:
        extra = list(self.vm.spec.disks or ())
        names = [disk.name for disk in extra]
        for name in names:
            if names.count(name) > 1:
                raise InvalidSpecError(f"spec.disks: the name {name!r} is given twice; names are unique in a machine")
        root = next((disk for disk in extra if disk.name == ROOT), None)
        return [self._root(image_id, root), *(self._disk(disk) for disk in extra if disk is not root)]

    def _root(self, image_id: str | None, wish: DiskSpec | None) -> v1.DiskSpec:
        spec = self.vm.spec
        if spec.image_ref is not None and spec.imported_disk is not None:
            raise InvalidSpecError("spec: both are given; set exactly one of imageRef and importedDisk")
        if spec.image_ref is None and spec.imported_disk is None and not spec.cdroms:
            raise InvalidSpecError(
                "spec: neither is given; set exactly one of imageRef and importedDisk, or cdroms to install from"
            )
        disk = v1.DiskSpec(name=ROOT)
        if spec.imported_disk is not None:
            imported = spec.imported_disk
            disk.existing = v1.ExistingDisk(id=imported.path or imported.disk_id, format=imported.format or "qcow2")
            if imported.size_gib is not None:
                self._report(
                    "spec.importedDisk.sizeGiB",
                    "NotChecked",
                    "an imported disk is used as it stands; its size is not checked",
                )
        elif image_id is not None:
            disk.image = v1.ImageRef(id=image_id)
        self._root_defaults(disk)
        if wish is not None:
            self._settings(disk, wish)
        return disk

    def _root_defaults(self, disk: v1.DiskSpec) -> None:
        """The class sizes disks that are made for the machine; a disk that existed before is not touched by it."""
        defaults = self.vmclass.spec.disk_defaults
        if defaults is None or disk.existing is not None:
            return
        where = "VMClass spec.diskDefaults"
        if defaults.size is not None:
            disk.size_bytes = byte_count(defaults.size, f"{where}.size")
        disk.provisioning = self._provisioning(defaults.type, f"{where}.type")
        disk.storage = defaults.storage_class or ""
        disk.storage_policy = defaults.storage_policy or ""
        disk.iops_limit = uint32(defaults.iops or 0, f"{where}.iops")

    def _disk(self, wish: DiskSpec) -> v1.DiskSpec:
        disk = v1.DiskSpec(name=wish.name)
        defaults = self.vmclass.spec.disk_defaults
        if defaults is not None:
            disk.iops_limit = uint32(defaults.iops or 0, "VMClass spec.diskDefaults.iops")
            disk.storage_policy = defaults.storage_policy or ""
        self._settings(disk, wish)
        return disk

    def _settings(self, disk: v1.DiskSpec, wish: DiskSpec) -> None:
        where = f"spec.disks[{wish.name}]"
        if wish.size_gib is not None:
            disk.size_bytes = uint64(wish.size_gib * GIB, f"{where}.sizeGiB")
        # The schema writes the default into every entry, so that it says nothing against what the class has chosen.
        if wish.type != DEFAULT_DISK_TYPE or disk.provisioning is v1.DiskProvisioning.UNSPECIFIED:
            disk.provisioning = self._provisioning(wish.type, f"{where}.type")
        buses = {bus.name.lower(): bus for bus in v1.DiskBus if bus.name and bus is not v1.DiskBus.UNSPECIFIED}
        disk.bus = meaning((wish.bus or "").lower() or None, buses, f"{where}.bus", v1.DiskBus.UNSPECIFIED)
        disk.storage = wish.storage_pool or wish.storage_class or disk.storage
        if wish.storage_pool and wish.storage_class and wish.storage_pool != wish.storage_class:
            self._report(f"{where}.storageClass", "Overridden", f"storagePool {wish.storage_pool} takes precedence")
        disk.storage_policy = wish.storage_policy or disk.storage_policy
        disk.online_grow = wish.expand_policy == "Online"
        if (scsi := wish.scsi) is not None:
            disk.controller_index = optional_uint32(scsi.controller, f"{where}.scsi.controller")
            disk.controller_type = scsi.controller_type or ""
            disk.sharing = scsi.shared_bus or ""

    def _provisioning(self, word: str | None, where: str) -> v1.DiskProvisioning:
        if word in ("ssd", "hdd", "nvme"):
            self._report(
                where,
                "NotSupportedYet",
                f"{word} is a kind of medium and cannot be chosen yet; name a storage that has it",
            )
            return v1.DiskProvisioning.UNSPECIFIED
        kinds = {
            "thin": v1.DiskProvisioning.THIN,
            "thick": v1.DiskProvisioning.THICK,
            "eagerzeroedthick": v1.DiskProvisioning.EAGER_ZEROED_THICK,
        }
        return meaning(word, kinds, where, v1.DiskProvisioning.UNSPECIFIED)

    # -- network ---------------------------------------------------------------------------------------------------

    def _nic(self, nic: VMNetworkRef) -> v1.NicSpec:
        where = f"spec.networks[{nic.name}]"
        names = [other.name for other in self.vm.spec.networks or ()]
        if names.count(nic.name) > 1:
            raise InvalidSpecError(
                f"spec.networks: the name {nic.name!r} is given twice; names are unique in a machine"
            )
        attachment = self.networks.get(nic.name)
        spec = v1.NicSpec(name=nic.name, mac=mac_address(nic.mac_address or "", f"{where}.macAddress"))
        if attachment is not None:
            wire = Wire(attachment, self.defaults.provider_type)
            spec.network, spec.model, spec.mtu = wire.network(), wire.model, uint32(wire.mtu, f"{wire.where}.mtu")
            spec.firewall, spec.trunks = wire.firewall, wire.trunks
            spec.rate_limit_bytes = uint64(wire.rate_limit * MIB, f"{wire.where}.rateLimit")
            self.ignored += [report for report in wire.reports() if report not in self.ignored]
        elif nic.network_ref is not None:
            raise InvalidSpecError(f"{where}.networkRef: VMNetworkAttachment {nic.network_ref.name} was not given")
        elif self.defaults.placement is not None and self.defaults.placement.network:
            spec.network = v1.NetworkRef(kind=v1.NetworkKind.NAMED, name=self.defaults.placement.network)
        else:
            spec.network = v1.NetworkRef(kind=v1.NetworkKind.NAT)
        if nic.mtu is not None:
            spec.mtu = uint32(nic.mtu, f"{where}.mtu")
        spec.addressing = self._addressing(nic, attachment, where)
        return spec

    def _addressing(
        self, nic: VMNetworkRef, attachment: VMNetworkAttachment | None, where: str
    ) -> v1.GuestAddressing | None:
        """The NIC's own wishes; where it has none, the network's."""
        own = v1.GuestAddressing(
            gateway4=nic.gateway or "",
            gateway6=nic.gateway6 or "",
            nameservers=[part.strip() for part in (nic.dns or "").split(",") if part.strip()],
            search_domains=list(nic.search_domains or ()),
        )
        own.nameservers += [server for server in nic.nameservers or () if server not in own.nameservers]
        if nic.ip_address:
            if nic.prefix is None:
                raise InvalidSpecError(f"{where}.prefix: is needed with ipAddress {nic.ip_address}; for example 24")
            own.addresses.append(f"{nic.ip_address}/{nic.prefix}")
        elif nic.prefix is not None:
            self._report(f"{where}.prefix", "NoEffect", "a prefix without ipAddress has no effect")
        own.addresses += [address for address in nic.addresses or () if address not in own.addresses]
        if attachment is not None:
            self._allocation(own, attachment)
        for address in own.addresses:
            check_cidr(address, where)
        return own if own != v1.GuestAddressing() else None

    def _allocation(self, own: v1.GuestAddressing, attachment: VMNetworkAttachment) -> None:
        allocation = attachment.spec.ip_allocation
        if allocation is None:
            return
        where = f"VMNetworkAttachment {attachment.metadata.name} spec.ipAllocation"
        self._allocation_reports(allocation, where)
        if (dns := allocation.dns_config) is not None:
            own.nameservers = own.nameservers or list(dns.servers or ())
            own.search_domains = own.search_domains or list(dns.search_domains or ())
        kind, static = allocation.type or "DHCP", allocation.static_config
        if kind == "Static" and static is None:
            raise InvalidSpecError(f"{where}.staticConfig: is needed with type Static")
        if static is not None and kind == "Static":
            own.addresses = own.addresses or [static.address]
            own.gateway4 = own.gateway4 or static.gateway or ""
            own.routes = [
                v1.Route(
                    destination=route.destination,
                    via=route.gateway,
                    metric=uint32(route.metric or 0, f"{where}.staticConfig.routes.metric"),
                )
                for route in static.routes or ()
            ]
        elif static is not None:
            self._note(f"{where}.staticConfig", "NoEffect", f"it has no effect with type {kind}")
        if kind == "None" and not own.addresses:
            own.dhcp4 = own.dhcp6 = False

    def _allocation_reports(self, allocation: IpAllocation, where: str) -> None:
        dhcp, dns = allocation.dhcp_config, allocation.dns_config
        if allocation.type == "Pool" or allocation.pool_config is not None:
            self._note(
                f"{where}.poolConfig", "NotSupportedYet", "address pools are not supported yet; the guest uses DHCP"
            )
        for name, path in (("client_id", "clientID"), ("hostname", "hostname"), ("options", "options")):
            if dhcp is not None and getattr(dhcp, name):
                self._note(f"{where}.dhcpConfig.{path}", "NotSupportedYet", "DHCP options are not supported yet")
        if dns is not None and dns.options:
            self._note(f"{where}.dnsConfig.options", "NotSupportedYet", "resolver options are not supported yet")

    def _note(self, path: str, reason: str, message: str) -> None:
        """Report once, however many NICs share the network."""
        report = FieldReport(path, reason, message)
        if report not in self.ignored:
            self.ignored.append(report)

    # -- boot data, placement, power -------------------------------------------------------------------------------

    def _boot_data(self) -> v1.BootData | None:
        user, meta = self.vm.spec.user_data, self.vm.spec.meta_data
        cloud = user.cloud_init if user is not None else None
        ignition = user.ignition if user is not None else None
        data = v1.BootData(
            user_data=_joined_user_data(cloud.inline if cloud is not None else None, self.boot.user_data),
            meta_data="\n".join(
                part
                for part in (
                    meta.cloud_init.inline if meta is not None and meta.cloud_init else None,
                    self.boot.meta_data,
                )
                if part
            ),
        )
        if self.vm.spec.customization is not None:
            data.hostname = self.vm.spec.customization.hostname or ""
        if ignition is not None and ignition.inline and self.boot.ignition:
            raise InvalidSpecError(
                "spec.userData.ignition: inline and secretRef are both given; Ignition has one document"
            )
        data.ignition = (ignition.inline if ignition is not None else None) or self.boot.ignition or ""
        if data.ignition and data.user_data:
            raise InvalidSpecError("spec.userData: cloudInit and ignition are both given; a guest reads one of them")
        return data if data != v1.BootData() else None

    def _customization(self) -> v1.Customization | None:
        wish, where = self.vm.spec.customization, "spec.customization"
        if wish is None:
            return None
        self._not_yet(wish.certificates, f"{where}.certificates", "certificates for the guest are")
        self._not_yet(wish.guest_commands, f"{where}.guestCommands", "commands in the guest are")
        for value, name in ((wish.networks, "networks"), (wish.tags, "tags"), (wish.user_data, "userData")):
            if value:
                self._report(f"{where}.{name}", "NotUsed", f"a machine has those of spec.{name}")
        return v1.Customization(
            stored=wish.stored or "",
            domain=wish.domain or "",
            time_zone=wish.time_zone or "",
            sysprep=self._sysprep(wish.sysprep, f"{where}.sysprep"),
        )

    def _sysprep(self, wish: Sysprep | None, where: str) -> v1.Sysprep | None:
        if wish is None or not wish.enabled:
            if wish is not None:
                self._report(where, "NoEffect", "sysprep without enabled: true has no effect")
            return None
        made = v1.Sysprep(
            full_name=wish.owner or "",
            organization=wish.organization or "",
            product_key=wish.product_key or "",
            commands=list(wish.custom_commands),
        )
        if wish.admin_password is not None:
            made.admin_password = _password(wish.admin_password, self.boot.admin_password, f"{where}.adminPassword")
        if (join := wish.join_domain) is not None:
            made.join_domain, made.join_user = join.domain, join.username
            made.join_password = _password(join.password, self.boot.join_password, f"{where}.joinDomain.password")
            if join.organizational_unit:
                path = f"{where}.joinDomain.organizationalUnit"
                self._report(path, "NotSupportedYet", "the unit of a domain cannot be chosen yet")
        return made

    def _placement(self) -> v1.Placement | None:
        wish, fallback = self.vm.spec.placement, self.defaults.placement
        placement = v1.Placement()
        if fallback is not None:
            placement.cluster = fallback.cluster or ""
            placement.resource_pool = fallback.resource_pool or ""
            placement.folder = fallback.folder or ""
            placement.datastore = fallback.datastore or ""
            placement.storage_pod = "" if placement.datastore else fallback.storage_pod or ""
        if wish is not None:
            if wish.datastore or wish.storage_pod:
                placement.datastore, placement.storage_pod = wish.datastore or "", ""
                placement.storage_pod = "" if wish.datastore else wish.storage_pod or ""
            if wish.datastore and wish.storage_pod:
                self._report("spec.placement.storagePod", "Overridden", f"datastore {wish.datastore} takes precedence")
            placement.cluster = wish.cluster or placement.cluster
            placement.host = wish.host or ""
            placement.resource_pool = wish.resource_pool or placement.resource_pool
            placement.folder = wish.folder or placement.folder
        return placement if placement != v1.Placement() else None

    def _power(self) -> v1.PowerSpec:
        states = {
            "On": v1.PowerState.ON,
            "Off": v1.PowerState.OFF,
            "OffGraceful": v1.PowerState.OFF,
            "Suspended": v1.PowerState.SUSPENDED,
        }
        wish = self.vm.spec.power_state or "On"
        power = v1.PowerSpec(
            state=meaning(wish, states, "spec.powerState", v1.PowerState.ON), graceful=wish == "OffGraceful"
        )
        lifecycle = self.vm.spec.lifecycle
        if lifecycle is not None and lifecycle.graceful_shutdown_timeout:
            where = "spec.lifecycle.gracefulShutdownTimeout"
            seconds = seconds_of(lifecycle.graceful_shutdown_timeout, where)
            power.graceful_timeout = timedelta(seconds=seconds)
        return power


def _joined_user_data(inline: str | None, secret: str | None) -> str:
    """One document as it stands; two become a MIME multipart of two parts, which cloud-init merges in order."""
    if not inline or not secret:
        return inline or secret or ""
    message = MIMEMultipart("mixed", boundary="VIRTRIGAUD_CLOUD_INIT_BOUNDARY")
    for text in (inline, secret):
        message.attach(MIMEText(text, _mime_subtype(text), "utf-8" if not text.isascii() else "us-ascii"))
    out = StringIO()
    Generator(out, mangle_from_=False, maxheaderlen=0).flatten(message)
    return out.getvalue()


def _mime_subtype(text: str) -> str:
    """As cloud-init tells documents apart: by their first line. Source: cloud-init, user-data formats."""
    first = text.lstrip().split("\n", 1)[0]
    for start, subtype in (
        ("#!", "x-shellscript"),
        ("#include", "x-include-url"),
        ("#cloud-boothook", "cloud-boothook"),
    ):
        if first.startswith(start):
            return subtype
    return "jinja2" if first.startswith("## template: jinja") else "cloud-config"


def _password(wish: PasswordSpec, found: str | None, where: str) -> str:
    if wish.value is not None:
        raise InvalidSpecError(f"{where}.value: whoever may read the object would know it; use {where}.secretRef")
    if found is None:
        raise InvalidSpecError(f"{where}: names no Secret; set secretRef, and secretKey if its key is not `password`")
    return found
