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
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.images import references
from provider_proxmox.settings import ProxmoxSettings
from providerkit.runner import ProviderSettings
from simulators.proxmox import Proxmox
from simulators.proxmox.access import Grant, Token, User
from simulators.proxmox.sshd import sshd

from .conftest import connected, credentials_of
from .test_bootdata import put, spec
from .test_disks import BLOCK, Bench, machine, sparse
from .test_importing import IMAGE, file, images_of, quiet

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


def test_an_image_source_is_as_the_document_says() -> None:
    """Volumes that it shows are taken for volumes."""
    shown = re.findall(r"`((?:local|local-lvm|nfs):[^`]+)`", DOCUMENT.read_text())
    assert len(shown) >= 3
    for path in shown:
        source = v1.ImageSource(file=v1.FileSource(path=path.replace("....", "-2026_01_01-00_00_00.")))
        assert references.of(v1.PrepareImageRequest(uid=str(uuid.uuid4()), source=source)) is not None
