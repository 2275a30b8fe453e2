"""What must never happen to a disk, and what a libvirtd that hangs must never hold up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from pathlib import Path

import libvirt
import pytest
from common import v1
from common.errors import BrokenImageError, HypervisorUnavailableError, OperationInProgressError
from libvirtd.private import PrivateLibvirtd
from provider_libvirt import making

from .conftest import MIB, Bench, bench_on, machine_spec, quiet, uid_of

pytestmark = pytest.mark.real

FOREIGN = """<domain type='qemu'><name>foreign</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os><devices><disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>
<source pool='{pool}' volume='{volume}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


async def with_data_disk(bench: Bench) -> tuple[str, Path]:
    """A machine, and the file of a disk that was detached from it."""
    spec = machine_spec(disks=[v1.DiskSpec(name="root", size_bytes=MIB), v1.DiskSpec(name="data", size_bytes=MIB)])
    uid = uid_of(spec)
    await bench.driver.create(spec, quiet)
    await bench.driver.detach_disk(uid, "data", live=False)
    return uid, bench.daemon.pool_path / f"{uid}-data.qcow2"


async def test_P2_a_disk_that_another_domain_names_by_pool_and_volume_stays(bench: Bench) -> None:
    uid, data = await with_data_disk(bench)
    other = libvirt.open(bench.daemon.uri)
    domain = other.defineXML(FOREIGN.format(pool=bench.daemon.pool, volume=data.name))
    try:
        await bench.driver.destroy(uid, quiet)
        assert data.exists()
        assert [Path(file).name for file in bench.files(uid)] == [data.name]
    finally:
        domain.undefine()
        other.close()
        data.unlink()


async def test_P2_a_disk_that_another_volume_stands_on_stays(bench: Bench) -> None:
    uid, data = await with_data_disk(bench)
    overlay = bench.daemon.pool_path / "somebodys-overlay.qcow2"
    bench.daemon.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(data), str(overlay))
    try:
        await bench.driver.destroy(uid, quiet)
        assert data.exists()
    finally:
        overlay.unlink()
        data.unlink()


async def test_P1_an_image_that_lost_its_marker_stays_while_disks_stand_on_it(bench: Bench, guest_image: Path) -> None:
    source = v1.ImageSource(file=v1.FileSource(path=guest_image.name), format="qcow2")
    request = v1.PrepareImageRequest(
        uid="0a6b5d6e-3c1c-4a53-9d3e-0000000000c1", namespace="lab", name="g", source=source
    )
    image = await bench.driver.prepare_image(request, quiet)
    spec = machine_spec(disks=[v1.DiskSpec(name="root", image=v1.ImageRef(id=image.id))])
    await bench.driver.create(spec, quiet)
    base = bench.daemon.pool_path / image.location.partition("/")[2]
    marker = base.with_suffix(".json")
    kept = marker.read_bytes()
    marker.write_bytes(b"")
    with pytest.raises(BrokenImageError, match=r"nothing was removed.*Restore the marker"):
        await bench.driver.prepare_image(request, quiet)
    assert base.exists()
    marker.write_bytes(kept)
    await bench.driver.destroy(uid_of(spec), quiet)


async def test_a_create_without_an_answer_is_not_met_by_a_retry_or_a_delete(
    own_libvirtd: PrivateLibvirtd, guest_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread may yet fail and undo, or succeed and define: until it is back nothing else happens to the machine."""
    release, upload = threading.Event(), making.write_boot_data

    def slow(*arguments: object) -> str:
        release.wait()
        return upload(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(making, "write_boot_data", slow)
    monkeypatch.setattr("provider_libvirt.driver.CREATE_SECONDS", 0.3)
    async with bench_on(own_libvirtd, guest_image.parent) as bench:
        spec = machine_spec(
            disks=[v1.DiskSpec(name="root", size_bytes=MIB)], boot_data=v1.BootData(user_data="#cloud-config\n{}\n")
        )
        uid = uid_of(spec)
        with pytest.raises(HypervisorUnavailableError, match="no answer"):
            await bench.driver.create(spec, quiet)
        for again in (bench.driver.create(spec, quiet), bench.driver.destroy(uid, quiet)):
            with pytest.raises(OperationInProgressError, match="still runs on the hypervisor"):
                await again
        release.set()
        async with asyncio.timeout(20):
            while True:
                try:
                    await bench.driver.destroy(uid, quiet)
                    break
                except OperationInProgressError:
                    await asyncio.sleep(0)
        assert bench.files(uid) == []
        assert await bench.driver.observe(uid) is None


async def test_leaving_a_console_of_a_libvirtd_that_hangs_holds_up_nobody(
    own_libvirtd: PrivateLibvirtd, guest_image: Path
) -> None:
    async with bench_on(own_libvirtd, guest_image.parent) as bench:
        spec = machine_spec(disks=[v1.DiskSpec(name="root", size_bytes=MIB)])
        uid = uid_of(spec)
        await bench.driver.create(spec, quiet)
        await bench.driver.power_on(uid)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.05)
                beats += 1

        beating = asyncio.ensure_future(beat())
        async with bench.driver.console(uid, v1.ConsoleKind.SERIAL, force=False):
            own_libvirtd.pause()
            beats = 0
        own_libvirtd.resume()
        beating.cancel()
        assert beats > 10, "the loop went on while the console was left"


async def test_a_session_leaves_no_connection_behind(own_libvirtd: PrivateLibvirtd, guest_image: Path) -> None:
    def sockets() -> int:
        gc.collect()
        count = 0
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
                count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        return count

    async with bench_on(own_libvirtd, guest_image.parent) as bench:
        await bench.driver.observe_all()
    async with asyncio.timeout(20):
        before = sockets()
        for _ in range(3):
            async with bench_on(own_libvirtd, guest_image.parent) as bench:
                await bench.driver.observe_all()
        while sockets() > before:  # noqa: ASYNC110  # a thread closes them, and no event tells of it
            await asyncio.sleep(0.05)
