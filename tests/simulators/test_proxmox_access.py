"""Logins, tokens and permissions of the simulated Proxmox VE."""

from __future__ import annotations

import aiohttp
import pytest

from simulators.proxmox import Pace, Proxmox, World, proxmox, pve
from simulators.proxmox.client import by_ticket, client

__all__ = ["pve"]


async def test_a_call_without_credentials_is_refused_with_an_empty_body(pve: Proxmox) -> None:
    """The reason phrase is all there is."""
    async with client(pve, {}) as nobody:
        answer = await nobody.ask("GET", "/version")
    assert (answer.status, answer.reason, answer.body) == (401, "No ticket", None)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "PVEAPIToken=nobody@pve!t=00000000-0000-0000-0000-000000000000"},
        {"Authorization": "PVEAPIToken=virtrigaud@pve!provider=wrong"},
        {"Authorization": "PVEAPIToken nonsense"},
        {"Cookie": "PVEAuthCookie=PVE:root@pam:00000000::x"},
    ],
)
async def test_wrong_credentials_are_not_told_apart(pve: Proxmox, headers: dict[str, str]) -> None:
    """Neither the user, nor the token, nor the secret is named."""
    async with client(pve, headers) as stranger:
        answer = await stranger.ask("GET", "/version")
    assert (answer.status, answer.reason, answer.body) == (401, "Authentication failed!", None)


async def test_a_ticket_needs_its_csrf_token_for_changes(pve: Proxmox) -> None:
    """Reading does without."""
    headers = await by_ticket(pve)
    del headers["CSRFPreventionToken"]
    async with client(pve, headers) as root:
        assert (await root.get("/version"))["release"] == "9.2"
        answer = await root.ask("POST", "/access/users", userid="a@pve")
    assert (answer.status, answer.reason, answer.body) == (401, "Permission denied - invalid csrf token", None)


async def test_a_wrong_password_is_told_in_the_body(pve: Proxmox) -> None:
    """The one 401 that has one."""
    async with client(pve, {}) as nobody:
        answer = await nobody.ask("POST", "/access/ticket", username="root@pam", password="x")
    assert (answer.status, answer.reason) == (401, "authentication failure")
    assert answer.body == {"data": None, "message": "authentication failure\n"}


async def test_a_ticket_renews_itself_until_it_is_too_old() -> None:
    """Its holder logs in with it instead of the password."""
    async with proxmox(World(pace=Pace(ticket=-1))) as old, client(old, await by_ticket(old)) as late:
        assert (await late.ask("GET", "/version")).reason == "Authentication failed!"
    async with proxmox() as made, client(made, {}) as nobody:
        first = await nobody.post("/access/ticket", username="root@pam", password=made.password)
        second = await nobody.post("/access/ticket", username="root@pam", password=first["ticket"])
        assert second["username"] == "root@pam"
        made.world.access.expire_tickets()
        answer = await nobody.ask("POST", "/access/ticket", username="root@pam", password=second["ticket"])
        assert answer.status == 401


async def test_a_token_with_privilege_separation_starts_with_nothing(pve: Proxmox) -> None:
    """It has at most its user's rights, and only those that were granted to itself as well."""
    async with client(pve, await by_ticket(pve)) as root:
        await root.post("/access/users", userid="a@pve")
        await root.put("/access/acl", path="/vms", roles="PVEVMUser", users="a@pve")
        made = await root.post("/access/users/a@pve/token/t1", privsep=1)
        secret = {"Authorization": f"PVEAPIToken={made['full-tokenid']}={made['value']}"}
        async with client(pve, secret) as token:
            assert await token.get("/access/permissions") == {}
            await root.put("/access/acl", path="/vms/100", roles="PVEVMAdmin", tokens="a@pve!t1")
            told = await token.get("/access/permissions")
    assert "VM.PowerMgmt" in told["/vms/100"]
    assert "VM.Allocate" not in told["/vms/100"]


async def test_lists_are_filtered_and_never_refused(pve: Proxmox) -> None:
    """Who may see nothing reads empty lists, and the names of the nodes."""
    async with client(pve, await by_ticket(pve)) as root:
        await root.post("/access/users", userid="a@pve")
        made = await root.post("/access/users/a@pve/token/t1", privsep=0)
    async with client(pve, {"Authorization": f"PVEAPIToken={made['full-tokenid']}={made['value']}"}) as token:
        assert await token.get("/cluster/resources", type="vm") == []
        assert await token.get("/cluster/tasks") == []
        assert await token.get("/cluster/nextid") == "100"
        assert [node["node"] for node in await token.get("/nodes")] == ["pve1", "pve2", "pve3"]
        answer = await token.ask("GET", "/nodes/pve1/status")
    assert (answer.status, answer.reason) == (403, "Permission check failed (/nodes/pve1, Sys.Audit)")


async def test_unknown_paths_and_nodes_are_told_in_its_own_way(pve: Proxmox) -> None:
    """There is no 404."""
    async with client(pve) as admin:
        path = await admin.ask("GET", "/nodes/pve1/nope")
        method = await admin.ask("PUT", "/version")
        node = await admin.ask("GET", "/nodes/nope/status")
    assert (path.status, path.reason) == (501, "Method 'GET /nodes/pve1/nope' not implemented")
    assert (method.status, method.reason) == (501, "Method 'PUT /version' not implemented")
    assert (node.status, node.reason.split(" - ")[0]) == (500, "hostname lookup 'nope' failed")


async def test_an_address_can_be_taken_away_and_given_back() -> None:
    """The cluster lives on behind its other addresses, and the port stays the same."""
    async with proxmox(addresses=2) as made, client(made) as admin:
        await made.down(0)
        with pytest.raises(OSError, match="Cannot connect"):
            await admin.get("/version")
        assert (await admin.ask("GET", "/version", 1)).status == 200
        await made.up(0)
        assert (await admin.ask("GET", "/version")).status == 200


async def test_the_fingerprint_is_that_of_the_certificate(pve: Proxmox) -> None:
    """As Proxmox VE writes it: pairs of hex digits, in capitals, with colons."""
    pin = aiohttp.Fingerprint(bytes.fromhex(pve.fingerprint.replace(":", "")))
    async with aiohttp.ClientSession() as session, session.get(f"{pve.url}/api2/json/version", ssl=pin) as response:
        assert response.status == 401


async def test_every_request_is_on_record(pve: Proxmox) -> None:
    """Benches count them by route."""
    async with client(pve) as admin:
        await admin.get("/nodes/pve1/status")
        await admin.get("/nodes/pve2/status")
    assert pve.counted() == {"GET /nodes/{node}/status": 2}
