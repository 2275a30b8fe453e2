"""Who may call what: every method of the contract has its row, and nobody gets what no row gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from common import identity
from common.gen.google_proto_descriptor_pool import default_google_proto_descriptor_pool as POOL
from common.identity import Role
from providerkit.access import CHANGE, CONVERSE, LOOK, PACKAGE, TABLE, access, of_namespace
from providerkit.serving import ALWAYS, DEPENDENT

READING = ("Get", "List", "Watch", "Plan", "Check")
CONVERSING = {"OpenConsole", "CaptureScreenshot", "RunPowerAction"}


CONTRACT = Path(__file__).resolve().parents[3] / "proto" / "virtrigaud" / "provider" / "v1"


def test_P11_every_method_of_the_contract_has_its_row():
    """A method that is added without a thought for who may call it fails here, and is nobody's until then."""
    written: dict[str, set[str]] = {}
    for file in CONTRACT.glob("*.proto"):
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", file.read_text(), re.MULTILINE | re.DOTALL):
            written[service] = set(re.findall(r"^  rpc (\w+)\(", body, re.MULTILINE))
    assert {service: set(methods) for service, methods in TABLE.items()} == written
    served = {name: set() for name in (*ALWAYS, *DEPENDENT)}
    for name, methods in served.items():
        methods |= {each.name for each in POOL.FindServiceByName(f"{PACKAGE}.{name}").methods}
    assert served == written


@pytest.mark.parametrize(
    ("service", "method"), [(service, method) for service, methods in TABLE.items() for method in methods]
)
def test_P11_a_method_is_given_by_what_it_does(service: str, method: str):
    """What is called like a question may be asked by all; all else is the controller's, or a person's at a machine."""
    wanted = LOOK if method.startswith(READING) else (CONVERSE if method in CONVERSING else CHANGE)
    assert TABLE[service][method] is wanted


@pytest.mark.parametrize(
    ("role", "method", "may"),
    [
        (Role.CONTROLLER, "/virtrigaud.provider.v1.MachineService/ApplyMachine", True),
        (Role.CONTROLLER, "/virtrigaud.provider.v1.MachineService/GetMachine", True),
        (Role.CONTROLLER, "/virtrigaud.provider.v1.MachineService/Unheard", False),
        (Role.CONTROLLER, "/other.MachineService/GetMachine", False),
        (Role.OPERATOR, "/virtrigaud.provider.v1.MachineService/OpenConsole", True),
        (Role.OPERATOR, "/virtrigaud.provider.v1.MachineService/RunPowerAction", True),
        (Role.OPERATOR, "/virtrigaud.provider.v1.MachineService/ApplyMachine", False),
        (Role.VIEWER, "/virtrigaud.provider.v1.MachineService/RunPowerAction", False),
        (Role.VIEWER, "/virtrigaud.provider.v1.MachineService/GetMachine", True),
        (Role.VIEWER, "/virtrigaud.provider.v1.MachineService/PlanMachine", True),
        (Role.VIEWER, "/virtrigaud.provider.v1.MachineService/OpenConsole", False),
        (Role.VIEWER, "/virtrigaud.provider.v1.MachineService/DeleteMachine", False),
        (Role.VIEWER, "/virtrigaud.provider.v1.DiskService/ReadDisk", False),
        (Role.VIEWER, "/grpc.health.v1.Health/Check", True),
        (Role.VIEWER, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True),
        (Role.VIEWER, "/grpc.channelz.v1.Channelz/GetServers", False),
    ],
)
def test_a_role_gets_its_part(role: Role, method: str, may: bool):
    assert access(of_namespace("shop")).may_call(frozenset({identity.client(role, "shop")}), method) is may


def test_a_stranger_gets_nothing():
    """Another namespace's controller, a provider, and whoever has only a host name."""
    allowed = access(of_namespace("shop"))
    for names in (of_namespace("other"), [identity.Server("shop", "controller").uri], ["controller"], []):
        assert not allowed.may_call(frozenset(names), "/virtrigaud.provider.v1.MachineService/GetMachine")


def test_other_names_are_let_in_with_a_role():
    allowed = access(["viewer=dashboard.example.org", identity.client(Role.CONTROLLER, "shop")])
    assert allowed.roles == {
        "dashboard.example.org": Role.VIEWER,
        identity.client(Role.CONTROLLER, "shop"): Role.CONTROLLER,
    }


@pytest.mark.parametrize(
    "entry", ["", "controller", "controller=", "root=me", "spiffe://virtrigaud.io/ns/a/provider/b"]
)
def test_an_entry_that_gives_no_role_is_named(entry: str):
    with pytest.raises(ValueError, match="allowed_clients") as caught:
        access([entry])
    assert repr(entry) in str(caught.value)
