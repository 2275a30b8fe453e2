"""Files and URLs: confined, judged at each hop, verified before anybody sees them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from common import v1
from common.errors import ChecksumMismatchError, DownloadFailedError, ImageNotFoundError, InvalidSpecError
from providerkit import fetch

CONTENT = bytes(range(256)) * 4096
SECRET = "token-5c1e"


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    (directory / "good.qcow2").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"s")
    return directory


def test_a_file_in_an_allowed_directory_is_found_by_either_path(allowed: Path) -> None:
    assert fetch.locate("good.qcow2", [allowed]) == fetch.locate(str(allowed / "good.qcow2"), [allowed])


@pytest.mark.parametrize("path", ["../secret", "/etc/shadow", "sub/../../secret", "link", "directory-link/secret"])
def test_W26_paths_outside_are_refused_after_links_are_followed(allowed: Path, path: str) -> None:
    (allowed / "link").symlink_to(allowed.parent / "secret")
    (allowed / "directory-link").symlink_to(allowed.parent)
    with pytest.raises(InvalidSpecError, match="outside of the allowed directories"):
        fetch.locate(path, [allowed])


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_what_can_be_no_path_is_refused(allowed: Path, path: str) -> None:
    with pytest.raises(InvalidSpecError, match="no path"):
        fetch.locate(path, [allowed])


def test_a_missing_file_is_named(allowed: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=r"nothing\.qcow2"):
        fetch.locate("nothing.qcow2", [allowed])


def test_only_plain_files_are_read(allowed: Path) -> None:
    os.mkfifo(allowed / "pipe")
    (allowed / "swapped").symlink_to(allowed / "good.qcow2")
    for name in ("pipe", "swapped"):
        with pytest.raises(ImageNotFoundError):
            fetch.open_file(allowed / name)


async def test_a_file_is_read_like_a_download(allowed: Path) -> None:
    (allowed / "big.raw").write_bytes(CONTENT * 3)
    file = fetch.LocalFile(v1.FileSource(path="big.raw"), [allowed], limit=len(CONTENT) * 3)
    assert b"".join([chunk async for chunk in file.chunks()]) == CONTENT * 3
    assert (file.length, file.missing) == (len(CONTENT) * 3, False)


async def test_a_file_that_is_missing_or_too_large_is_refused(allowed: Path) -> None:
    missing = fetch.LocalFile(v1.FileSource(path="nothing"), [allowed], limit=1)
    with pytest.raises(ImageNotFoundError):
        _ = [chunk async for chunk in missing.chunks()]
    assert missing.missing
    (allowed / "two").write_bytes(b"22")
    with pytest.raises(InvalidSpecError, match="at most 1"):
        _ = [chunk async for chunk in fetch.LocalFile(v1.FileSource(path="two"), [allowed], limit=1).chunks()]


# -- policy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "http://user:secret@host/x",
        "http:///x",
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/x",
        "http://host:99999999/x",
    ],
)
def test_P10_urls_that_no_image_may_come_from_are_refused(url: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"source\.url") as refusal:
        fetch.Policy().check_url(url)
    assert "secret" not in str(refusal.value)


def test_patterns_name_the_hosts_that_serve() -> None:
    policy = fetch.Policy(["*.example.org", "127.0.0.1"])
    for url in ("https://images.example.org/x", "http://127.0.0.1:8080/x"):
        policy.check_url(url)
    for url in ("https://example.com/x", "http://127.0.0.2/x", "https://evil-example.org/x"):
        with pytest.raises(InvalidSpecError):
            policy.check_url(url)


def test_private_addresses_can_be_forbidden() -> None:
    fetch.Policy().check_url("http://10.0.0.1/x")
    with pytest.raises(InvalidSpecError):
        fetch.Policy(forbid_private=True).check_url("http://10.0.0.1/x")


# -- downloads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def good(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization", SECRET) != SECRET:
            return web.Response(status=403)
        return web.Response(body=CONTENT, content_type="application/octet-stream")

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(CONTENT))})
        await response.prepare(request)
        await response.write(CONTENT[:1000])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>log in</html>", content_type="text/html")

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CONTENT[:10])
        await stopped.wait()
        return response

    async def told(request: web.Request) -> web.StreamResponse:
        return web.json_response({"authorization": request.headers.get("Authorization")})

    def to(target: str) -> web.Response:
        return web.Response(status=302, headers={"Location": target})

    async def redirect(request: web.Request) -> web.StreamResponse:
        return to(request.query["to"])

    async def loop(_request: web.Request) -> web.StreamResponse:
        return to("/loop")

    stopped = asyncio.Event()
    app = web.Application()
    for path, handler in (
        ("/good", good), ("/cut", cut), ("/page", page), ("/silent", silent), ("/told", told),
        ("/redirect", redirect), ("/loop", loop),
    ):  # fmt: skip
        app.router.add_get(path, handler)
    async with TestServer(app, host="127.0.0.1") as server:
        yield server
        stopped.set()


async def take(
    server: TestServer, path: str, *, limit: int = 1 << 30, hosts: str = "127.0.0.1", **fields: object
) -> bytes:
    source = v1.UrlSource(url=str(server.make_url("/")).rstrip("/") + path, **fields)  # type: ignore[arg-type]  # fields of the message
    return b"".join([chunk async for chunk in fetch.Download(source, fetch.Policy([hosts]), limit=limit).chunks()])


async def test_a_download_is_what_the_server_has(server: TestServer) -> None:
    assert await take(server, "/good", headers={"Authorization": SECRET}) == CONTENT


async def test_a_redirect_is_followed(server: TestServer) -> None:
    assert await take(server, "/redirect?to=/good") == CONTENT


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/nothing", "404"),
        ("/cut", "cut off|closed the connection"),
        ("/page", "web page"),
        ("/loop", "redirects"),
    ],
)
async def test_what_gives_no_image_is_named(server: TestServer, path: str, complaint: str) -> None:
    with pytest.raises(DownloadFailedError, match=complaint):
        await take(server, path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://169.254.169.254/x", "ftp://127.0.0.1/x"])
async def test_P10_a_redirect_is_judged_like_the_url(server: TestServer, target: str) -> None:
    with pytest.raises(InvalidSpecError):
        await take(server, f"/redirect?to={target}")


async def test_headers_stay_with_the_first_host(server: TestServer) -> None:
    """They may hold a secret; another origin does not get it."""
    elsewhere = str(server.make_url("/told")).replace("127.0.0.1", "localhost")
    answer = await take(server, f"/redirect?to={elsewhere}", hosts="*", headers={"Authorization": SECRET})
    assert SECRET.encode() not in answer
    here = await take(server, "/redirect?to=/told", headers={"Authorization": SECRET})
    assert SECRET.encode() in here


async def test_too_large_is_refused_before_and_while_it_comes(server: TestServer) -> None:
    with pytest.raises(DownloadFailedError, match="at most 1000"):
        await take(server, "/good", limit=1000)


async def test_a_slow_server_is_given_up(server: TestServer) -> None:
    with pytest.raises(DownloadFailedError, match=r"not complete within 0\.2 s"):
        await take(server, "/silent", timeout=timedelta(seconds=0.2))


async def test_an_unreachable_server_is_named_without_its_query() -> None:
    source = v1.UrlSource(url=f"http://127.0.0.1:1/x?signature={SECRET}")
    with pytest.raises(DownloadFailedError, match=r"127\.0\.0\.1") as failure:
        _ = [chunk async for chunk in fetch.Download(source, fetch.Policy(["127.0.0.1"]), limit=1).chunks()]
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_checksums_are_verified(algorithm: str) -> None:
    right = hashlib.new(algorithm, CONTENT).hexdigest()
    for digest in (right, right.upper()):
        digests = fetch.Digests(v1.Checksum(algorithm=algorithm, digest=digest))
        digests.update(CONTENT)
        assert digests.verify("x") == hashlib.sha256(CONTENT).hexdigest()
    digests = fetch.Digests(v1.Checksum(algorithm=algorithm, digest="0" * len(right)))
    digests.update(CONTENT)
    with pytest.raises(ChecksumMismatchError, match=right):
        digests.verify("x")


def test_W39_an_images_id_follows_who_declares_it_and_what_it_is_made_from() -> None:
    def of(uid: str = "u", url: str = "http://a/x", digest: str = "") -> str:
        source = v1.ImageSource(url=v1.UrlSource(url=url), checksum=v1.Checksum(algorithm="sha256", digest=digest))
        return fetch.image_id(uid, fetch.key(source) or [])

    assert of() == of()
    assert len({of(), of(uid="v"), of(url="http://a/y"), of(digest="00")}) == 4


def test_headers_are_no_part_of_an_images_id() -> None:
    """A token that was rotated makes no other image of the same URL."""
    urls = [v1.UrlSource(url="http://a/x", headers={"Authorization": token}) for token in ("old", "new")]
    assert len({tuple(fetch.key(v1.ImageSource(url=url)) or []) for url in urls}) == 1


def test_what_is_not_fetched_has_no_key() -> None:
    assert fetch.key(v1.ImageSource(template=v1.TemplateSource(name="golden"))) is None


@pytest.mark.parametrize("location", ["http://[", "//[::1", "http://h:99999999/"])
def test_a_redirect_to_what_is_no_url_is_named(location: str) -> None:
    with pytest.raises(DownloadFailedError, match="no URL"):
        fetch.redirected("http://images.example/d?sig=1", location)
