"""Logins, users, tokens, and what they may do."""

from __future__ import annotations

import uuid
from typing import Any

from simulators.proxmox.access import Grant, Token, User, Who
from simulators.proxmox.calls import Call, route
from simulators.proxmox.errors import bad, refused
from simulators.proxmox.roles import AREAS


@route("POST", "/access/ticket", open=True)
async def login(call: Call) -> object:
    """A ticket for two hours; a valid ticket renews itself in place of the password."""
    call.required("username", "password")
    access = call.world.access
    name = call.text("username")
    if call.has("realm") and "@" not in name:
        name = f"{name}@{call.text('realm')}"
    try:
        user = access.login(name, call.text("password"))
    except Exception:
        await call.world.pace.spend(call.world.pace.failed_auth)
        raise
    return {
        "username": user,
        "ticket": access.ticket(user),
        "CSRFPreventionToken": access.csrf(user),
        "cap": capabilities(access.privileges(Who(user), "/")),
        **({"clustername": call.world.name} if len(call.world.nodes) > 1 else {}),
    }


def capabilities(privileges: frozenset[str]) -> dict[str, dict[str, int]]:
    """What a client may show, by the part of the tree."""
    return {area: {one: 1 for one in sorted(privileges) if one.startswith(kinds)} for area, kinds in AREAS.items()}


@route("GET", "/access/permissions")
async def permissions(call: Call) -> object:
    """What the caller may do, at each path where something was granted."""
    access = call.world.access
    who = call.who
    if call.has("userid"):
        user, _, token = call.text("userid").partition("!")
        who = Who(user, token)
    paths = {grant.path for grant in access.grants} if not who.root else {"/"}
    if call.has("path"):
        paths = {call.text("path")}
    told = {path: dict.fromkeys(sorted(access.privileges(who, path)), 1) for path in sorted(paths)}
    return {path: held for path, held in told.items() if held}


@route("GET", "/access/users")
async def users(call: Call) -> object:
    return [
        {"userid": name, "enable": int(user.enable), "expire": user.expire, "realm-type": name.rpartition("@")[2]}
        for name, user in call.world.access.users.items()
    ]


@route("POST", "/access/users")
async def create_user(call: Call) -> object:
    call.require("/access", "User.Modify")
    call.required("userid")
    name = call.text("userid")
    access = call.world.access
    if name in access.users:
        raise refused(f"create user failed: user '{name}' already exists")
    access.users[name] = User(
        password=call.text("password"),
        enable=call.flag("enable", True),
        expire=call.number("expire"),
        comment=call.text("comment"),
        groups=set(call.many("groups")),
    )
    return None


def known(call: Call) -> User:
    """The user in the path."""
    name = call.path["userid"]
    if name not in call.world.access.users:
        raise refused(f"no such user ('{name}')")
    return call.world.access.users[name]


@route("GET", "/access/users/{userid}")
async def user(call: Call) -> object:
    found = known(call)
    return {"enable": int(found.enable), "expire": found.expire, "groups": sorted(found.groups)}


@route("DELETE", "/access/users/{userid}")
async def delete_user(call: Call) -> object:
    call.require("/access", "User.Modify")
    known(call)
    name = call.path["userid"]
    access = call.world.access
    del access.users[name]
    access.grants = {grant for grant in access.grants if grant.ugid.partition("!")[0] != name}
    return None


def check_self(call: Call) -> None:
    """Tokens are made by their user, or by who may change users."""
    if call.who.user != call.path["userid"]:
        call.require("/access", "User.Modify")


@route("GET", "/access/users/{userid}/token")
async def tokens(call: Call) -> object:
    check_self(call)
    return [{"tokenid": name, **told(token)} for name, token in known(call).tokens.items()]


def told(token: Token) -> dict[str, Any]:
    """A token without its secret, which is told only once."""
    found: dict[str, Any] = {"privsep": int(token.privsep), "expire": token.expire}
    return found | ({"comment": token.comment} if token.comment else {})


@route("GET", "/access/users/{userid}/token/{tokenid}")
async def token(call: Call) -> object:
    check_self(call)
    return told(known_token(call))


def known_token(call: Call) -> Token:
    """The token in the path."""
    found = known(call).tokens.get(call.path["tokenid"])
    if found is None:
        raise refused(f"no such token '{call.path['tokenid']}' for user '{call.path['userid']}'")
    return found


@route("POST", "/access/users/{userid}/token/{tokenid}")
async def create_token(call: Call) -> object:
    check_self(call)
    owner = known(call)
    name = call.path["tokenid"]
    if name in owner.tokens:
        raise bad(tokenid="Token already exists.")
    made = Token(str(uuid.uuid4()), call.flag("privsep", True), call.number("expire"), call.text("comment"))
    owner.tokens[name] = made
    info = {key: call.text(key) for key in ("comment", "expire") if call.has(key)}
    info["privsep"] = call.text("privsep", "1")
    return {"value": made.secret, "full-tokenid": f"{call.path['userid']}!{name}", "info": info}


@route("DELETE", "/access/users/{userid}/token/{tokenid}")
async def delete_token(call: Call) -> object:
    check_self(call)
    known_token(call)
    name = call.path["tokenid"]
    del known(call).tokens[name]
    access = call.world.access
    access.grants = {grant for grant in access.grants if grant.ugid != f"{call.path['userid']}!{name}"}
    return None


@route("GET", "/access/acl")
async def acl(call: Call) -> object:
    return [
        {"path": one.path, "roleid": one.role, "type": one.kind, "ugid": one.ugid, "propagate": int(one.propagate)}
        for one in sorted(call.world.access.grants, key=lambda one: (one.path, one.ugid, one.role))
        if call.may(one.path, "Permissions.Modify")
    ]


@route("PUT", "/access/acl")
async def change_acl(call: Call) -> object:
    """Grant roles, or take them away with `delete`."""
    call.required("path", "roles")
    path = call.text("path").rstrip("/") or "/"
    call.require(path, "Permissions.Modify")
    access = call.world.access
    for role in call.many("roles"):
        if role not in access.roles:
            raise refused(f"role '{role}' does not exist")
        for plural, kind in (("users", "user"), ("groups", "group"), ("tokens", "token")):
            for name in call.many(plural):
                same = {g for g in access.grants if (g.path, g.role, g.kind, g.ugid) == (path, role, kind, name)}
                access.grants -= same
                if not call.flag("delete"):
                    access.grants.add(Grant(path, role, kind, name, call.flag("propagate", True)))
    return None


@route("GET", "/access/roles")
async def roles(call: Call) -> object:
    return [
        {"roleid": name, "privs": ",".join(sorted(held)), "special": int(name.startswith(("PVE", "Admin", "NoAcc")))}
        for name, held in call.world.access.roles.items()
    ]


@route("POST", "/access/roles")
async def create_role(call: Call) -> object:
    call.require("/access", "Sys.Modify")
    call.required("roleid")
    access = call.world.access
    name = call.text("roleid")
    if name in access.roles:
        raise refused(f"create role failed: role '{name}' already exists")
    access.roles[name] = frozenset(call.many("privs"))
    return None


@route("GET", "/access/roles/{roleid}")
async def role(call: Call) -> object:
    name = call.path["roleid"]
    if name not in call.world.access.roles:
        raise refused(f"role '{name}' does not exist")
    return dict.fromkeys(sorted(call.world.access.roles[name]), 1)
