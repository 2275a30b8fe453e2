"""docs/providers/proxmox.md does what it says: the user that it has people make may do what is needed, and no more."""

from __future__ import annotations

import dataclasses
import re
import shlex
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from common import v1
from common.errors import PermissionMissingError
from provider_proxmox.__main__ import build
from provider_proxmox.config.hardware import OUR_KEYS
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.images import references
from provider_proxmox.settings import ProxmoxSettings
from providerkit.runner import ProviderSettings
from simulators.proxmox import Proxmox
from simulators.proxmox.access import Grant, Token, User
from simulators.proxmox.sshd import sshd

from .conftest import OWNER, connected, credentials_of
from .ours import IDENTITY
from .test_bootdata import put, spec
from .test_disks import BLOCK, Bench, machine, sparse
from .test_importing import IMAGE, file, images_of, quiet
from .workshop import wanted

NAT = v1.NetworkKind.NAT
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "providers" / "proxmox.md"


@dataclass
class Commands:
    """What the document has root do."""

    roles: dict[str, frozenset[str]] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    user: str = ""
    token: str = ""


def commands() -> Commands:
    found = Commands()
    for line in re.findall(r"^\$ (pveum .*)$", DOCUMENT.read_text(), re.MULTILINE):
        words = shlex.split(line)[1:]
        match words:
            case ["role", "add", role, "--privs", privileges]:
                found.roles[role] = frozenset(privileges.split())
            case ["user", "add", user, *_]:
                found.user = user
            case ["acl", "modify", path, "--users", user, "--roles", role]:
                found.grants.append(Grant(path, role, "user", user))
            case ["user", "token", "add", user, token, "--privsep", "0"]:
                assert user == found.user
                found.token = token
            case _:
                raise AssertionError(f"what does this do? {line}")
    return found


def follow(server: Proxmox, directory: Path, *, without: str = "") -> Path:
    """Do it on the simulated cluster; the credentials that come of it."""
    shown, access = commands(), server.world.access
    access.roles |= {role: privileges - {without} for role, privileges in shown.roles.items()}
    secret = str(uuid.uuid4())
    access.users[shown.user] = User(tokens={shown.token: Token(secret, privsep=False)})
    access.grants |= set(shown.grants)
    credentials_of(server, directory)
    (directory / "token_id").write_text(f"{shown.user}!{shown.token}")
    (directory / "token_secret").write_text(secret)
    return directory


async def test_the_user_may_do_what_is_needed(pve: Proxmox, tmp_path: Path) -> None:
    machine(pve, *BLOCK)
    async with sshd(pve) as ssh, connected(pve, follow(pve, tmp_path / "credentials")) as cluster:
        images = images_of(cluster, tmp_path)
        image = await images.prepare(file(tmp_path, IMAGE, storage="local-lvm"), quiet)
        source = await images.resolve(image.id, "test")
        other = next(node for node in cluster.index.nodes if node != source.node)
        assert (await images.resolve(image.id, "test", node=other)).node == other
        await images.delete(image.id)
        data = BootData(cluster)
        handed = await put(data, spec(user_data="#!/bin/sh\n"))
        await data.drop(spec().identity.uid if spec().identity else "", "test", known=handed.volumes)
        bench = Bench(pve, cluster, tmp_path, ssh)
        await bench.fill(sparse(1))
        assert await bench.content() == sparse(1)
        await bench.uploads.clear(str(uuid.uuid4()), "test")


async def test_the_user_may_do_with_machines_what_is_needed(pve: Proxmox, tmp_path: Path) -> None:
    """A whole life, with everything that people do in it."""
    files = follow(pve, tmp_path / "credentials")
    settings = ProxmoxSettings(
        endpoint=pve.urls, credentials_directory=files, owner=OWNER, insecure=True, tick=0.2, default_storage="shared"
    )
    driver, uid = build(settings), IDENTITY.uid
    more = v1.DiskSpec(name="more", size_bytes=1 << 30)
    copy = wanted(dataclasses.replace(IDENTITY, uid=str(uuid.uuid4()), name="copy"))
    snapshot = str(uuid.uuid4())
    async with driver.session():
        await driver.create(wanted(boot_data=v1.BootData(user_data="#cloud-config\n"), tags=["blue"]), quiet)
        await driver.power_on(uid)
        async with driver.together(uid):
            await driver.attach_disk(uid, more, live=True)
            await driver.attach_nic(uid, v1.NicSpec(name="dmz", network=v1.NetworkRef(kind=NAT)), live=True)
            await driver.grow_disk(uid, "root", 2 << 30, live=True)
            await driver.set_description(uid, "for people")
        await driver.create_snapshot(
            v1.CreateSnapshotRequest(machine_uid=uid, uid=snapshot, name="warm", memory=True), quiet
        )
        await driver.revert_snapshot(v1.RevertSnapshotRequest(machine_uid=uid, uid=snapshot), quiet)
        await driver.suspend(uid)
        await driver.resume(uid)
        await driver.reset(uid)
        async with driver.console(uid, v1.ConsoleKind.SERIAL, force=False) as console:
            await console.write(b"x")
            assert await console.read() == b"x"
        await driver.delete_snapshot(v1.DeleteSnapshotRequest(machine_uid=uid, uid=snapshot), quiet)
        await driver.set_placement(uid, v1.Placement(host=other(pve, uid)))
        await driver.clone(v1.CloneMachineRequest(source_uid=uid, kind=v1.CloneKind.FULL, target=copy), quiet)
        await driver.ask_shutdown(uid)
        await driver.power_off(uid)
        await driver.set_cpu(uid, v1.CpuSpec(count=2, hot_add=True), live=False)
        await driver.set_memory(uid, v1.MemorySpec(size_bytes=2 << 30), live=False)
        await driver.set_firmware(uid, v1.FirmwareSpec(tpm=True))
        await driver.set_tuning(uid, v1.MachineSpec(extra_config={"proxmox.onBoot": "1", "proxmox.cpuType": "host"}))
        await driver.set_cdrom(uid, v1.CdromSpec(name="setup"), live=False)
        await driver.move_disk(uid, "more", "local-lvm", live=False)
        for each in (copy.identity.uid if copy.identity else "", uid):
            await driver.destroy(each, quiet)
    assert pve.world.guests == {}


def other(server: Proxmox, uid: str) -> str:
    """A node that the machine is not on."""
    (guest,) = [guest for guest in server.world.guests.values() if uid in guest.text()]
    return next(node for node in server.world.nodes if node != guest.node)


@pytest.mark.parametrize("privilege", ["Datastore.AllocateTemplate", "Datastore.AllocateSpace"])
async def test_a_missing_privilege_is_named(pve: Proxmox, tmp_path: Path, privilege: str) -> None:
    async with connected(pve, follow(pve, tmp_path / "credentials", without=privilege)) as cluster:
        with pytest.raises(PermissionMissingError, match=re.escape(privilege)):
            await images_of(cluster, tmp_path).prepare(file(tmp_path, IMAGE), quiet)


def test_every_privilege_is_explained() -> None:
    text = DOCUMENT.read_text()
    table = text.partition("| privilege | on | for |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`([A-Z][A-Za-z]+\.[A-Za-z.*]+)`", table))
    given = {privilege for privileges in commands().roles.values() for privilege in privileges}
    assert {
        privilege for privilege in given if privilege not in told and not privilege.startswith("VM.Config.")
    } == set()


def test_every_setting_is_told() -> None:
    text = DOCUMENT.read_text()
    of_every_provider = {each.name for each in dataclasses.fields(ProviderSettings)}
    own = [each.name for each in dataclasses.fields(ProxmoxSettings) if each.name not in of_every_provider]
    assert [name for name in own if f"`--{name.replace('_', '-')}`" not in text] == []


def test_every_key_of_extra_config_is_told() -> None:
    table = DOCUMENT.read_text().partition("### Keys of `extraConfig`")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(proxmox\.\w+)`", table)) == set(OUR_KEYS)


def test_an_image_source_is_as_the_document_says() -> None:
    """Volumes that it shows are taken for volumes."""
    shown = re.findall(r"`((?:local|local-lvm|nfs):[^`]+)`", DOCUMENT.read_text())
    assert len(shown) >= 3
    for path in shown:
        source = v1.ImageSource(file=v1.FileSource(path=path.replace("....", "-2026_01_01-00_00_00.")))
        assert references.of(v1.PrepareImageRequest(uid=str(uuid.uuid4()), source=source)) is not None
