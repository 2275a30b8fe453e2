"""Mutual TLS over real sockets: who gets in, what is refused with which words, and rotation without a restart."""

import shutil
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from common import errors, metrics, pki, rpc, tls, v1
from common.clock import ManualClock
from common.tls import CONTROLLER, TlsError, TlsFiles, Watched
from prometheus_client import REGISTRY

MACHINES = "virtrigaud.provider.v1.MachineService"


@pytest.fixture
def serving(issue, machines):
    def serving(files: TlsFiles | None = None, **more) -> rpc.Server:
        files = files or issue("virtrigaud-provider", "127.0.0.1")
        server = rpc.Server("127.0.0.1:0", tls.server_credentials(files), grace=0.5, **more)
        server.bind(MACHINES, machines)
        return server

    return serving


async def get(channel: rpc.Channel) -> str:
    answer = await rpc.stub(channel, MACHINES).get_machine(v1.GetMachineRequest(uid="m"), timeout=10)
    return answer.machine.id


async def test_a_known_client_is_served(serving, issue):
    async with serving() as server, rpc.connect(server.address, issue(CONTROLLER)) as channel:
        assert await get(channel) == "m"


async def test_P11_a_client_of_the_same_authority_but_another_name_is_refused(serving, issue):
    """A certificate proves who somebody is, not that he may."""
    async with serving() as server, rpc.connect(server.address, issue("virtrigaud-provider-2")) as channel:
        with pytest.raises(errors.ClientRefusedError, match=r"virtrigaud-provider-2.*allowed_clients"):
            await get(channel)
        with pytest.raises(errors.ClientRefusedError):
            await anext(rpc.stub(channel, MACHINES).watch_machines(v1.WatchMachinesRequest(), timeout=10))


async def test_P11_the_allowed_names_are_the_servers_setting(serving, issue):
    async with serving(allowed_clients=["spiffe://site/ops"]) as server:
        async with rpc.connect(server.address, issue("ops", "spiffe://site/ops")) as channel:
            assert await get(channel) == "m"
        async with rpc.connect(server.address, issue(CONTROLLER)) as channel:
            with pytest.raises(errors.ClientRefusedError):
                await get(channel)


def test_P11_an_empty_list_of_clients_is_refused(issue):
    with pytest.raises(ValueError, match="allowed_clients"):
        rpc.Server("127.0.0.1:0", tls.server_credentials(issue()), allowed_clients=[])


async def test_a_client_without_a_certificate_does_not_get_in(serving, issue):
    files = issue()
    async with serving() as server:
        credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
        async with grpc.aio.secure_channel(server.address, credentials) as raw:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw.unary_unary(f"/{MACHINES}/GetMachine")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_plaintext_does_not_get_in(serving):
    async with serving() as server, rpc.connect(server.address, insecure=True) as channel:
        with pytest.raises((errors.HypervisorUnavailableError, errors.OutcomeUnknownError), match="does it want TLS"):
            await get(channel)


async def test_a_server_of_another_authority_is_not_trusted(serving, tmp_path):
    other = pki.Authority.create(tmp_path / "other").issue(tmp_path / "other-issued", CONTROLLER)
    async with serving() as server, rpc.connect(server.address, other) as channel:
        with pytest.raises(errors.HypervisorUnavailableError, match="not from an authority in our CA file"):
            await get(channel)


async def test_a_server_of_another_name_is_not_trusted(serving, issue):
    """Any holder of a certificate could pose as the provider otherwise."""
    files = issue("virtrigaud-provider")  # not for 127.0.0.1
    async with serving(files) as server:
        async with rpc.connect(server.address, issue()) as channel:
            with pytest.raises(errors.HypervisorUnavailableError, match="is not for this name"):
                await get(channel)
        async with rpc.connect(server.address, issue(), expected_name="virtrigaud-provider") as channel:
            assert await get(channel) == "m"
        async with rpc.connect(server.address, issue(), expected_name="somebody-else") as channel:
            with pytest.raises(errors.HypervisorUnavailableError):
                await get(channel)


async def test_W33_P11_both_ends_change_to_new_certificates_of_a_new_authority(issue, serving, tmp_path):
    """A rotated Secret holds for the next connection; nothing is restarted and open calls go on."""
    server_files, client_files = issue("virtrigaud-provider", "127.0.0.1"), issue(CONTROLLER)
    async with serving(server_files) as server, rpc.connect(server.address, client_files) as channel:
        stream = rpc.stub(channel, MACHINES).watch_machines(v1.WatchMachinesRequest())
        assert (await anext(stream)).revision == "0"
        new = pki.Authority.create(tmp_path / "new-pki")
        new.issue(server_files.cert.parent, "virtrigaud-provider", ["127.0.0.1"])
        new.issue(client_files.cert.parent, CONTROLLER)
        assert channel.refresh()
        assert await get(channel) == "m"  # a new connection: both ends now speak for the new authority
        assert (await anext(stream)).revision == "1"  # and the old one still stands
        assert not channel.refresh()
        stream.cancel()


async def test_W33_a_channel_looks_for_new_files_by_itself(issue, serving, authority):
    clock = ManualClock(datetime.now(UTC))
    server_files, client_files = issue("virtrigaud-provider", "127.0.0.1"), issue(CONTROLLER)
    async with serving(server_files) as server, rpc.connect(server.address, client_files, clock=clock) as channel:
        assert await get(channel) == "m"
        before = channel._watched.material
        authority.issue(client_files.cert.parent, CONTROLLER, ["another-name"])
        assert await get(channel) == "m"
        assert channel._watched.material == before
        await clock.advance(rpc.channel.LOOK_EVERY)
        assert await get(channel) == "m"
        assert channel._watched.material != before


async def test_files_that_break_later_are_not_taken_up(issue, serving, caplog):
    """Half of a rotation, or a mistake, must not cut off what works."""
    client_files = issue(CONTROLLER)
    async with serving() as server, rpc.connect(server.address, client_files) as channel:
        assert await get(channel) == "m"
        client_files.cert.write_text("rubbish")
        assert not channel.refresh()
        assert not channel.refresh()
        assert await get(channel) == "m"
    assert sum("tls.reload.refused" in record.getMessage() for record in caplog.records) == 1


def test_files_of_an_authority_whose_clock_is_ahead_are_taken_up_once_they_hold(tmp_path, caplog):
    """Nobody writes them again until the old certificate is near its end."""
    clock = ManualClock(datetime.now(UTC))
    files = pki.Authority.create(tmp_path / "ca", clock=clock).issue(tmp_path / "mine", "lab")
    watched = Watched(files, clock)
    before = watched.material
    ahead = ManualClock(clock.now() + timedelta(minutes=7))
    pki.Authority.create(tmp_path / "ca", clock=ahead).issue(tmp_path / "mine", "lab", ["lab.example.com"])
    assert [watched.refresh() for _ in range(3)] == [False] * 3
    assert sum("not valid before" in record.getMessage() for record in caplog.records) == 1
    clock._start += timedelta(minutes=3)
    assert watched.refresh()
    assert watched.material != before
    assert not watched.refresh()


# -- what check() says -----------------------------------------------------------------------------------------------


def test_check_tells_the_time_of_expiry(issue):
    left = issue(days=30).check() - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


@pytest.mark.parametrize(
    ("after", "words"), [(timedelta(days=31), "expired at"), (timedelta(days=-1), "not valid before")]
)
def test_dates_are_judged_by_the_clock(issue, after, words):
    files = issue(days=30)
    with pytest.raises(TlsError, match=words) as caught:
        files.check(ManualClock(datetime.now(UTC) + after))
    assert ".crt" in str(caught.value)


def test_the_key_of_another_certificate_is_named(issue):
    files = issue("one")
    shutil.copy(issue("two").key, files.key)
    with pytest.raises(TlsError, match="does not belong to certificate") as caught:
        files.check()
    assert str(files.key) in str(caught.value)


def test_another_authority_is_named(issue, tmp_path):
    files = issue()
    files.ca.write_bytes(pki.Authority.create(tmp_path / "other", name="Other").certificate_pem())
    with pytest.raises(TlsError, match=r"was issued by CN=VirtRigaud CA, which is not in"):
        files.check()


def test_a_bundle_of_authorities_serves_a_change(issue, tmp_path):
    """Old and new authority side by side is how one is replaced."""
    files = issue()
    with files.ca.open("ab") as file:
        file.write(pki.Authority.create(tmp_path / "other").certificate_pem())
    assert files.check() > datetime.now(UTC)


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
@pytest.mark.parametrize(
    "content", [None, b"", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_broken_file_is_named(issue, which, content):
    files = issue()
    path = getattr(files, which)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TlsError) as caught:
        files.check()
    assert str(path) in str(caught.value)
    with pytest.raises(TlsError):
        tls.server_credentials(files)
    with pytest.raises(TlsError):
        rpc.connect("127.0.0.1:1", files)


def test_a_key_that_others_can_read_is_a_warning(issue, caplog):
    files = issue()
    files.key.chmod(0o644)
    Watched(files)
    assert any("tls.key.exposed" in record.getMessage() for record in caplog.records)


def test_material_is_not_shown(issue):
    assert "PRIVATE" not in repr(issue().read())


async def test_when_a_certificate_expires_is_a_metric(issue):
    """What is on disk counts, asked at each scrape: a renewal shows at once, and so does a file that is gone."""

    def shown() -> float | None:
        labels = {"file": str(files.cert)}
        return REGISTRY.get_sample_value("virtrigaud_certificate_expiry_timestamp_seconds", labels)

    files = issue(days=30)
    watched = Watched(files)
    assert shown() == watched.expires.timestamp()
    files.cert.unlink()
    assert shown() == 0
    issue(days=60)
    assert shown() == files.check().timestamp() > watched.expires.timestamp()
    metrics.certificate_gone(str(files.cert))
    metrics.certificate_gone(str(files.cert))
    assert shown() is None
