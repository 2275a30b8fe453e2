"""Guests that run, and what happens when they start and go off."""

from __future__ import annotations

import hashlib
import time
from typing import Any
from urllib.parse import unquote

from .access import ROOT
from .board import cpus
from .disks import NO_VOLUME, free, storage_of, volids
from .errors import PveError, refused
from .keys import bridge
from .locks import check_lock
from .strings import NET, disk_size, drives, number, parse
from .tasks import Task
from .world import Guest, Running, World

QEMU = "10.0.2"
CLEAN_UP_WAITS = 30.0  # seconds for which qmeventd's clean-up holds the lock when the guest runs again
SHUTDOWN_SECONDS = 180.0


def memory_of(guest: Guest) -> int:
    """Bytes of memory that a guest has when it runs."""
    return number(guest.config.get("memory", "512")) << 20


def memory_used(world: World, node: str) -> int:
    """What a host itself and the guests that run on it take."""
    return world.nodes[node].memory_taken + sum(memory_of(guest) for guest in world.on(node) if guest.run)


def row(guest: Guest, *, full: bool = False) -> dict[str, Any]:
    """A guest as its node tells it: live, unlike cluster/resources."""
    memory = memory_of(guest)
    run = guest.run
    told: dict[str, Any] = {
        "vmid": guest.vmid,
        "name": guest.name,
        "status": guest.status,
        "cpus": cpus(guest.config),
        "maxmem": memory,
        "maxdisk": disk_size(guest.config),
        "uptime": int(time.time() - run.since) if run else 0,
        "cpu": 0.01 if run else 0,
        "mem": memory // 4 if run else 0,
        "memhost": memory // 4 if run else 0,
        "disk": 0,
        "netin": 0,
        "netout": 0,
    }
    told |= {key: guest.config[key] for key in ("tags",) if guest.config.get(key)}
    if guest.template:
        told["template"] = 1
    if guest.lock:
        told["lock"] = guest.lock
    if run:
        told |= {"pid": run.pid} | {f"pressure{what}": 0 for what in PRESSURES}
    if full:
        told["qmpstatus"] = run.status if run else "stopped"
        if run:
            told |= {
                "running-qemu": QEMU,
                "running-machine": run.machine,
                "balloon": memory,
                "ballooninfo": {"actual": memory, "max_mem": memory},
                "diskread": 0,
                "diskwrite": 0,
            }
    return told


PRESSURES = ("cpusome", "cpufull", "memorysome", "memoryfull", "iosome", "iofull")


def agent_enabled(guest: Guest) -> bool:
    """Whether the config allows a guest agent."""
    return parse(guest.config.get("agent", "0"), "enabled").get("enabled") == "1"


def apply_pending(guest: Guest) -> None:
    """Make everything that waited for a start part of the config."""
    for key in guest.dropped:
        guest.config.pop(key, None)
    guest.config.update(guest.pending)
    guest.pending.clear()
    guest.dropped.clear()


def check_start(world: World, guest: Guest) -> None:
    """Everything that makes a start fail.

    Raises:
        PveError: naming the first such thing.
    """
    if guest.template:
        raise refused("you can't start a vm if it's a template")
    if guest.run:
        raise refused(f"VM {guest.vmid} already running")
    node = world.nodes[guest.node]
    if cpus(guest.config) > node.cpus:
        raise refused(f"MAX {node.cpus} vcpus allowed per VM on this node")
    for drive in drives(guest.config).values():
        file = drive["file"]
        if file not in NO_VOLUME and not file.startswith("/") and world.volume(file, guest.node) is None:
            raise refused(f"volume '{file}' does not exist")
    for snippet in parse(guest.config.get("cicustom", "")).values():
        if world.volume(snippet, guest.node) is None:
            raise refused(f"volume '{snippet}' does not exist")
    for key, value in guest.config.items():
        if NET.fullmatch(key) and bridge(value) and bridge(value) not in world.networks(guest.node):
            raise refused(f"bridge '{bridge(value)}' does not exist")


async def start(task: Task, guest: Guest, *, skiplock: bool = False, paused: bool = False) -> None:
    """Start a guest whose file lock the caller holds; one that hibernates wakes up.

    Raises:
        PveError: it is locked, runs already, or lacks something.
    """
    world = task.world
    hibernated = guest.lock == "suspended"
    if not skiplock and not hibernated:
        check_lock(guest)
    apply_pending_first = not guest.run and not hibernated
    if apply_pending_first:
        apply_pending(guest)
    check_start(world, guest)
    if hibernated and guest.vmstate:
        task.log("Resuming suspended VM")
        task.log(f"activating and using '{guest.vmstate}' as vmstate")
    if any("cloudinit" in drive["file"] for drive in drives(guest.config).values()):
        task.log("generating cloud-init ISO")
        generate_cloudinit(guest)
    await task.spend(world.pace.start)
    if memory_used(world, guest.node) + memory_of(guest) > world.nodes[guest.node].memory:
        task.log("kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory")
        raise refused("start failed: QEMU exited with code 1")
    run_now(world, guest, paused=paused)
    if world.hypervisor is not None:
        await world.hypervisor.start(guest)
    if hibernated:
        task.log("Resumed VM, removing state")
        wake(world, guest)


def run_now(world: World, guest: Guest, *, paused: bool = False) -> None:
    """The QEMU process is there."""
    machine = guest.config.get("machine", "pc")
    chip = "pc-q35" if "q35" in machine else "pc-i440fx"
    status = "paused" if paused else "running"
    guest.run = Running(world.tasks.pid(), machine=f"{chip}-10.0+pve0", status=status)


RUNNING_KEYS = ("runningmachine", "runningcpu", "running-nets-host-mtu")


def running_keys(guest: Guest) -> dict[str, str]:
    """What a saved memory needs to know of the machine that it came from."""
    machine = guest.run.machine if guest.run else ""
    return dict(zip(RUNNING_KEYS, (machine, guest.config.get("cpu", "kvm64"), ""), strict=True))


def wake(world: World, guest: Guest) -> None:
    """Drop what a hibernation left."""
    if guest.vmstate:
        free(world, guest.node, guest.vmstate)
    guest.vmstate, guest.lock = "", ""
    for key in RUNNING_KEYS:
        guest.config.pop(key, None)


def generate_cloudinit(guest: Guest) -> None:
    """Remember what the drive was made from."""
    guest.generated = {key: value for key, value in guest.config.items() if is_cloudinit_key(key)}


def is_cloudinit_key(key: str) -> bool:
    return key.startswith(("ci", "ipconfig")) or key in ("nameserver", "searchdomain", "sshkeys", "name")


def cloudinit_file(guest: Guest, kind: str) -> str:
    """A file of the cloud-init drive: `user`, `network` or `meta`; what `cicustom` names is not shown."""
    config = guest.config
    domain = config.get("searchdomain", "").split(" ")[0]
    if kind == "meta":
        data = cloudinit_file(guest, "user") + cloudinit_network(config)
        return f"instance-id: {hashlib.sha1(data.encode()).hexdigest()}\n"
    if kind == "network":
        return cloudinit_network(config)
    lines = ["#cloud-config", f"hostname: {guest.name}", "manage_etc_hosts: true"]
    if domain:
        lines.append(f"fqdn: {guest.name}.{domain}")
    if user := config.get("ciuser"):
        lines.append(f"user: {user}")
    if password := config.get("cipassword"):
        lines.append(f"password: $5$sim${hashlib.sha256(password.encode()).hexdigest()}")
    if keys := unquote(config.get("sshkeys", "")).split("\n"):
        lines += ["ssh_authorized_keys:"] * any(keys) + [f"  - {key}" for key in keys if key]
    lines += ["chpasswd:", "  expire: False", "users:", "  - default"]
    if config.get("ciupgrade", "1") == "1":
        lines.append("package_upgrade: true")
    return "\n".join(lines) + "\n"


def cloudinit_network(config: dict[str, str]) -> str:
    """Version 1 of the network config: the NICs that have addresses, then the name servers."""
    lines = ["version: 1", "config:"]
    for key in sorted(key for key in config if key.startswith("ipconfig")):
        place = key.removeprefix("ipconfig")
        mac = next(iter(parse(config.get(f"net{place}", "")).values()), "")
        if not mac:
            continue
        lines += ["    - type: physical", f"      name: eth{place}", f"      mac_address: '{mac.lower()}'"]
        address = parse(config[key])
        if address.get("ip") == "dhcp":
            lines += ["      subnets:", "      - type: dhcp4"]
        elif "ip" in address:
            lines += ["      subnets:", "      - type: static", f"        address: '{address['ip']}'"]
            if "gw" in address:
                lines.append(f"        gateway: '{address['gw']}'")
    if servers := config.get("nameserver", "").split():
        lines += ["    - type: nameserver", "      address:", *(f"      - '{one}'" for one in servers)]
        if domain := config.get("searchdomain"):
            lines += ["      search:", f"      - '{domain}'"]
    return "\n".join(lines) + "\n"


def off_now(world: World, guest: Guest, *, applied: bool) -> None:
    """The QEMU process is gone, and somebody will clean up after it.

    Args:
        applied: whether who ended it makes the pending changes part of the config, as stop and shutdown do.
    """
    if guest.run is None:
        return
    guest.run = None
    world.consoles.end(guest.vmid)
    if world.hypervisor is not None:
        world.hypervisor.ended(guest)
    if applied:
        apply_pending(guest)
    world.tasks.spawn(clean_up(world, guest), f"qmeventd {guest.vmid}")


async def clean_up(world: World, guest: Guest) -> None:
    """What qmeventd does after a guest went off, and what makes a start right after that a bad idea."""
    await world.pace.spend(world.pace.clean_up)
    try:
        async with world.locks.hold(guest.vmid):
            waited = 0.0
            while guest.run is not None and waited < CLEAN_UP_WAITS:
                await world.pace.spend(1.0)
                waited += 1.0
    except PveError:
        return  # somebody works on it; real clean-ups give up as well
    if guest.reboot and world.guests.get(guest.vmid) is guest:
        guest.reboot = False
        begin_start(world, guest)


def begin_start(world: World, guest: Guest) -> str:
    """The node itself starts a guest; the UPID."""

    async def worker(task: Task) -> None:
        async with world.locks.hold(guest.vmid, log=task.log):
            await start(task, guest)

    return world.tasks.start(ROOT, guest.node, "qmstart", guest.vmid, worker)


async def stop(task: Task, guest: Guest, *, skiplock: bool = False) -> None:
    """End the QEMU process of a guest whose file lock the caller holds; one that is off stays as it is."""
    if guest.run is None:
        return
    if not skiplock:
        check_lock(guest)
    await task.spend(task.world.pace.stop)
    off_now(task.world, guest, applied=True)


async def power_down(task: Task, guest: Guest, timeout: float) -> bool:
    """Ask the guest to go off and wait; whether it did within `timeout` seconds of the world."""
    if guest.run is None:
        return True
    pace = task.world.pace
    if agent_enabled(guest) and not guest.agent:
        await task.spend(min(pace.agent, 3.0))
        task.log(f"QEMU Guest Agent is not running - VM {guest.vmid} qga command 'guest-ping' failed - got timeout")
    await tell(task.world, guest, "system_powerdown")
    reacts = guest.obeys or (agent_enabled(guest) and guest.agent)
    waited = 0.0
    while guest.run is not None and waited < timeout:
        step = min(0.5, timeout - waited)
        await task.spend(step)
        waited += step
        if reacts and guest.run is not None and guest.run.status == "running" and waited >= pace.power_down:
            off_now(task.world, guest, applied=True)
        reacts = guest.obeys or (agent_enabled(guest) and guest.agent)
    return guest.run is None


async def tell(world: World, guest: Guest, command: str) -> None:
    """Pass a command on to what really runs, if anything does."""
    if world.hypervisor is not None:
        await world.hypervisor.command(guest, command)


def crash(world: World, guest: Guest) -> None:
    """QEMU ends by itself: no task tells of it, and pending changes go on waiting."""
    off_now(world, guest, applied=False)


def state_storage(world: World, guest: Guest) -> str:
    """Where a guest's memory goes when nobody says: beside its disks, shared ones first."""
    found = [world.storages[name] for volid in volids(guest.config) if (name := storage_of(volid)) in world.storages]
    found.sort(key=lambda storage: not storage.shared)
    return found[0].name if found else next(s.name for s in world.storages.values() if "images" in s.content)
