"""Who we are to the cluster, whom we believe, and which node is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from common.clock import ManualClock
from common.errors import (
    CredentialsRefusedError,
    HypervisorUnavailableError,
    OutcomeUnknownError,
    PermissionMissingError,
)
from provider_proxmox.session.entry import FIRST_REFUSAL, LONGEST_PAUSE, Entry
from provider_proxmox.session.login import RENEW_SECONDS, Endpoint
from simulators.proxmox import Proxmox, proxmox
from simulators.proxmox.calls import Call

from .conftest import credentials_of, person_of

TICKET = "POST /access/ticket"


@asynccontextmanager
async def entered(
    server: Proxmox, credentials: Path, clock: ManualClock | None = None, **trust: object
) -> AsyncIterator[Entry]:
    """The way into a cluster, with a clock that stands still."""
    endpoint = Endpoint(tuple(server.urls), credentials=credentials, **trust)  # type: ignore[arg-type]
    entry = Entry(endpoint, clock=clock or ManualClock(), call_timeout=10.0, concurrency=4)
    try:
        yield entry
    finally:
        entry.close()


async def version(entry: Entry) -> str:
    return str((await entry.ask("ask for the version", "GET", "version", {}))["version"])


async def make_pool(entry: Entry, name: str) -> None:
    await entry.ask(f"make pool {name}", "POST", "pools", {"poolid": name})


def cut(method: str, times: int) -> Callable[[Call], None]:
    """A check that cuts the line of so many calls, when they have arrived."""
    left = [times]

    def check(call: Call) -> None:
        if call.method == method and left[0]:
            left[0] -= 1
            assert call.request.transport is not None
            call.request.transport.abort()

    return check


# -- credentials ---------------------------------------------------------------------------------------------------


async def test_a_token_needs_no_login(pve: Proxmox, tmp_path: Path) -> None:
    """It goes with each request, so it is asked about once and kept."""
    async with entered(pve, credentials_of(pve, tmp_path)) as entry:
        assert await version(entry) == await version(entry)
        await make_pool(entry, "web")
    assert "web" in pve.world.pools
    assert pve.counted()[TICKET] == 0
    assert pve.counted()["GET /version"] == 3


async def test_P22_a_ticket_is_made_once_and_changes_carry_the_csrf_token(pve: Proxmox, tmp_path: Path) -> None:
    """A login takes time, and a POST without the second token is refused."""
    async with entered(pve, person_of(pve, tmp_path)) as entry:
        await version(entry)
        await make_pool(entry, "web")
    assert "web" in pve.world.pools
    assert pve.counted()[TICKET] == 1


async def test_a_ticket_is_made_anew_before_it_ends(pve: Proxmox, tmp_path: Path) -> None:
    """After two hours Proxmox VE would refuse it in the middle of something."""
    clock = ManualClock()
    async with entered(pve, person_of(pve, tmp_path), clock) as entry:
        await version(entry)
        await clock.advance(RENEW_SECONDS)
        await version(entry)
        await version(entry)
    assert pve.counted()[TICKET] == 2


async def test_a_refused_ticket_is_made_anew_and_the_call_repeated(pve: Proxmox, tmp_path: Path) -> None:
    """A new key of the cluster makes every ticket invalid at once; a refused call had no effect."""
    async with entered(pve, person_of(pve, tmp_path)) as entry:
        await version(entry)
        pve.world.access.expire_tickets()
        await make_pool(entry, "web")
    assert "web" in pve.world.pools
    assert pve.counted()[TICKET] == 2


@pytest.mark.parametrize("files", [credentials_of, person_of])
async def test_refused_credentials_are_not_tried_over_and_over(
    pve: Proxmox, tmp_path: Path, files: Callable[[Proxmox, Path], Path]
) -> None:
    """Each failed login costs Proxmox VE three seconds, and may lock an account somewhere behind it."""
    secret = files(pve, tmp_path) / ("token_secret" if files is credentials_of else "password")
    right = secret.read_text()
    secret.write_text("wrong")
    clock = ManualClock()
    async with entered(pve, tmp_path, clock) as entry:
        for _ in range(5):
            with pytest.raises(CredentialsRefusedError, match="does not accept"):
                await version(entry)
        assert len(pve.requests) == 1
        await clock.advance(FIRST_REFUSAL)
        for _ in range(5):
            with pytest.raises(CredentialsRefusedError) as refused:
                await version(entry)
        assert len(pve.requests) == 2
        assert refused.value.retry_after
        secret.write_text(right)  # a corrected Secret works at once
        assert await version(entry)


async def test_a_rotated_secret_is_read_when_the_old_one_is_refused(pve: Proxmox, tmp_path: Path) -> None:
    """Nobody restarts a provider for a new secret."""
    credentials_of(pve, tmp_path)
    token = pve.world.access.users["virtrigaud@pve"].tokens["provider"]
    async with entered(pve, tmp_path) as entry:
        await version(entry)
        token.secret = "11111111-0000-4000-8000-000000000000"
        (tmp_path / "token_secret").write_text(token.secret)
        await make_pool(entry, "web")
    assert "web" in pve.world.pools


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "needs `token_id` and `token_secret`"),
        ({"token_id": "virtrigaud@pve!provider"}, "needs `token_id` and `token_secret`"),
        ({"token_id": "virtrigaud@pve", "token_secret": "x"}, "user@realm!name"),
        ({"username": "root", "password": "x"}, "names no realm"),
    ],
)
async def test_credentials_that_cannot_work_are_not_sent(
    pve: Proxmox, tmp_path: Path, files: dict[str, str], said: str
) -> None:
    """What is wrong with the files is told in their words."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    async with entered(pve, tmp_path) as entry:
        with pytest.raises(CredentialsRefusedError, match=said):
            await version(entry)
    assert pve.requests == []


async def test_a_missing_privilege_is_not_a_bad_login(pve: Proxmox, tmp_path: Path) -> None:
    """The administrator has to know which one, and where."""
    pve.world.access.grants.clear()
    async with entered(pve, credentials_of(pve, tmp_path)) as entry:
        with pytest.raises(PermissionMissingError, match=r"lacks Sys.Audit on /nodes/pve1"):
            await entry.ask("look at pve1", "GET", "nodes/pve1/status", {})


# -- certificates --------------------------------------------------------------------------------------------------


async def test_P22_a_certificate_of_an_unknown_authority_is_refused(pve: Proxmox, tmp_path: Path) -> None:
    """Whoever sits in between would read the credentials."""
    credentials_of(pve, tmp_path)
    (tmp_path / "ca.crt").unlink()
    async with entered(pve, tmp_path) as entry:
        with pytest.raises(CredentialsRefusedError, match="not to be believed"):
            await version(entry)
    assert pve.requests == []


async def test_a_corrected_authority_works_at_once(pve: Proxmox, tmp_path: Path) -> None:
    """Like any other part of the Secret."""
    right = (credentials_of(pve, tmp_path) / "ca.crt").read_text()
    (tmp_path / "ca.crt").unlink()
    async with entered(pve, tmp_path) as entry:
        with pytest.raises(CredentialsRefusedError):
            await version(entry)
        (tmp_path / "ca.crt").write_text(right)
        assert await version(entry)


async def test_a_pinned_certificate_needs_no_authority(pve: Proxmox, tmp_path: Path) -> None:
    """What Proxmox VE makes for itself when it is installed."""
    credentials_of(pve, tmp_path)
    (tmp_path / "ca.crt").unlink()
    async with entered(pve, tmp_path, fingerprints=("00" * 32, pve.fingerprint)) as entry:
        assert await version(entry)
    (tmp_path / "fingerprint").write_text(pve.fingerprint.replace(":", "").lower() + "\n")
    async with entered(pve, tmp_path) as entry:
        assert await version(entry)


async def test_another_certificate_than_the_pinned_one_is_refused(pve: Proxmox, tmp_path: Path) -> None:
    """An authority that vouches for it does not help."""
    async with entered(pve, credentials_of(pve, tmp_path), fingerprints=("00" * 32,)) as entry:
        with pytest.raises(CredentialsRefusedError, match=r"fingerprint is [0-9a-f]{64}"):
            await version(entry)
    assert pve.requests == []


def test_warnings_of_the_process_stay_as_they_were() -> None:
    """Importing proxmoxer's HTTPS backend would switch urllib3's off for everybody. Tracing has one of its own."""
    code = (
        "import warnings, requests, common.tracing, sys; before = list(warnings.filters);"
        "import provider_proxmox.session.pve;"
        "assert warnings.filters == before; assert 'proxmoxer.backends.https' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- nodes ---------------------------------------------------------------------------------------------------------


async def test_the_next_node_is_asked_when_one_is_away(tmp_path: Path) -> None:
    """Also for what changes something: a request without a connection has not arrived."""
    async with (
        proxmox(addresses=2) as server,
        entered(server, credentials_of(server, tmp_path)) as entry,
    ):
        await version(entry)
        await server.down(0)
        await make_pool(entry, "web")
        assert entry.url == server.urls[1]
        assert "web" in server.world.pools


async def test_a_node_that_was_away_is_tried_again_later(tmp_path: Path) -> None:
    """Until then nobody waits for it."""
    clock = ManualClock()
    async with (
        proxmox(addresses=2) as server,
        entered(server, credentials_of(server, tmp_path), clock) as entry,
    ):
        for address in (0, 1):
            await server.down(address)
        for _ in range(3):
            with pytest.raises(HypervisorUnavailableError) as away:
                await version(entry)
        assert away.value.retry_after
        await server.up(0)
        await clock.advance(LONGEST_PAUSE)
        assert await version(entry)
        assert entry.url == server.urls[0]


async def test_a_call_that_may_have_arrived_is_not_repeated(tmp_path: Path) -> None:
    """Twice created would be a machine too many."""
    async with (
        proxmox(addresses=2) as server,
        entered(server, credentials_of(server, tmp_path)) as entry,
    ):
        await version(entry)
        server.checks.append(cut("POST", times=1))
        with pytest.raises(OutcomeUnknownError, match="has to be looked up"):
            await make_pool(entry, "web")
        assert server.counted()["POST /pools"] == 1


async def test_a_call_that_changes_nothing_is_repeated(tmp_path: Path) -> None:
    """A connection that is kept open may be closed by the other side in this very moment."""
    async with proxmox() as server, entered(server, credentials_of(server, tmp_path)) as entry:
        await version(entry)
        server.checks.append(cut("GET", times=1))
        assert await version(entry)


@pytest.mark.parametrize("answer", ["page", "elsewhere"])
async def test_what_is_no_answer_of_proxmox_ve_is_not_believed(tmp_path: Path, answer: str) -> None:
    """A login page of a proxy is a 200, too, and following it somewhere would turn a POST into a GET."""
    (tmp_path / "token_id").write_text("a@pve!b")
    (tmp_path / "token_secret").write_text("c")
    posts: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        if request.method == "POST":
            posts.append(request.path)
        if request.method == "GET" and not posts and request.path.endswith("version"):
            return web.json_response({"data": {"version": "9"}})
        if answer == "page":
            return web.Response(text="<html>please log in</html>", content_type="text/html")
        return web.Response(status=302, headers={"Location": "/api2/json/version"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    entry = Entry(Endpoint((url,), credentials=tmp_path), clock=ManualClock(), call_timeout=5.0, concurrency=2)
    try:
        with pytest.raises(HypervisorUnavailableError):
            await entry.ask("list", "GET", "nodes/pve1/qemu", {})
        with pytest.raises(OutcomeUnknownError):
            await make_pool(entry, "web")
        assert posts == ["/api2/json/pools"]
    finally:
        entry.close()
        await runner.cleanup()
