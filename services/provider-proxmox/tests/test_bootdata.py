"""First-boot data on their way to a guest of the simulated cluster."""

from __future__ import annotations

import io
from pathlib import Path

import pycdlib
import pytest
from common import v1
from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from provider_proxmox import stamp
from provider_proxmox.content import iso
from provider_proxmox.content.bootdata import BootData
from provider_proxmox.content.snippets import Snippets
from provider_proxmox.session.pve import Pve
from simulators.proxmox import Proxmox

from .conftest import vm

UID, OTHER = "7a1e2f30-0000-4000-8000-000000000001", "7a1e2f30-0000-4000-8000-000000000002"
SCRIPT = "#!/bin/sh\necho ä > /etc/issue\n"
MACS, SLOTS = {"lan": "bc:24:11:00:00:01"}, {"lan": "net0"}


def spec(uid: str = UID, extra: str = "", **boot: str) -> v1.MachineSpec:
    return v1.MachineSpec(
        identity=v1.MachineIdentity(uid=uid, namespace="shop", name="web", owner="tests"),
        nics=[v1.NicSpec(name="lan", addressing=v1.GuestAddressing(addresses=["192.0.2.7/24"]))],
        boot_data=v1.BootData(**boot),
        extra_config={"proxmox.bootData": extra} if extra else {},
    )


def volumes(server: Proxmox, content: str = "iso") -> set[str]:
    """Every volume of this kind, wherever it is."""
    return {
        volume.volid
        for storage in server.world.storages.values()
        for there in storage.volumes.values()
        for volume in there.values()
        if volume.content == content
    }


def files_on(server: Proxmox, volid: str) -> dict[str, str]:
    """What a guest reads from an ISO."""
    volume = server.world.volume(volid, "pve1")
    assert volume is not None
    assert volume.file is not None
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(volume.file.read_bytes()))
    found = {}
    for child in image.list_children(joliet_path="/"):
        if child.is_file():
            name, out = child.file_identifier().decode("utf-16_be"), io.BytesIO()
            image.get_file_from_iso_fp(out, joliet_path="/" + name)
            found[name] = out.getvalue().decode()
    image.close()
    return found


async def put(data: BootData, wish: v1.MachineSpec, vmid: int = 101, **given: object):  # type: ignore[no-untyped-def]
    given.setdefault("config", {})
    return await data.put(vmid, "pve1", wish, "test", macs=MACS, slots=SLOTS, **given)  # type: ignore[arg-type]


async def test_P18_everything_reaches_the_guest_by_an_iso(pve: Proxmox, cluster: Pve) -> None:
    """On a storage that every node reaches, as the machine may move."""
    handed = await put(BootData(cluster), spec(user_data=SCRIPT, meta_data="zone: a\n"))
    [volume] = handed.volumes
    assert handed.config == {"ide2": f"{volume},media=cdrom"}
    assert handed.delete == ()
    assert volume.startswith("shared:iso/")
    found = files_on(pve, volume)
    assert found["user-data"] == SCRIPT
    assert '"zone": "a"' in found["meta-data"]
    assert MACS["lan"] in found["network-config"]


async def test_the_same_again_uploads_nothing(pve: Proxmox, cluster: Pve) -> None:
    data = BootData(cluster)
    first = await put(data, spec(user_data=SCRIPT))
    before = pve.counted()
    assert await put(data, spec(user_data=SCRIPT)) == first
    assert pve.counted() - before == {"GET /nodes/{node}/storage/{storage}/content": 1}


async def test_a_file_that_a_node_stopped_copying_is_sent_again(pve: Proxmox, cluster: Pve) -> None:
    data = BootData(cluster)
    [volume] = (await put(data, spec(user_data=SCRIPT))).volumes
    there = pve.world.volume(volume, "pve1")
    assert there is not None
    assert there.file is not None
    there.file.write_bytes(b"")
    there.size = 0
    await put(data, spec(user_data=SCRIPT))
    assert files_on(pve, volume)["user-data"] == SCRIPT


async def test_replaced_data_go_when_the_guest_has_the_new_ones(pve: Proxmox, cluster: Pve) -> None:
    """Not before: it may boot from them at any moment."""
    data = BootData(cluster)
    old = await put(data, spec(user_data=SCRIPT))
    new = await put(data, spec(user_data=SCRIPT + "#\n"), config=old.config)
    assert volumes(pve) == {*old.volumes, *new.volumes}
    await data.drop(UID, "test", keep=new.volumes)
    assert volumes(pve) == set(new.volumes)


async def test_data_that_a_snapshot_names_stay(pve: Proxmox, cluster: Pve) -> None:
    """The machine may go back to it, and would not start without."""
    data = BootData(cluster)
    old = await put(data, spec(user_data=SCRIPT))
    vm(pve, 101, **{key: str(value) for key, value in old.config.items()})
    await cluster.run("test", "POST", "nodes/pve1/qemu/101/snapshot", {"snapname": "before"})
    new = await put(data, spec(user_data=SCRIPT + "#\n"), config=old.config)
    await cluster.put("test", "nodes/pve1/qemu/101/config", **new.config)
    guest = await cluster.refresh(101, "test")
    assert guest is not None
    held = await data.held(guest, "test")
    assert held == set(old.volumes)
    await data.drop(UID, "test", keep={*new.volumes, *held})
    newer = await put(data, spec(user_data=SCRIPT + "##\n"), config=guest.config)
    assert volumes(pve) == {*old.volumes, *new.volumes, *newer.volumes}


async def test_what_a_crash_left_goes_with_the_next_put(pve: Proxmox, cluster: Pve) -> None:
    """Between an upload and the guest that it was for; that of another machine stays."""
    data = BootData(cluster)
    left = await put(data, spec(user_data="#!/bin/sh\n# tried first\n"), vmid=102)
    others = await put(data, spec(OTHER, user_data=SCRIPT))
    now = await put(data, spec(user_data=SCRIPT))
    assert volumes(pve) == {*others.volumes, *now.volumes}
    assert left.volumes[0] not in volumes(pve)


async def test_those_of_a_rival_stay_until_one_has_lost(pve: Proxmox, cluster: Pve) -> None:
    """Two makers of one machine may have a guest each for a moment: the one that is left needs its own."""
    data = BootData(cluster)
    wish = spec(user_data=SCRIPT)
    assert wish.identity is not None
    vm(pve, 102, description=stamp.written("", stamp.of(wish.identity, 102, 0)))
    rival = await put(data, wish, vmid=102)
    now = await put(data, wish)
    assert volumes(pve) == {*rival.volumes, *now.volumes}
    del pve.world.guests[102]
    await put(data, wish)
    assert volumes(pve) == set(now.volumes)


async def test_drop_finds_them_on_whichever_node(pve: Proxmox, cluster: Pve) -> None:
    data = BootData(cluster, iso_storage="local")
    for node in ("pve1", "pve2"):
        await data.put(101, node, spec(user_data=node), "test", macs=MACS, slots=SLOTS, config={})
    await data.put(102, "pve2", spec(OTHER, user_data="x"), "test", macs=MACS, slots=SLOTS, config={})
    for _ in range(2):
        await data.drop(UID, "test")
        assert [iso.of(OTHER, volumes(pve)), iso.of(UID, volumes(pve))] == [list(volumes(pve)), []]


async def test_drop_looks_where_the_settings_point_no_longer(pve: Proxmox, cluster: Pve) -> None:
    old = await put(BootData(cluster, iso_storage="local"), spec(user_data=SCRIPT))
    await BootData(cluster, iso_storage="shared").drop(UID, "test", known=old.volumes)
    assert not volumes(pve)


async def test_what_a_template_brought_along_goes(cluster: Pve) -> None:
    """A second drive would contradict ours, and its user or key is a stranger's."""
    inherited = {
        "scsi1": "local-lvm:vm-101-cloudinit,media=cdrom",
        "ide0": "local:iso/debian.iso,media=cdrom",
        "ciuser": "stranger",
        "sshkeys": "ssh-rsa%20AAAA",
        "ipconfig0": "ip=dhcp",
    }
    handed = await put(BootData(cluster), spec(user_data=SCRIPT), config=inherited)
    assert handed.delete == ("ciuser", "ipconfig0", "scsi1", "sshkeys")
    nothing = v1.MachineSpec(identity=spec().identity)
    handed = await put(BootData(cluster), nothing, config=inherited)
    assert (handed.config, handed.delete) == ({}, ("ciuser", "ipconfig0", "scsi1", "sshkeys"))


async def test_native_fields_go_on_the_drive_that_is_there(cluster: Pve) -> None:
    """Proxmox VE allows one, wherever the template has it."""
    data, user = BootData(cluster, way="native"), "#cloud-config\nuser: me\n"
    there = {"ide0": "local-lvm:vm-101-cloudinit,media=cdrom", "nameserver": "192.0.2.1", "sshkeys": "x"}
    handed = await put(data, spec(user_data=user), config=there)
    assert handed.config == {"ciupgrade": 0, "ciuser": "me", "ipconfig0": "ip=192.0.2.7/24"}
    assert handed.delete == ("nameserver", "sshkeys")
    handed = await put(data, spec(user_data=user), storage="local-lvm")
    assert handed.config["ide2"] == "local-lvm:cloudinit"
    with pytest.raises(NotSupportedError, match="no #cloud-config"):
        await put(data, spec(user_data=SCRIPT), storage="local-lvm")


async def test_snippets_are_written_where_the_nodes_read_them(cluster: Pve, tmp_path: Path) -> None:
    (tmp_path / "snippets").mkdir()
    data = BootData(cluster, snippets=Snippets("shared", tmp_path))
    plain = v1.MachineSpec(
        identity=spec().identity,
        nics=[v1.NicSpec(name="lan")],
        boot_data=v1.BootData(user_data=SCRIPT),
        extra_config={"proxmox.bootData": "snippets"},
    )
    handed = await put(data, plain, storage="local-lvm")
    parts = dict(part.split("=") for part in str(handed.config["cicustom"]).split(","))
    assert (handed.config["ide2"], handed.config["citype"]) == ("local-lvm:cloudinit", "nocloud")
    assert (tmp_path / parts["user"].partition(":")[2]).read_text() == SCRIPT
    # Proxmox VE's own would leave a NIC without addresses alone.
    assert '"dhcp4": true' in (tmp_path / parts["network"].partition(":")[2]).read_text()
    await data.drop(UID, "test")
    assert not list((tmp_path / "snippets").iterdir())
    with pytest.raises(NotSupportedError, match="3 MiB"):
        await put(data, spec(extra="snippets", user_data="#" * (3 << 20)), storage="local-lvm")


async def test_a_way_that_is_not_there_is_refused(cluster: Pve) -> None:
    with pytest.raises(NotSupportedError, match="snippets_directory"):
        await put(BootData(cluster), spec(extra="snippets", user_data=SCRIPT))
    with pytest.raises(InvalidSpecError, match="iso, snippets, native"):
        await put(BootData(cluster), spec(extra="floppy", user_data=SCRIPT))
    with pytest.raises(ResourceNotFoundError, match="set iso_storage"):
        await put(BootData(cluster, iso_storage="local-lvm"), spec(user_data=SCRIPT))
