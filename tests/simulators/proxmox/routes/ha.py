"""High availability: its members, its rules, and what its managers are doing."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from simulators.proxmox.access import ROOT
from simulators.proxmox.calls import Call, at, indexed, route
from simulators.proxmox.errors import PveError, refused
from simulators.proxmox.formats import split_list
from simulators.proxmox.ha_rules import blocking, followers, infeasible, priorities

READ = at("/", "Sys.Audit")
CHANGE = at("/", "Sys.Console")
OPTIONS = ("state", "comment", "max_restart", "max_relocate", "failback", "group")
NUMBERS = frozenset({"max_restart", "max_relocate", "failback", "disable", "strict"})
RULE = ("comment", "disable", "resources", "nodes", "strict", "affinity")


def digest(what: object) -> str:
    """Of a config file."""
    return hashlib.sha1(json.dumps(what, sort_keys=True).encode()).hexdigest()


def sid_of(text: str) -> str:
    """A member's name; a guest's number will do."""
    return f"vm:{text}" if text.isdecimal() else text


def member(call: Call) -> str:
    """The member in the path.

    Raises:
        PveError: there is none.
    """
    sid = sid_of(call.path["sid"])
    if sid not in call.world.ha:
        raise refused(f"no such resource '{sid}'")
    return sid


def check_error(call: Call, sid: str, wanted: str = "") -> None:
    """Refuse to do anything with a member in error but to disable it."""
    service = call.world.managers.services.get(sid)
    if service is not None and service.state == "error" and wanted != "disabled":
        raise refused(f"service '{sid}' in error state, must be disabled and fixed first")


def check_digest(call: Call, what: object) -> None:
    if call.has("digest") and call.text("digest") != digest(what):
        raise refused("detected modified configuration - file changed by other user? Try again.")


def options(call: Call, names: tuple[str, ...]) -> dict[str, Any]:
    """What the call tells of these options."""
    return {name: call.number(name) if name in NUMBERS else call.text(name) for name in names if call.has(name)}


@route("GET", "/cluster/ha")
async def index(call: Call) -> object:
    return indexed("resources", "groups", "rules", "status")


@route("GET", "/cluster/ha/groups", allowed=READ)
async def groups(call: Call) -> object:
    """What they were for, rules do now."""
    raise refused("cannot index groups: ha groups have been migrated to rules")


@route("POST", "/cluster/ha/groups", allowed=CHANGE)
async def create_group(call: Call) -> object:
    raise refused("cannot create group: ha groups have been migrated to rules")


@route("GET", "/cluster/ha/resources", allowed=READ)
async def resources(call: Call) -> object:
    return [told(call, sid) for sid in sorted(call.world.ha) if call.text("type", "vm") == "vm"]


def told(call: Call, sid: str) -> dict[str, Any]:
    """A member as the API tells it."""
    return {"sid": sid, "type": "vm", "digest": digest(call.world.ha), **call.world.ha[sid]}


@route("POST", "/cluster/ha/resources", allowed=CHANGE)
async def add(call: Call) -> object:
    call.required("sid")
    sid, world = sid_of(call.text("sid")), call.world
    if not sid.startswith("vm:") or int(sid.partition(":")[2]) not in world.guests:
        raise refused(f"resource '{sid}' does not exist in cluster")
    if call.has("group"):
        raise refused("invalid parameter 'group': ha groups have been migrated to rules")
    if sid in world.ha:
        raise refused(f"create resource failed: resource ID '{sid}' already defined")
    world.ha[sid] = {"state": "started"} | options(call, OPTIONS)
    return None


@route("GET", "/cluster/ha/resources/{sid}", allowed=READ)
async def one(call: Call) -> object:
    return told(call, member(call))


@route("PUT", "/cluster/ha/resources/{sid}", allowed=CHANGE)
async def update(call: Call) -> object:
    sid = sid_of(call.path["sid"])
    check_error(call, sid, call.text("state"))
    try:
        sid = member(call)
        check_digest(call, call.world.ha)
    except PveError as error:
        raise refused(f"update resource failed: {error.reason}") from error
    call.world.ha[sid] |= options(call, OPTIONS)
    for name in call.many("delete"):
        call.world.ha[sid].pop(name, None)
    return None


@route("DELETE", "/cluster/ha/resources/{sid}", allowed=CHANGE)
async def remove(call: Call) -> object:
    """The guest stays as it is."""
    sid = sid_of(call.path["sid"])
    if sid not in call.world.ha:
        raise refused(f"resource '{sid}' is not HA managed")
    del call.world.ha[sid]
    if call.flag("purge", True):
        for name, rule in list(call.world.ha_rules.items()):
            left = [other for other in split_list(rule["resources"]) if other != sid]
            rule["resources"] = ",".join(left)
            if not left:
                del call.world.ha_rules[name]
    return None


async def move(call: Call, kind: str) -> object:
    """Ask for a move of a member, and of those that go with it."""
    call.required("node")
    sid, target, world = sid_of(call.path["sid"]), call.text("node"), call.world
    if sid not in world.ha:
        raise refused(f"resource '{sid}' is not HA managed")
    check_error(call, sid)
    answer: dict[str, Any] = {"sid": sid, "requested-node": target}
    if found := blocking(world, sid, target):
        return answer | {"blocking-resources": found}
    along = followers(world, sid)
    for moved in (sid, *along):
        world.managers.service(moved).move = (kind, target)
    return answer | ({"comigrated-resources": along} if along else {})


@route("POST", "/cluster/ha/resources/{sid}/migrate", allowed=CHANGE)
async def migrate(call: Call) -> object:
    return await move(call, "migrate")


@route("POST", "/cluster/ha/resources/{sid}/relocate", allowed=CHANGE)
async def relocate(call: Call) -> object:
    return await move(call, "relocate")


@route("GET", "/cluster/ha/rules", allowed=READ)
async def rules(call: Call) -> object:
    kind, resource = call.text("type"), call.text("resource")
    return [
        rule_told(call, name)
        for name, rule in call.world.ha_rules.items()
        if (not kind or rule["type"] == kind) and (not resource or sid_of(resource) in split_list(rule["resources"]))
    ]


def rule_told(call: Call, name: str) -> dict[str, Any]:
    """A rule as the API tells it."""
    order = list(call.world.ha_rules).index(name) + 1
    return {"rule": name, "order": order, "digest": digest(call.world.ha_rules), **call.world.ha_rules[name]}


def rule_of(call: Call) -> str:
    """The rule in the path.

    Raises:
        PveError: there is none.
    """
    name = call.path["rule"]
    if name not in call.world.ha_rules:
        raise refused(f"no such ha rule '{name}'")
    return name


@route("POST", "/cluster/ha/rules", allowed=CHANGE)
async def add_rule(call: Call) -> object:
    kind = call.text("type")
    call.required("rule", "type", "resources", "nodes" if kind == "node-affinity" else "affinity")
    name = call.text("rule")
    if name in call.world.ha_rules:
        raise refused(f"create ha rule failed: HA rule '{name}' already defined")
    keep_rule(call, name, {"type": kind} | options(call, RULE), "create ha rule failed")
    return None


def keep_rule(call: Call, name: str, rule: dict[str, Any], failed: str) -> None:
    """Take a rule over, unless it names what is not there, or cannot be kept beside the others.

    Raises:
        PveError: nothing was changed.
    """
    world = call.world
    if strangers := sorted(sid for sid in split_list(rule["resources"]) if sid not in world.ha):
        raise refused(f"{failed}: cannot use unmanaged resource(s) {', '.join(strangers)}.")
    if nowhere := sorted(node for node in priorities(rule) if node not in world.nodes):
        raise refused(f"{failed}: cannot use non-existant node(s) {', '.join(nowhere)}.")
    others = {key: value for key, value in world.ha_rules.items() if key != name}
    if reasons := infeasible(rule, others.values(), len(world.nodes)):
        raise refused(f"{failed}: 400 Rule '{name}' is invalid.\nresources: {', '.join(reasons)}")
    world.ha_rules[name] = rule


@route("GET", "/cluster/ha/rules/{rule}", allowed=READ)
async def one_rule(call: Call) -> object:
    return rule_told(call, rule_of(call))


@route("PUT", "/cluster/ha/rules/{rule}", allowed=CHANGE)
async def update_rule(call: Call) -> object:
    name, failed = call.path["rule"], "update HA rules failed"
    if name not in call.world.ha_rules:
        raise refused(f"{failed}: HA rule '{name}' does not exist")
    try:
        check_digest(call, call.world.ha_rules)
    except PveError as error:
        raise refused(f"{failed}: {error.reason}") from error
    rule = call.world.ha_rules[name] | options(call, RULE)
    for option in call.many("delete"):
        rule.pop(option, None)
    keep_rule(call, name, rule, failed)
    return None


@route("DELETE", "/cluster/ha/rules/{rule}", allowed=CHANGE)
async def remove_rule(call: Call) -> object:
    call.world.ha_rules.pop(call.path["rule"], None)
    return None


@route("GET", "/cluster/ha/status")
async def status_index(call: Call) -> object:
    return indexed("current", "manager_status", "arm-ha", "disarm-ha")


@route("GET", "/cluster/ha/status/current", allowed=READ)
async def current(call: Call) -> object:
    """The quorum, who manages, each node's manager, and each member."""
    world = call.world
    online = [name for name, node in world.nodes.items() if node.online]
    if not online:
        raise PveError(500, "no quorum")
    quorate = len(online) * 2 > len(world.nodes)
    armed = "armed" if world.ha else "standby"
    here = {"node": online[0]}
    quorum = {"id": "quorum", "type": "quorum", "status": "OK" if quorate else "No quorum on node!"}
    status = "armed" if world.ha else "standby (CRM watchdog standby)"
    fencing = {"id": "fencing", "type": "fencing", "armed-state": armed, "status": status}
    rows: list[dict[str, Any]] = [quorum | here | {"quorate": int(quorate)}, fencing | here]
    if not world.ha and len(world.nodes) == 1:
        return rows
    now = int(time.time())
    when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(now))
    master = {"id": "master", "type": "master", "node": online[0], "timestamp": now}
    rows.append(master | {"status": f"{online[0]} (active, {when})"})
    for name, node in world.nodes.items():
        state = ("active" if world.ha else "idle") if node.online else "old timestamp - dead?"
        rows.append(
            {"id": f"lrm:{name}", "type": "lrm", "node": name, "timestamp": now, "status": f"{name} ({state}, {when})"}
        )
    return rows + [service_row(call, sid) for sid in sorted(world.ha)]


def service_row(call: Call, sid: str) -> dict[str, Any]:
    """A member as the managers see it."""
    world, options = call.world, call.world.ha[sid]
    service, guest = world.managers.service(sid), world.guests.get(int(sid.partition(":")[2]))
    node = guest.node if guest else ""
    return {
        "id": f"service:{sid}",
        "type": "service",
        "sid": sid,
        "node": node,
        "state": service.state,
        "crm_state": service.state,
        "request_state": world.managers.wanted(sid),
        "status": f"{sid} ({node}, {service.state})",
        "max_restart": options.get("max_restart", 1),
        "max_relocate": options.get("max_relocate", 1),
        "failback": options.get("failback", 1),
    }


@route("GET", "/cluster/ha/status/manager_status", allowed=READ)
async def manager_status(call: Call) -> object:
    world = call.world
    return {
        "manager_status": {
            "master_node": next((name for name, node in world.nodes.items() if node.online), ""),
            "node_status": {name: "online" if node.online else "fence" for name, node in world.nodes.items()},
            "service_status": {
                sid: {"node": guest.node, "state": world.managers.service(sid).state, "uid": digest([ROOT, sid])[:22]}
                for sid in world.ha
                if (guest := world.guests.get(int(sid.partition(":")[2]))) is not None
            },
            "timestamp": int(time.time()),
        },
        "quorum": {"node": next(iter(world.nodes)), "quorate": 1},
    }
