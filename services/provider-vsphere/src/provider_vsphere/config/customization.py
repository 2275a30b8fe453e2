"""What vSphere's own tools do once to the guest of a new clone: name, addresses, and what sysprep asks.

It is the other way to what first-boot data does, and a guest that has both obeys one of them, which nobody can tell
beforehand; so a spec has one or the other. A password is known to vSphere in plaintext, and it keeps none of it after
the clone; here no error, log or repr ever shows a spec's secrets, or anything that was made of them.
"""

from __future__ import annotations

import copy
import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from pyVmomi import vim

from provider_vsphere.config.hardware import printable
from provider_vsphere.session.login import Login
from provider_vsphere.session.vsphere import Vsphere

LONGEST_WINDOWS_NAME = 15
"""Characters of a NetBIOS name."""
DEFAULT_DOMAIN = "localdomain"
"""vSphere wants one for every Linux guest."""
DEFAULT_TIME_ZONE = 85
"""Of Windows: Greenwich, without summer time. Source: Microsoft Time Zone Index Values."""
DEFAULT_FULL_NAME, DEFAULT_ORGANIZATION, DEFAULT_WORKGROUP = "Administrator", "VirtRigaud", "WORKGROUP"

_custom = vim.vm.customization


async def of(vsphere: Vsphere, spec: v1.MachineSpec, macs: Mapping[str, str], doing: str, *, has_source: bool) -> Any:
    """For CloneSpec.customization, with the stored specification that the spec names; None when none is asked for.

    Args:
        macs: MAC of each NIC by its name.
        has_source: the machine is made from a template or another machine, and so has a guest.
    Raises:
        InvalidSpecError: it can never be, and why; no secret is in it.
        ResourceNotFoundError: there is no such stored specification; says which there are.
    """
    check(spec, has_source=has_source)
    if spec.customization is None:
        return None
    name = spec.customization.stored
    return specification(spec, macs, await _stored(vsphere, name, doing) if name else None)


async def _stored(vsphere: Vsphere, name: str, doing: str) -> Any:
    def get(login: Login) -> Any:
        manager = login.content.customizationSpecManager
        if manager is None:
            raise NotSupportedError(f"{doing}: an ESXi host stores no customization specifications")
        try:
            return manager.GetCustomizationSpec(name).spec
        except vim.fault.NotFound:
            names = ", ".join(sorted(each.name for each in manager.info or ())) or "none"
            raise ResourceNotFoundError(
                f"{doing}: customization specification {name}: there is none; there: {names}"
            ) from None

    return await vsphere.call(doing, get)


def check(spec: v1.MachineSpec, *, has_source: bool) -> None:
    """Refuse what can never be, before anything is asked of vSphere; see `of`."""
    wish = spec.customization
    if wish is None:
        return
    if not has_source:
        raise InvalidSpecError("customization: the machine is made from no image, so it has no guest to customize")
    boot = spec.boot_data or v1.BootData()
    given = [name for name in ("user_data", "meta_data", "ignition") if getattr(boot, name)]
    if given:
        fields = " and ".join(f"boot_data.{name}" for name in given)
        raise InvalidSpecError(f"customization: {fields} would set up the same guest; leave one of them out")
    if wish.sysprep is not None:
        _check_windows(wish, wish.sysprep)
    for nic in spec.nics:
        _check_addresses(nic)


def specification(spec: v1.MachineSpec, macs: Mapping[str, str], stored: Any | None = None) -> Any:
    """The specification itself; see `of`.

    Args:
        stored: a vim.vm.customization.Specification of vSphere; what the spec says overwrites it.
    Raises:
        InvalidSpecError: the stored one leaves something open that the spec does not say.
    """
    wish = spec.customization or v1.Customization()
    made = copy.copy(stored) if stored is not None else _custom.Specification()
    windows = wish.sysprep is not None or isinstance(made.identity, _custom.Sysprep | _custom.SysprepText)
    made.identity = _windows(spec, wish, made.identity) if windows else _linux(spec, wish, made.identity)
    if made.options is None:
        made.options = _custom.WinOptions(changeSID=True, deleteAccounts=False) if windows else _custom.LinuxOptions()
    made.globalIPSettings = _global(spec, made.globalIPSettings)
    there = list(made.nicSettingMap or ())
    made.nicSettingMap = [
        _adapter(
            nic, macs[nic.name], wish.domain if windows else "", there[place].adapter if place < len(there) else None
        )
        for place, nic in enumerate(spec.nics)
    ]
    return made


# -- names -------------------------------------------------------------------------------------------------------------


def _host_name(spec: v1.MachineSpec, longest: int) -> str:
    """The guest's own name, without a domain; one that comes from the machine's is shortened with a digest."""
    boot, identity = spec.boot_data or v1.BootData(), spec.identity or v1.MachineIdentity()
    if boot.hostname:
        return boot.hostname.partition(".")[0]
    name = identity.name.replace(".", "-")
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(f"{identity.namespace}/{identity.name}".encode()).hexdigest()[:6]
    return f"{name[: longest - 7].rstrip('-')}-{digest}"


def _domain(spec: v1.MachineSpec, wish: v1.Customization) -> str:
    """Asked for, or what follows the first dot of the host name."""
    return wish.domain or (spec.boot_data or v1.BootData()).hostname.partition(".")[2]


def _name(spec: v1.MachineSpec, longest: int, present: Any) -> Any:
    """A generator of vSphere's; a stored one stays unless it would have to ask, or the spec says a name."""
    explicit = bool(spec.boot_data and spec.boot_data.hostname)
    if present is not None and not isinstance(present, _custom.UnknownNameGenerator) and not explicit:
        return present
    return _custom.FixedName(name=_host_name(spec, longest))


# -- Linux -------------------------------------------------------------------------------------------------------------


def _linux(spec: v1.MachineSpec, wish: v1.Customization, present: Any) -> Any:
    made = copy.copy(present) if present is not None else _custom.LinuxPrep(hwClockUTC=True)
    made.hostName = _name(spec, 63, made.hostName)
    made.domain = _domain(spec, wish) or made.domain or DEFAULT_DOMAIN
    if wish.time_zone:
        made.timeZone = wish.time_zone
    return made


# -- Windows -----------------------------------------------------------------------------------------------------------


def _check_windows(wish: v1.Customization, windows: v1.Sysprep) -> None:
    where = "customization.sysprep"
    if windows.answer_file:
        if printable(windows.answer_file) != windows.answer_file:
            raise InvalidSpecError(f"{where}.answer_file: holds characters that no XML can hold")
        return
    if wish.time_zone and not (wish.time_zone.isascii() and wish.time_zone.isdecimal()):
        raise InvalidSpecError(
            "customization.time_zone: Windows knows time zones by their index, a number; see Microsoft's list"
        )
    if windows.join_domain and not (windows.join_user and windows.join_password):
        raise InvalidSpecError(f"{where}.join_domain: to join one takes join_user and join_password")
    texts = [getattr(windows, name) for name in ("admin_password", "join_password", "product_key")] + windows.commands
    if any(printable(text) != text for text in texts):
        raise InvalidSpecError(
            f"{where}: a password, the product key or a command holds characters that no XML can hold"
        )


def _windows(spec: v1.MachineSpec, wish: v1.Customization, present: Any) -> Any:
    windows = wish.sysprep or v1.Sysprep()
    if windows.answer_file:
        return _custom.SysprepText(value=windows.answer_file)
    if isinstance(present, _custom.SysprepText):
        if wish.sysprep is not None:
            raise InvalidSpecError(
                f"customization.stored: {wish.stored} is a whole answer file, where no field can be overwritten"
            )
        return present
    made = copy.copy(present) if isinstance(present, _custom.Sysprep) else _custom.Sysprep()
    made.guiUnattended = _unattended(wish, windows, made.guiUnattended)
    made.userData = _user_data(spec, windows, made.userData)
    made.identification = _identification(windows, made.identification)
    if windows.commands:
        made.guiRunOnce = _custom.GuiRunOnce(commandList=list(windows.commands))
    return made


def _unattended(wish: v1.Customization, windows: v1.Sysprep, present: Any) -> Any:
    """Commands run at the first logon, so with commands the administrator is logged on once."""
    made = copy.copy(present) if present is not None else _custom.GuiUnattended(
        timeZone=DEFAULT_TIME_ZONE, autoLogon=False, autoLogonCount=0
    )  # fmt: skip
    if wish.time_zone:
        made.timeZone = int(wish.time_zone)
    if windows.admin_password:
        made.password = _password(windows.admin_password)
    if windows.commands:
        made.autoLogon, made.autoLogonCount = True, max(made.autoLogonCount or 0, 1)
    return made


def _user_data(spec: v1.MachineSpec, windows: v1.Sysprep, present: Any) -> Any:
    made = copy.copy(present) if present is not None else _custom.UserData(
        fullName=DEFAULT_FULL_NAME, orgName=DEFAULT_ORGANIZATION, productId=""
    )  # fmt: skip
    made.computerName = _name(spec, LONGEST_WINDOWS_NAME, made.computerName)
    name = made.computerName.name if isinstance(made.computerName, _custom.FixedName) else ""
    if len(name) > LONGEST_WINDOWS_NAME:
        raise InvalidSpecError(
            f"boot_data.hostname: {name} is longer than the {LONGEST_WINDOWS_NAME} characters of a Windows name"
        )
    for field, text in (
        ("fullName", windows.full_name),
        ("orgName", windows.organization),
        ("productId", windows.product_key),
    ):
        if text:
            setattr(made, field, text)
    return made


def _identification(windows: v1.Sysprep, present: Any) -> Any:
    if windows.join_domain:
        return _custom.Identification(
            joinDomain=windows.join_domain,
            domainAdmin=windows.join_user,
            domainAdminPassword=_password(windows.join_password),
        )
    if windows.workgroup or present is None:
        return _custom.Identification(joinWorkgroup=windows.workgroup or DEFAULT_WORKGROUP)
    return present


def _password(text: str) -> Any:
    """In plaintext as far as TLS carries it: only vCenter itself can encrypt with the key of a stored specification."""
    return _custom.Password(value=text, plainText=True)


# -- addresses ---------------------------------------------------------------------------------------------------------


def _check_addresses(nic: v1.NicSpec) -> None:
    wish, where = nic.addressing or v1.GuestAddressing(), f"nics[{nic.name}].addressing"
    fixed = [each for each in map(ipaddress.ip_interface, wish.addresses) if each.version == 4]
    if len(fixed) > 1:
        raise InvalidSpecError(f"{where}.addresses: vSphere's customization gives a NIC one IPv4 address")
    if fixed and wish.dhcp4:
        raise InvalidSpecError(f"{where}.dhcp4: vSphere's customization gives a NIC an IPv4 address or DHCP, not both")
    if wish.routes:
        raise InvalidSpecError(f"{where}.routes: vSphere's customization knows gateways only")
    if nic.mtu:
        raise InvalidSpecError(f"nics[{nic.name}].mtu: vSphere's customization sets none")


def _adapter(nic: v1.NicSpec, mac: str, domain: str, stored: Any) -> Any:
    settings = _custom.IPSettings() if stored is None else copy.copy(stored)
    if nic.addressing is not None or stored is None:
        _address(settings, nic.addressing or v1.GuestAddressing())
    elif isinstance(settings.ip, _custom.UnknownIpGenerator):
        raise InvalidSpecError(f"nics[{nic.name}].addressing: the stored customization asks for an address of this NIC")
    if domain:
        settings.dnsDomain = domain
    return _custom.AdapterMapping(macAddress=mac, adapter=settings)


def _address(settings: Any, wish: v1.GuestAddressing) -> None:
    found = [ipaddress.ip_interface(text) for text in wish.addresses]
    four, six = ([each for each in found if each.version == version] for version in (4, 6))
    dhcp4 = not wish.addresses if wish.dhcp4 is None else wish.dhcp4
    settings.subnetMask, settings.ipV6Spec = None, None
    if four:
        settings.ip = _custom.FixedIp(ipAddress=str(four[0].ip))
        settings.subnetMask = str(four[0].netmask)
    else:
        settings.ip = _custom.DhcpIpGenerator() if dhcp4 else _custom.DisableIpV4()
    settings.gateway = [wish.gateway4] if wish.gateway4 else []
    generators: list[Any] = [
        _custom.FixedIpV6(ipAddress=str(each.ip), subnetMask=each.network.prefixlen) for each in six
    ]
    if wish.dhcp6:
        generators.append(_custom.DhcpIpV6Generator())
    if generators:
        gateway = [wish.gateway6] if wish.gateway6 else []
        settings.ipV6Spec = _custom.IPSettings.IpV6AddressSpec(ip=generators, gateway=gateway)
    settings.dnsServerList = list(wish.nameservers)


def _global(spec: v1.MachineSpec, present: Any) -> Any:
    """Name servers of all NICs together, which is where Linux has them; suffixes are global everywhere."""
    made = copy.copy(present) if present is not None else _custom.GlobalIPSettings()
    wishes = [nic.addressing for nic in spec.nics if nic.addressing is not None]
    servers = list(dict.fromkeys(server for wish in wishes for server in wish.nameservers))
    suffixes = list(dict.fromkeys(domain for wish in wishes for domain in wish.search_domains))
    if servers:
        made.dnsServerList = servers
    if suffixes:
        made.dnsSuffixList = suffixes
    return made
