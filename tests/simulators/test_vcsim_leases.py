"""Imports and exports of the simulated vCenter: leases and the streams that they move."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import struct
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pyVmomi import vim

from simulators.clients import MIB, connect, disks, make, outcome, si, until, with_disks
from simulators.vcsim import Vcsim, start_vcsim, vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real

SECTOR = 512


def fetch(vcsim: Vcsim, url: str, body: Any = None) -> bytes:
    context = ssl.create_default_context(cadata=vcsim.ca)
    request = urllib.request.Request(url, body, method="GET" if body is None else "PUT")
    request.add_header("Content-Type", "application/x-vnd.vmware-streamVmdk")
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:
        return answer.read()


def decoded(stream: bytes) -> tuple[int, dict[int, bytes]]:
    """Capacity and grains by offset, found by their markers as a client that only reads forward does."""
    magic, _version, flags, capacity, grain = struct.unpack_from("<4sIIQQ", stream)
    assert (magic, flags & 0x30000, grain) == (b"KDMV", 0x30000, 128)
    (overhead,) = struct.unpack_from("<Q", stream, 64)
    at, grains = overhead * SECTOR, {}
    while True:
        value, size, kind = struct.unpack_from("<QII", stream, at)
        if size:
            grains[value * SECTOR] = zlib.decompress(stream[at + 12 : at + 12 + size])
            at += -(-(12 + size) // SECTOR) * SECTOR
        elif kind == 0:
            assert at + SECTOR == len(stream)
            return capacity * SECTOR, grains
        else:
            at += (1 + value) * SECTOR


def test_the_grain_tables_lead_to_the_grains(si, vcsim):
    """What qemu-img and VMware's tools use instead of the markers."""
    stream = exported(si, vcsim, "tables")
    footer = stream[-2 * SECTOR : -SECTOR]
    (directory,) = struct.unpack_from("<Q", footer, 56)
    (table,) = struct.unpack_from("<I", stream, directory * SECTOR)
    places = struct.unpack_from("<512I", stream, table * SECTOR)
    assert [number for number, place in enumerate(places) if place] == [0, 31]
    assert struct.unpack_from("<Q", stream, places[31] * SECTOR) == (31 * 128,)


def leased(lease: vim.HttpNfcLease) -> vim.HttpNfcLease.Info:
    until(lambda: lease.state != "initializing", "the lease stays initializing")
    if lease.state == "error":
        raise lease.error
    return lease.info


def exported(si: vim.ServiceInstance, vcsim: Vcsim, name: str) -> bytes:
    vm = make(si, name, deviceChange=with_disks(2 * MIB))
    vcsim.write_disk(name, 1000, b"start")
    vcsim.write_disk(name, 2 * MIB - 3, b"end")
    lease = vm.ExportVm()
    stream = fetch(vcsim, leased(lease).deviceUrl[0].url)
    lease.HttpNfcLeaseComplete()
    return stream


def import_spec(name: str, size: int = 2 * MIB) -> vim.vm.VmImportSpec:
    return vim.vm.VmImportSpec(
        configSpec=vim.vm.ConfigSpec(
            name=name,
            numCPUs=1,
            memoryMB=64,
            guestId="otherGuest64",
            files=vim.vm.FileInfo(vmPathName="[LocalDS_0]"),
            deviceChange=with_disks(size),
        )
    )


def start_import(si: vim.ServiceInstance, name: str, size: int = 2 * MIB) -> vim.HttpNfcLease:
    datacenter = si.content.rootFolder.childEntity[0]
    pool = datacenter.hostFolder.childEntity[0].resourcePool
    return pool.ImportVApp(import_spec(name, size), datacenter.vmFolder)


def test_an_export_is_a_stream_of_the_disk(si, vcsim):
    vm = make(si, "shipped", deviceChange=with_disks(2 * MIB, MIB))
    vcsim.write_disk("shipped", 1000, b"start")
    vcsim.write_disk("shipped", 2 * MIB - 3, b"end")
    lease = vm.ExportVm()
    assert lease.state == "initializing"
    info = leased(lease)
    assert (info.entity, info.leaseTimeout, info.totalDiskCapacityInKB) == (vm, 300, 3 << 10)
    assert [device.targetId for device in info.deviceUrl] == ["disk-0.vmdk", "disk-1.vmdk"]
    assert [device.disk for device in info.deviceUrl] == [True, True]
    lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=info.deviceUrl[0].key, value="sha256")])
    stream = fetch(vcsim, info.deviceUrl[0].url)
    capacity, grains = decoded(stream)
    assert capacity == 2 * MIB
    assert sorted(grains) == [0, 2 * MIB - (64 << 10)]
    assert grains[0][1000:1005] == b"start"
    assert grains[2 * MIB - (64 << 10)].endswith(b"end")
    (entry,) = lease.HttpNfcLeaseGetManifest()
    assert (entry.size, entry.disk, entry.checksumType) == (len(stream), True, "sha256")
    assert entry.sha1 == hashlib.sha1(stream).hexdigest()
    assert entry.checksum == hashlib.sha256(stream).hexdigest()
    lease.HttpNfcLeaseProgress(100)
    lease.HttpNfcLeaseComplete()
    assert lease.state == "done"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(vcsim, info.deviceUrl[0].url)


def test_only_what_is_off_is_exported_but_snapshots_always(si, vcsim):
    vm = make(si, "running", deviceChange=with_disks(MIB))
    vcsim.write_disk("running", 0, b"then")
    outcome(vm.PowerOnVM_Task())
    snapshot = outcome(vm.CreateSnapshot_Task("s", "", False, False))
    vcsim.write_disk("running", 0, b"now!")
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ExportVm()
    lease = snapshot.ExportSnapshot()
    _, grains = decoded(fetch(vcsim, leased(lease).deviceUrl[0].url))
    assert grains[0][:4] == b"then"
    lease.HttpNfcLeaseAbort()
    assert lease.state == "error"


def test_an_import_takes_a_stream(si, vcsim):
    stream = exported(si, vcsim, "template")
    lease = start_import(si, "imported")
    info = leased(lease)
    assert info.deviceUrl[0].importKey == "/imported/disk:0"
    with pytest.raises(urllib.error.HTTPError, match="500"):
        fetch(vcsim, info.deviceUrl[0].url, b"raw bytes" * 1000)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        fetch(vcsim, info.deviceUrl[0].url, stream[:-SECTOR])
    pieces = (stream[at : at + 4096] for at in range(0, len(stream), 4096))
    fetch(vcsim, info.deviceUrl[0].url, pieces)  # chunked, as its length is unknown
    lease.HttpNfcLeaseProgress(50)
    assert lease.transferProgress == 50
    (entry,) = lease.HttpNfcLeaseGetManifest()
    assert entry.sha1 == hashlib.sha1(stream).hexdigest()
    lease.HttpNfcLeaseComplete()
    assert info.entity.name == "imported"
    assert vcsim.read_disk("imported", 1000, 5) == b"start"
    assert vcsim.read_disk("imported", 2 * MIB - 3, 3) == b"end"


def test_a_stream_larger_than_the_disk(si, vcsim):
    stream = exported(si, vcsim, "large")
    lease = start_import(si, "narrow", MIB)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        fetch(vcsim, leased(lease).deviceUrl[0].url, stream)
    lease.HttpNfcLeaseAbort()


def test_an_aborted_import_leaves_nothing(si, vcsim):
    lease = start_import(si, "aborted")
    leased(lease)
    lease.HttpNfcLeaseAbort()
    until(lambda: "aborted" not in vcsim.vms(), "the machine stays")
    assert isinstance(lease.error, Exception)
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseComplete()


def test_a_silent_import_dies(si, vcsim):
    vcsim.control("leases", timeout=0.3)
    lease = start_import(si, "silent")
    leased(lease)
    until(lambda: lease.state == "error", "the lease lives on")
    assert isinstance(lease.error, vim.fault.Timedout)
    until(lambda: "silent" not in vcsim.vms(), "the machine stays")
    with pytest.raises(vim.fault.Timedout):
        lease.HttpNfcLeaseProgress(1)


def test_a_taken_name_is_the_leases_error(si):
    vm = make(si, "taken")
    with pytest.raises(vim.fault.DuplicateName) as raised:
        leased(start_import(si, "taken"))
    assert raised.value.object == vm


def test_slow_leases_and_starred_hosts(si, vcsim):
    vcsim.control("leases", initializing=0.2, star=True)
    vm = make(si, "starred", deviceChange=with_disks(MIB))
    lease = vm.ExportVm()
    assert lease.state == "initializing"
    url = leased(lease).deviceUrl[0].url
    assert url.startswith("https://*/nfc/")
    fetch(vcsim, url.replace("*", f"{vcsim.host}:{vcsim.port}"))
    for body in ({"timeout": 0}, {"star": 1}, {"nonsense": True}):
        with pytest.raises(ValueError, match="error"):
            vcsim.control("leases", **body)


def test_cut_transfers(si, vcsim):
    stream = exported(si, vcsim, "whole")
    vm = make(si, "cut", deviceChange=with_disks(MIB))
    vcsim.write_disk("cut", 0, b"x")
    vcsim.control("transfers/cut", path="/nfc", after=600)
    url = leased(vm.ExportVm()).deviceUrl[0].url
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        fetch(vcsim, url)
    assert decoded(fetch(vcsim, url))[0] == MIB
    vcsim.control("transfers/cut", path="/nfc", after=600)
    url = leased(start_import(si, "cut-in")).deviceUrl[0].url
    with pytest.raises((http.client.RemoteDisconnected, urllib.error.URLError, ConnectionError)):
        fetch(vcsim, url, stream)
    fetch(vcsim, url, stream)


@pytest.fixture
def source(si: vim.ServiceInstance, vcsim: Vcsim) -> Iterator[str]:
    """A web server with one stream."""
    stream = exported(si, vcsim, "web")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(stream)

        def log_message(self, *_: object) -> None:
            """A test's output is quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/disk.vmdk"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_server_pulls_itself(si, vcsim, source):
    lease = start_import(si, "pulled")
    info = leased(lease)
    assert lease.capabilities.pullModeSupported is True
    file = vim.HttpNfcLease.SourceFile(targetDeviceId=info.deviceUrl[0].importKey, url=source, create=False)
    outcome(lease.HttpNfcLeasePullFromUrls_Task([file]))
    lease.HttpNfcLeaseComplete()
    assert vcsim.read_disk("pulled", 1000, 5) == b"start"


def test_a_lone_host_stars_its_urls():
    for server in start_vcsim(esx=True):
        service = connect(server)
        vm = make(service, "lone", deviceChange=with_disks(MIB))
        assert leased(vm.ExportVm()).deviceUrl[0].url.startswith("https://*/nfc/")
        assert disks(vm.config)[0].capacityInBytes == MIB
        service._stub.DropConnections()
