"""The private libvirtd itself: real guests on it, restarts, and no trace afterwards."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import libvirt_qemu  # type: ignore[import-untyped]  # it has no stubs
import pycdlib
import pytest

from .fixtures import guest_image, libvirtd, own_libvirtd
from .private import PrivateLibvirtd

__all__ = ["guest_image", "libvirtd", "own_libvirtd"]
pytestmark = pytest.mark.real

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
  <devices>
    <controller type='scsi' model='virtio-scsi'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='sda' bus='scsi'/><boot order='1'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='{seed}'/><target dev='sdb' bus='scsi'/><readonly/>
    </disk>
    <interface type='network'><source network='{network}'/><model type='virtio'/></interface>
    <serial type='file'><source path='{serial}'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>
"""


@pytest.fixture(autouse=True)
def quiet_libvirt() -> None:
    """libvirt prints each error to stderr besides raising it."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)


def seed_iso(path: Path, files: dict[str, str]) -> None:
    """Write a NoCloud volume."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()


def define(daemon: PrivateLibvirtd, connection: libvirt.virConnect, image: Path, name: str) -> libvirt.virDomain:
    """Define a guest with an overlay on the image, a seed and an agent."""
    disk, seed = daemon.pool_path / f"{name}.qcow2", daemon.pool_path / f"{name}.iso"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(disk)], check=True)
    seed_iso(seed, {"meta-data": f"instance-id: {name}\nlocal-hostname: {name}\n", "user-data": "#cloud-config\n{}\n"})
    serial = daemon.pool_path / f"{name}.log"
    return connection.defineXML(DOMAIN.format(name=name, disk=disk, seed=seed, serial=serial, network=daemon.network))


def wait_for(answer: Callable[[], object], what: str, timeout: float = 60.0) -> object:
    """Poll: neither a lease nor an agent announces itself to a client without an event loop."""
    deadline = time.monotonic() + timeout
    while not (value := answer()):
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} within {timeout:g} s")
        time.sleep(0.05)
    return value


def agent_interfaces(domain: libvirt.virDomain) -> object:
    try:
        reply = libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-network-get-interfaces"}', 5, 0)
    except libvirt.libvirtError:
        return None  # not up yet
    return json.loads(reply)["return"]


@pytest.fixture
def connection(libvirtd: PrivateLibvirtd) -> Iterator[libvirt.virConnect]:
    connection = libvirt.open(libvirtd.uri)
    yield connection
    connection.close()


def test_network_and_pool_are_active(libvirtd: PrivateLibvirtd, connection: libvirt.virConnect) -> None:
    """A provider finds what it needs without a step of set-up."""
    assert connection.networkLookupByName(libvirtd.network).isActive()
    assert connection.storagePoolLookupByName(libvirtd.pool).isActive()


def test_guest_gets_lease_and_agent_answers(
    libvirtd: PrivateLibvirtd,
    connection: libvirt.virConnect,
    guest_image: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """A real machine boots, gets an address by DHCP, tells it through its agent, and obeys a graceful shutdown."""
    clock = time.monotonic
    begin = clock()
    domain = define(libvirtd, connection, guest_image, "web")
    defined = clock()
    domain.create()
    started = clock()
    try:
        network = connection.networkLookupByName(libvirtd.network)
        leases = wait_for(network.DHCPLeases, "lease")
        leased = clock()
        assert isinstance(leases, list)
        assert [lease["hostname"] for lease in leases] == ["web"], leases
        address = leases[0]["ipaddr"]  # the server gives it away a moment before the guest takes it
        wait_for(lambda: address in json.dumps(agent_interfaces(domain)), f"agent that tells {address}")
        answered = clock()
        assert [guest.name for guest in libvirtd.guests()] == ["web"]
        domain.shutdown()
        wait_for(lambda: not domain.isActive(), "end of the guest", 20)
        stopped = clock()
    finally:
        if domain.isActive():
            domain.destroy()
        domain.undefine()
    assert libvirtd.guests() == []
    log = (libvirtd.pool_path / "web.log").read_text()
    assert "virtrigaud-guest: hostname=web" in log
    assert "virtrigaud-guest: poweroff" in log
    times = (
        f"define {defined - begin:.2f} start {started - defined:.2f} lease +{leased - started:.2f} "
        f"agent +{answered - started:.2f} shutdown {stopped - answered:.2f}"
    )
    record_property("seconds", times)
    print(times)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_guests_survive_a_restart(own_libvirtd: PrivateLibvirtd, guest_image: Path, how: signal.Signals) -> None:
    """libvirtd may be upgraded or crash under running machines: the same process is the same domain afterwards."""
    connection = libvirt.open(own_libvirtd.uri)
    domain = define(own_libvirtd, connection, guest_image, "stays")
    domain.create()
    before, old = own_libvirtd.guests(), own_libvirtd.pid
    del domain
    connection.close()
    own_libvirtd.restart(how)
    assert own_libvirtd.pid != old
    connection = libvirt.open(own_libvirtd.uri)
    domain = connection.lookupByName("stays")
    assert domain.isActive()
    assert own_libvirtd.guests() == before
    # This waits for the job that finds the machine again. A destroy amid it ends the machine and reports, of libvirt's
    # two ends of it that then race, "domain is not running".
    assert domain.blockInfo("sda")[0] == 1 << 30
    begin = time.monotonic()
    domain.destroy()
    print(f"destroy {time.monotonic() - begin:.2f}")
    assert own_libvirtd.guests() == []
    connection.close()


def test_closing_ends_everything(guest_image: Path, own_libvirtd: PrivateLibvirtd) -> None:
    """A test that forgets its guests, or fails, leaves no process, no directory and no bridge."""
    connection = libvirt.open(own_libvirtd.uri)
    define(own_libvirtd, connection, guest_image, "forgotten").create()
    connection.close()
    pids = [own_libvirtd.pid, *(guest.pid for guest in own_libvirtd.guests())]
    assert len(pids) == 2
    own_libvirtd.close()
    assert not own_libvirtd.path.exists()
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    assert not Path("/sys/class/net/virbr-vrtg").exists()


def test_a_paused_libvirtd_answers_nothing_until_resumed(own_libvirtd: PrivateLibvirtd) -> None:
    """That is how a hanging hypervisor is made for others' tests."""
    command = ["virsh", "-c", own_libvirtd.uri, "list"]
    own_libvirtd.pause()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=1, check=True)
    own_libvirtd.resume()
    assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
