"""The private authority: what it writes, when it writes anew, and that it never leaves half a file."""

import stat
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime

import pytest
from common import pki
from common.clock import ManualClock
from common.tls import TlsError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

DAY = 86400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_their_owners_alone(tmp_path):
    files = pki.Authority.create(tmp_path / "a").issue(tmp_path / "b", "web")
    assert mode(files.key) == mode(tmp_path / "a" / "ca.key") == 0o600
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o700
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["ca.crt", "tls.crt", "tls.key"]


def test_names_of_every_kind(tmp_path):
    names = ["*.example.com", "127.0.0.1", "::1", "spiffe://site/provider"]
    files = pki.Authority.create(tmp_path / "a").issue(tmp_path / "b", "web", names)
    cert = x509.load_pem_x509_certificate(files.cert.read_bytes())
    sans = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in sans] == ["web", *names]


@pytest.mark.parametrize("name", ["", "a b", "-x", "ü.example", "a..b", "x" * 64 + ".com", "a\nb", "spiffe://ü"])
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no DNS name, IP address or URI"):
        pki.Authority.create(tmp_path / "a").issue(tmp_path / "b", name)
    assert not (tmp_path / "b").exists()


async def test_issuing_again_changes_nothing_until_a_third_is_left(tmp_path, clock):
    authority = pki.Authority.create(tmp_path / "a", clock=clock)
    first = authority.issue(tmp_path / "b", "web", days=90).read()
    await clock.advance(59 * DAY)
    assert authority.issue(tmp_path / "b", "web", days=90).read() == first
    await clock.advance(2 * DAY)
    renewed = authority.issue(tmp_path / "b", "web", days=90)
    assert renewed.read() != first
    assert renewed.check(clock) > clock.now()


async def test_an_authority_is_kept_and_renewed_likewise(tmp_path, clock):
    first = pki.Authority.create(tmp_path / "a", days=90, clock=clock).certificate_pem()
    assert pki.Authority.create(tmp_path / "a", days=90, clock=clock).certificate_pem() == first
    assert pki.Authority.load(tmp_path / "a", clock=clock).certificate_pem() == first
    issued = pki.Authority.load(tmp_path / "a", clock=clock).issue(tmp_path / "b", "web", days=89)
    await clock.advance(61 * DAY)
    renewed = pki.Authority.create(tmp_path / "a", days=90, clock=clock)
    assert renewed.certificate_pem() != first
    issued.ca.write_bytes(renewed.certificate_pem())
    assert issued.check(clock) > clock.now()  # what the old one vouched for stays good


def test_an_interrupted_creation_is_finished(tmp_path):
    """Killed after the key was written and before the certificate; or somebody lost the certificate."""
    issued = pki.Authority.create(tmp_path / "a").issue(tmp_path / "b", "web")
    key = (tmp_path / "a" / "ca.key").read_bytes()
    (tmp_path / "a" / "ca.crt").unlink()
    again = pki.Authority.create(tmp_path / "a")
    assert (tmp_path / "a" / "ca.key").read_bytes() == key, "a key is never written over"
    issued.ca.write_bytes(again.certificate_pem())
    assert issued.check() > datetime.now(UTC)  # what it had signed stays good


def test_a_broken_key_alone_is_named_and_left(tmp_path):
    (tmp_path / "ca.key").write_text("rubbish")
    with pytest.raises(TlsError, match=r"ca\.key is broken"):
        pki.Authority.create(tmp_path)
    assert (tmp_path / "ca.key").read_text() == "rubbish"


def test_two_who_begin_at_once_make_one_authority(tmp_path):
    """Otherwise the key of one stays beside the certificate of the other."""
    place, other = tmp_path / "a", tmp_path / "other"
    theirs = pki.Authority.create(other)
    with ThreadPoolExecutor(1) as threads:
        with pki.alone(place):
            second = threads.submit(pki.Authority.create, place)
            wait([second], timeout=0.5)  # it would be done by then if it did not wait for us
            for name in ("ca.key", "ca.crt"):
                (place / name).write_bytes((other / name).read_bytes())
        assert second.result().certificate_pem() == theirs.certificate_pem()


def test_two_who_issue_at_once_leave_a_key_with_its_certificate(tmp_path):
    authority = pki.Authority.create(tmp_path / "a")
    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(authority.issue, tmp_path / "b", "web", end=end) for end in [*pki.End] * 8]
        wait(found)
    assert {each.result().check() > datetime.now(UTC) for each in found} == {True}


def test_what_fails_leaves_no_key_behind(tmp_path):
    authority = pki.Authority.create(tmp_path / "a")
    with pytest.raises(OverflowError):
        authority.issue(tmp_path / "b", "web", group=2**40)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"ca.crt"}


@pytest.mark.parametrize("change", ["name", "authority", "missing", "broken"])
def test_what_no_longer_fits_is_issued_anew(tmp_path, change):
    authority = pki.Authority.create(tmp_path / "a")
    files = authority.issue(tmp_path / "b", "web")
    before, sans = files.read(), []
    match change:
        case "name":
            sans = ["10.0.0.1"]
        case "authority":
            authority = pki.Authority.create(tmp_path / "other")
        case "missing":
            files.key.unlink()
        case "broken":
            files.cert.write_text("rubbish")
    again = authority.issue(tmp_path / "b", "web", sans)
    assert again.read() != before
    assert again.check() > datetime.now(UTC)


@pytest.mark.parametrize("damage", ["missing", "rubbish", "mixed"])
def test_a_damaged_authority_is_named_and_never_overwritten(tmp_path, damage):
    """A new authority would cut off everybody who trusts the old one."""
    pki.Authority.create(tmp_path / "a")
    key = tmp_path / "a" / "ca.key"
    match damage:
        case "missing":
            key.unlink()
        case "rubbish":
            key.write_text("rubbish")
        case "mixed":
            pki.Authority.create(tmp_path / "other")
            key.write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    before = (tmp_path / "a" / "ca.crt").read_bytes()
    with pytest.raises(TlsError, match=r"ca\.key"):
        pki.Authority.load(tmp_path / "a")
    with pytest.raises(TlsError, match=r"ca\.key"):
        pki.Authority.create(tmp_path / "a")
    assert (tmp_path / "a" / "ca.crt").read_bytes() == before


def test_what_is_no_authority_is_named(tmp_path):
    """Everybody would refuse what it signs, without a word of why."""
    leaf = pki.Authority.create(tmp_path / "a").issue(tmp_path / "b", "web")
    leaf.cert.rename(tmp_path / "b" / "ca.crt")
    leaf.key.rename(tmp_path / "b" / "ca.key")
    with pytest.raises(TlsError, match=r"ca\.crt is no authority.*CA:TRUE"):
        pki.Authority.load(tmp_path / "b")


def test_an_authority_with_a_key_of_another_kind_is_named(tmp_path):
    pki.Authority.create(tmp_path / "a")
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "a" / "ca.key").write_bytes(pki._pem_key(key))
    with pytest.raises(TlsError, match=r"ca\.key is of a kind .*EC key"):
        pki.Authority.load(tmp_path / "a")


def test_further_authorities_are_listed_and_taken_out_again(tmp_path):
    """A certificate that is good stays the same meanwhile."""
    authority, other = pki.Authority.create(tmp_path / "a"), pki.Authority.create(tmp_path / "o")
    first = authority.issue(tmp_path / "b", "web").read()
    both = authority.issue(tmp_path / "b", "web", trust=[other.certificate]).read()
    assert (both.cert, both.key) == (first.cert, first.key)
    assert both.ca == authority.certificate_pem() + other.certificate_pem()
    assert authority.issue(tmp_path / "b", "web", trust=[]).read() == first


def test_what_somebody_lists_beside_an_authority_stays(tmp_path):
    """One takes the place of another by hand: whoever renews certificates meanwhile must not undo it."""
    old, new = pki.Authority.create(tmp_path / "old"), pki.Authority.create(tmp_path / "new")
    both = old.certificate_pem() + new.certificate_pem()
    files = old.issue(tmp_path / "b", "web")
    files.ca.write_bytes(both)
    assert old.issue(tmp_path / "b", "web").read().ca == both
    assert new.issue(tmp_path / "b", "web").read().ca == both
    files.ca.write_bytes(new.certificate_pem())
    assert new.issue(tmp_path / "b", "web").read().ca == new.certificate_pem()
    assert old.issue(tmp_path / "b", "web").read().ca == old.certificate_pem()


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TlsError, match="cannot be written"):
        pki.Authority.create(tmp_path / "file")
