"""Starting, stopping, pausing and waking guests."""

from __future__ import annotations

from simulators.proxmox import guests
from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.disks import Work, allocate
from simulators.proxmox.errors import refused
from simulators.proxmox.ha import request_state
from simulators.proxmox.locks import check_lock
from simulators.proxmox.strings import number
from simulators.proxmox.tasks import Task, Worker
from simulators.proxmox.world import Guest

POWER = at("/vms/{vmid}", "VM.PowerMgmt")


def present(call: Call) -> Guest:
    """The guest, looked up when the worker runs: it may be gone by then."""
    return call.guest


def begin(call: Call, kind: str, worker: Worker) -> str:
    """Queue a task on the guest in the path."""
    return call.world.tasks.start(call.who, call.node, kind, call.vmid, worker)


def running(call: Call) -> Guest:
    """The guest in the path, which has to run.

    Raises:
        PveError: it is off.
    """
    if call.guest.run is None:
        raise refused(f"VM {call.vmid} not running")
    return call.guest


@route("POST", "/nodes/{node}/qemu/{vmid}/status/start", allowed=POWER)
async def start(call: Call) -> object:
    """Queue a start; whatever is wrong with it, a missing guest included, the task tells."""
    call.root_only("skiplock")
    if f"vm:{call.vmid}" in call.world.ha:
        return request_state(call, "hastart", "started")

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            await guests.start(task, present(call), skiplock=call.flag("skiplock"))

    return begin(call, "qmstart", worker)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/stop", allowed=POWER)
async def stop(call: Call) -> object:
    """Queue a hard stop, which may end shutdowns that wait."""
    call.root_only("skiplock")
    if f"vm:{call.vmid}" in call.world.ha:
        return request_state(call, "hastop", "stopped", hard=True)

    async def worker(task: Task) -> None:
        if call.flag("overrule-shutdown"):
            await overrule(call, task)
        async with call.world.locks.hold(call.vmid, log=task.log):
            await guests.stop(task, present(call), skiplock=call.flag("skiplock"))

    return begin(call, "qmstop", worker)


async def overrule(call: Call, task: Task) -> None:
    """End the shutdowns of the guest that are in the list of tasks; one that only just began is not."""
    world = call.world
    found = [
        one
        for one in world.tasks.of_guest(call.vmid, "qmshutdown")
        if one.age > world.pace.here(world.pace.unseen) and one.user in (call.who.name, call.who.user)
    ]
    if not found:
        return
    task.log(f"overruled qmshutdown tasks: {', '.join(one.upid for one in found)}")
    for one in found:
        await world.tasks.cancel(one.upid)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown", allowed=POWER)
async def shutdown(call: Call) -> object:
    """Queue a shutdown; it holds the file lock for as long as it waits."""
    call.root_only("skiplock")
    guest = call.guest
    paused = guest.run is not None and guest.run.status == "paused"
    if paused and not call.flag("forceStop"):
        raise refused("VM is paused - cannot shutdown")
    if f"vm:{call.vmid}" in call.world.ha:
        return request_state(call, "hastop", "stopped")

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            found = present(call)
            if found.run is not None and not call.flag("skiplock"):
                check_lock(found)
            if paused or not await guests.power_down(task, found, seconds(call)):
                if not call.flag("forceStop"):
                    raise refused("VM quit/powerdown failed - got timeout")
                task.log("VM still running - terminating now with SIGTERM")
                await guests.stop(task, found, skiplock=call.flag("skiplock"))

    return begin(call, "qmshutdown", worker)


def seconds(call: Call) -> float:
    """How long a guest may take to go off."""
    return float(call.number("timeout")) if call.has("timeout") else guests.SHUTDOWN_SECONDS


@route("POST", "/nodes/{node}/qemu/{vmid}/status/reboot", allowed=POWER)
async def reboot(call: Call) -> object:
    """Queue a shutdown, after which the node starts the guest again; the task ends in between."""
    running(call)

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            found = present(call)
            check_lock(found)
            found.reboot = True
            try:
                if not await guests.power_down(task, found, seconds(call)):
                    raise refused("VM quit/powerdown failed - got timeout")
            except BaseException:
                found.reboot = False  # an interrupted one does not turn the next stop into a reboot, either
                raise

    return begin(call, "qmreboot", worker)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/reset", allowed=POWER)
async def reset(call: Call) -> object:
    call.root_only("skiplock")
    running(call)

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            found = running(call)
            if not call.flag("skiplock"):
                check_lock(found)
            await task.spend(call.world.pace.reset)
            await guests.tell(call.world, found, "system_reset")

    return begin(call, "qmreset", worker)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/suspend", allowed=POWER)
async def suspend(call: Call) -> object:
    """Pause, or with `todisk` hibernate."""
    call.root_only("skiplock")
    running(call)
    if call.flag("todisk"):
        call.require(f"/vms/{call.vmid}", "VM.Config.Disk")
        return begin(call, "qmsuspend", lambda task: hibernate(call, task))

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            found = present(call)
            if not call.flag("skiplock"):
                check_lock(found, "backup")
            await task.spend(call.world.pace.suspend)
            if found.run:
                found.run.status = "paused"
                await guests.tell(call.world, found, "stop")

    return begin(call, "qmpause", worker)


async def hibernate(call: Call, task: Task) -> None:
    """Save the memory to a volume and end QEMU; the lock says so until it wakes."""
    world = call.world
    async with world.locks.hold(call.vmid, log=task.log):
        guest = running(call)
        check_lock(guest)
        guest.lock = "suspending"
        name = call.text("statestorage") or guest.config.get("vmstatestorage") or guests.state_storage(world, guest)
    made = ""
    try:
        work = Work(world, guest.node, guest.vmid, task.log, task.spend)
        size = (number(guest.config.get("memory", "512")) * 2 + 512) << 20
        stamp = f"state-suspend-{world.today()}"
        made = (await allocate(work, world.storage(name), size, "raw", name=stamp)).volid
        await task.spend(world.pace.hibernate)
    except BaseException:
        guest.lock = ""
        if made:
            world.storage(name).on(guest.node).pop(made, None)
        raise
    task.log("State saved, quitting")
    guest.vmstate, guest.lock = made, "suspended"
    guest.config |= guests.running_keys(guest)
    guests.off_now(world, guest, applied=False)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/resume", allowed=POWER)
async def resume(call: Call) -> object:
    """Let a paused guest run on, or wake one that hibernates."""
    call.root_only("skiplock")
    guest = call.guest
    if guest.lock != "suspended":
        running(call)

    async def worker(task: Task) -> None:
        async with call.world.locks.hold(call.vmid, log=task.log):
            found = present(call)
            if found.lock == "suspended":
                await guests.start(task, found)
                return
            if not call.flag("skiplock"):
                check_lock(found, "backup")
            await task.spend(call.world.pace.suspend)
            if found.run:
                found.run.status = "running"
                await guests.tell(call.world, found, "cont")

    return begin(call, "qmresume", worker)


@route("POST", "/nodes/{node}/qemu/{vmid}/monitor", allowed=at("/vms/{vmid}", "Sys.Audit", "Sys.Modify"))
async def monitor(call: Call) -> object:
    """Two commands of QEMU's monitor: asking for the status, and ending it."""
    guest = call.guest
    if guest.run is None:
        raise refused(f"VM {call.vmid} not running")
    command = call.text("command")
    if command == "info status":
        return f"VM status: {guest.run.status}\r\n"
    if command in ("quit", "q"):
        call.require(f"/vms/{call.vmid}", "Sys.Modify")
        guests.crash(call.world, guest)
        return ""
    return f"unknown command: '{command}'\r\n"


@route("PUT", "/nodes/{node}/qemu/{vmid}/sendkey", allowed=at("/vms/{vmid}", "VM.Console"))
async def sendkey(call: Call) -> object:
    running(call)
    call.required("key")
    return None
