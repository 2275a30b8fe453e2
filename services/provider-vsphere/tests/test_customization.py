"""What vSphere's tools are told to do to a guest; and that no secret of it shows."""

from __future__ import annotations

from typing import Any

import pytest
from common import v1
from common.errors import InvalidSpecError, ResourceNotFoundError
from provider_vsphere.config import bootdata, customization
from provider_vsphere.session.vsphere import Vsphere
from pyVmomi import vim

custom = vim.vm.customization
MACS = {"lan": "00:50:56:00:00:01", "san": "00:50:56:00:00:02"}
CANARY = "canary-of-a-secret"


def spec(wish: v1.Customization | None = None, *addressing: v1.GuestAddressing | None, **fields: Any) -> v1.MachineSpec:
    names = list(MACS)[: len(addressing) or 1]
    given = addressing or (None,)
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid="u", namespace="shop", name=fields.pop("name", "web")),
        nics=[v1.NicSpec(name=name, addressing=each) for name, each in zip(names, given, strict=True)],
        customization=wish or v1.Customization(),
        **fields,
    )


def build(wish: v1.MachineSpec, stored: Any = None) -> Any:
    customization.check(wish, has_source=True)
    return customization.specification(wish, MACS, stored)


def windows(**fields: Any) -> v1.Customization:
    return v1.Customization(sysprep=v1.Sysprep(**fields))


# -- Linux -------------------------------------------------------------------------------------------------------------


def test_a_linux_guest_gets_name_domain_and_dhcp() -> None:
    made = build(spec())
    assert isinstance(made.options, custom.LinuxOptions)
    identity = made.identity
    assert isinstance(identity, custom.LinuxPrep)
    assert (identity.hostName.name, identity.domain, identity.timeZone, identity.hwClockUTC) == (
        "web", "localdomain", None, True,
    )  # fmt: skip
    (mapping,) = made.nicSettingMap
    assert mapping.macAddress == MACS["lan"]
    assert isinstance(mapping.adapter.ip, custom.DhcpIpGenerator)


@pytest.mark.parametrize(
    ("hostname", "domain", "found"),
    [
        ("db.example.org", "", ("db", "example.org")),
        ("db.example.org", "example.com", ("db", "example.com")),
        ("", "example.com", ("web", "example.com")),
    ],
)
def test_the_domain_is_the_specs_or_follows_the_host_name(hostname: str, domain: str, found: tuple[str, str]) -> None:
    wish = v1.Customization(domain=domain, time_zone="Europe/Berlin")
    identity = build(spec(wish, boot_data=v1.BootData(hostname=hostname))).identity
    assert (identity.hostName.name, identity.domain) == found
    assert identity.timeZone == "Europe/Berlin"


def test_a_long_name_of_a_machine_stays_its_own() -> None:
    one, two = (build(spec(name=f"{'a' * 62}.{end}")).identity.hostName.name for end in ("one", "two"))
    assert len(one) == len(two) == 63
    assert one != two


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_each_nic_has_its_own_addresses_in_order() -> None:
    fixed = v1.GuestAddressing(
        addresses=["192.0.2.7/24", "2001:db8::7/64", "2001:db8::8/64"],
        gateway4="192.0.2.1", gateway6="2001:db8::1",
        nameservers=["192.0.2.53"], search_domains=["example.org"],
    )  # fmt: skip
    second = v1.GuestAddressing(addresses=["2001:db8:1::7/64"], nameservers=["192.0.2.53", "192.0.2.54"])
    made = build(spec(None, fixed, second))
    lan, san = (mapping.adapter for mapping in made.nicSettingMap)
    assert [mapping.macAddress for mapping in made.nicSettingMap] == list(MACS.values())
    assert (lan.ip.ipAddress, lan.subnetMask, lan.gateway) == ("192.0.2.7", "255.255.255.0", ["192.0.2.1"])
    assert [(each.ipAddress, each.subnetMask) for each in lan.ipV6Spec.ip] == [("2001:db8::7", 64), ("2001:db8::8", 64)]
    assert lan.ipV6Spec.gateway == ["2001:db8::1"]
    assert isinstance(san.ip, custom.DisableIpV4)
    assert made.globalIPSettings.dnsServerList == ["192.0.2.53", "192.0.2.54"]
    assert made.globalIPSettings.dnsSuffixList == ["example.org"]


@pytest.mark.parametrize(
    ("wish", "four", "six"),
    [
        (v1.GuestAddressing(), custom.DhcpIpGenerator, []),
        (v1.GuestAddressing(dhcp4=False, dhcp6=True), custom.DisableIpV4, [custom.DhcpIpV6Generator]),
        (v1.GuestAddressing(dhcp4=True, addresses=["2001:db8::7/64"]), custom.DhcpIpGenerator, [custom.FixedIpV6]),
    ],
)
def test_dhcp_is_asked_for_as_the_spec_says(wish: v1.GuestAddressing, four: type, six: list[type]) -> None:
    adapter = build(spec(None, wish)).nicSettingMap[0].adapter
    assert isinstance(adapter.ip, four)
    assert [type(each) for each in (adapter.ipV6Spec.ip if adapter.ipV6Spec is not None else [])] == six


# -- Windows -----------------------------------------------------------------------------------------------------------


def test_a_windows_guest_joins_a_domain_and_runs_commands() -> None:
    wish = v1.Customization(
        time_zone="110", domain="example.org",
        sysprep=v1.Sysprep(
            full_name="Ann", organization="Shop", product_key="AAAAA", admin_password="one", join_domain="EXAMPLE",
            join_user="joiner", join_password="two", commands=["a.cmd", "b.cmd"],
        ),
    )  # fmt: skip
    made = build(spec(wish, v1.GuestAddressing(nameservers=["192.0.2.53"])))
    assert (made.options.changeSID, made.options.deleteAccounts) == (True, False)
    user, gui, id = made.identity.userData, made.identity.guiUnattended, made.identity.identification
    assert (user.fullName, user.orgName, user.productId, user.computerName.name) == ("Ann", "Shop", "AAAAA", "web")
    assert (gui.timeZone, gui.autoLogon, gui.autoLogonCount) == (110, True, 1)
    assert (gui.password.value, gui.password.plainText) == ("one", True)
    assert (id.joinDomain, id.domainAdmin, id.domainAdminPassword.value) == ("EXAMPLE", "joiner", "two")
    assert id.joinWorkgroup is None
    assert list(made.identity.guiRunOnce.commandList) == ["a.cmd", "b.cmd"]
    adapter = made.nicSettingMap[0].adapter
    assert (adapter.dnsDomain, adapter.dnsServerList) == ("example.org", ["192.0.2.53"])


def test_a_windows_guest_without_wishes_is_in_a_workgroup() -> None:
    made = build(spec(windows(), name="a-rather-long-name")).identity
    assert made.identification.joinWorkgroup == "WORKGROUP"
    assert (made.guiUnattended.password, made.guiUnattended.autoLogon, made.guiRunOnce) == (None, False, None)
    assert len(made.userData.computerName.name) == 15


def test_an_answer_file_stands_for_everything() -> None:
    made = build(spec(windows(answer_file="<unattend/>", full_name="ignored")))
    assert isinstance(made.identity, custom.SysprepText)
    assert made.identity.value == "<unattend/>"


# -- stored ------------------------------------------------------------------------------------------------------------


def stored_linux(ip: Any = None) -> Any:
    return custom.Specification(
        options=custom.LinuxOptions(),
        identity=custom.LinuxPrep(hostName=custom.UnknownNameGenerator(), domain="stored.example", timeZone="UTC"),
        globalIPSettings=custom.GlobalIPSettings(dnsServerList=["192.0.2.99"]),
        nicSettingMap=[
            custom.AdapterMapping(adapter=custom.IPSettings(ip=ip or custom.FixedIp(ipAddress="192.0.2.9")))
        ],
        encryptionKey=b"k",
    )


def stored_windows() -> Any:
    made = build(spec(windows(full_name="Stored", admin_password="stored", workgroup="OLD")))
    made.identity.userData.computerName = custom.VirtualMachineNameGenerator()
    made.identity.guiUnattended.password.plainText = False
    return made


def test_a_stored_specification_counts_where_the_spec_says_nothing() -> None:
    stored = stored_linux()
    made = build(spec(v1.Customization(stored="s")), stored)
    assert (made.identity.hostName.name, made.identity.domain, made.identity.timeZone) == (
        "web",
        "stored.example",
        "UTC",
    )
    assert made.globalIPSettings.dnsServerList == ["192.0.2.99"]
    assert (made.nicSettingMap[0].macAddress, made.nicSettingMap[0].adapter.ip.ipAddress) == (MACS["lan"], "192.0.2.9")
    assert made.encryptionKey == b"k"
    assert isinstance(stored.identity.hostName, custom.UnknownNameGenerator), "what is stored stays as it is"


def test_the_spec_overwrites_a_stored_specification() -> None:
    wish = v1.Customization(stored="s", domain="spec.example")
    given = v1.GuestAddressing(addresses=["192.0.2.7/24"], nameservers=["192.0.2.53"])
    made = build(spec(wish, given, v1.GuestAddressing(), boot_data=v1.BootData(hostname="db")), stored_linux())
    assert (made.identity.hostName.name, made.identity.domain) == ("db", "spec.example")
    assert made.nicSettingMap[0].adapter.ip.ipAddress == "192.0.2.7"
    assert isinstance(made.nicSettingMap[1].adapter.ip, custom.DhcpIpGenerator), "the stored one has no second NIC"
    assert made.globalIPSettings.dnsServerList == ["192.0.2.53"]


def test_a_stored_windows_specification_keeps_its_names_and_passwords() -> None:
    made = build(spec(v1.Customization(stored="s", time_zone="4")), stored_windows()).identity
    assert isinstance(made.userData.computerName, custom.VirtualMachineNameGenerator)
    assert (made.userData.fullName, made.identification.joinWorkgroup) == ("Stored", "OLD")
    assert (made.guiUnattended.password.value, made.guiUnattended.password.plainText) == ("stored", False)
    assert made.guiUnattended.timeZone == 4


def test_what_a_stored_specification_leaves_open_is_asked_of_the_spec() -> None:
    with pytest.raises(InvalidSpecError, match=r"nics\[lan\].addressing"):
        build(spec(v1.Customization(stored="s")), stored_linux(custom.UnknownIpGenerator()))
    answers = custom.Specification(
        identity=custom.SysprepText(value=CANARY), globalIPSettings=custom.GlobalIPSettings(), nicSettingMap=[]
    )
    assert build(spec(v1.Customization(stored="s")), answers).identity.value == CANARY
    with pytest.raises(InvalidSpecError, match="whole answer file") as refused:
        build(spec(v1.Customization(stored="s", sysprep=v1.Sysprep(full_name="Ann"))), answers)
    assert CANARY not in str(refused.value)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (spec(boot_data=v1.BootData(user_data=CANARY, ignition=CANARY)), "boot_data.user_data and boot_data.ignition"),
        (spec(None, v1.GuestAddressing(addresses=["192.0.2.7/24", "192.0.2.8/24"])), "one IPv4 address"),
        (spec(None, v1.GuestAddressing(addresses=["192.0.2.7/24"], dhcp4=True)), "not both"),
        (spec(None, v1.GuestAddressing(routes=[v1.Route(destination="::/0", via="::1")])), "gateways only"),
        (spec(v1.Customization(time_zone="Europe/Berlin", sysprep=v1.Sysprep())), "customization.time_zone"),
        (spec(windows(join_domain="EXAMPLE", join_password=CANARY)), "join_user and join_password"),
        (spec(windows(answer_file=f"{CANARY}\x00")), "answer_file"),
        (spec(windows(admin_password=f"{CANARY}\x00")), "no XML"),
        (spec(windows(admin_password=CANARY), boot_data=v1.BootData(hostname="a-name-of-sixteen")), "15 characters"),
    ],
)
def test_what_can_never_be_is_named_without_a_secret(wish: v1.MachineSpec, says: str) -> None:
    with pytest.raises(InvalidSpecError) as refused:
        build(wish)
    assert says in str(refused.value)
    assert CANARY not in str(refused.value)


def test_without_an_image_there_is_no_guest() -> None:
    with pytest.raises(InvalidSpecError, match="no image"):
        customization.check(spec(), has_source=False)
    customization.check(v1.MachineSpec(), has_source=False)


def test_first_boot_data_steps_back() -> None:
    """Its metadata would make cloud-init ignore what the tools do."""
    wish = spec(
        v1.Customization(), v1.GuestAddressing(addresses=["192.0.2.7/24"]), boot_data=v1.BootData(hostname="db")
    )
    assert bootdata.variables(wish, MACS) == {}
    wish.customization = None
    assert bootdata.variables(wish, MACS) != {}


# -- on a vCenter ------------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_stored_specifications_are_looked_up_by_name(vsphere: Vsphere) -> None:
    wish = spec(v1.Customization(stored="vcsim-linux"))
    made = await customization.of(vsphere, wish, MACS, "create shop/web", has_source=True)
    assert (made.identity.domain, made.identity.timeZone) == ("eng.vmware.com", "Pacific/Apia")
    with pytest.raises(ResourceNotFoundError, match=r"specification nothing: there is none; there: .*vcsim-linux"):
        await customization.of(
            vsphere, spec(v1.Customization(stored="nothing")), MACS, "create shop/web", has_source=True
        )
    assert await customization.of(vsphere, v1.MachineSpec(), {}, "create shop/web", has_source=False) is None
