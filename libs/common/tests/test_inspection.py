"""Who answers where that is hard to tell; ordinary servers are met in the controller's tests of trust."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from common import pki, tls
from common.errors import WrongServerError
from common.identity import Server
from common.rpc.inspection import examine

MEANT, OTHER = Server("default", "web"), Server("default", "other")


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """Address of a server of another Provider, that says nothing after its handshake and takes no farewell."""
    files = pki.Authority.create(tmp_path / "ca").issue(tmp_path / "s", OTHER.host, [OTHER.uri], end=pki.End.SERVER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True):
            done.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        done.set()
        thread.join()


async def test_another_server_that_does_not_let_go_is_another_server(tmp_path: Path, silent: str) -> None:
    client = pki.Authority.create(tmp_path / "ca").issue(tmp_path / "c", tls.CONTROLLER, end=pki.End.CLIENT)
    found = (await examine(silent, client, MEANT)).problem
    assert isinstance(found, WrongServerError)
    assert OTHER.uri in str(found)
