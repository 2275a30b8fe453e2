"""Moving guests between nodes."""

from __future__ import annotations

from simulators.proxmox.calls import Call, at, route
from simulators.proxmox.errors import bad, refused
from simulators.proxmox.migration import Plan, parse_storages, preconditions

MIGRATE = at("/vms/{vmid}", "VM.Migrate")


@route("GET", "/nodes/{node}/qemu/{vmid}/migrate", allowed=MIGRATE)
async def conditions(call: Call) -> object:
    """What stands in the way of a move, and where to one could go."""
    return preconditions(call.world, call.guest)


@route("POST", "/nodes/{node}/qemu/{vmid}/migrate", allowed=MIGRATE)
async def migrate(call: Call) -> object:
    """Queue a move; members of HA are moved by its managers."""
    call.required("target")
    target, world = call.text("target"), call.world
    if target == call.node:
        raise bad(target="target is local node.")
    if target not in world.nodes:
        raise refused(f"no such cluster node '{target}'")
    for option in ("force", "migration_type", "migration_network"):
        if call.has(option) and not call.who.root:
            raise bad(**{option: "Only root may use this option."})
    storages = parse_storages(call.text("targetstorage"))
    for name in storages.values():
        call.require(f"/storage/{name}", "Datastore.AllocateSpace")
    guest = call.guest
    plan = Plan(
        world=world,
        guest=guest,
        target=target,
        online=call.flag("online"),
        with_disks=call.flag("with-local-disks"),
        force=call.flag("force"),
        storages=storages,
    )
    plan.check()
    if (sid := f"vm:{call.vmid}") in world.ha:
        return world.managers.ask_move(call.who, sid, target)
    return world.tasks.start(call.who, call.node, "qmigrate", call.vmid, plan.run)
