"""Lines of gRPC's core become records; everything else on standard error stays what it was."""

import json
import os
import subprocess
import sys

import pytest
from common.corelog import QUIET_SECONDS, Refusals

LINE = (
    "I1126 21:41:30.705530   13123 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
    "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: {}"
)


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("certificate has expired", "has expired"),
        ("a reason of next year", "VERIFY_FAILED: a reason of next"),
    ],
)
def test_a_refusal_is_told_with_its_reason(caplog, words, why):
    assert Refusals(lambda: 0.0).take(LINE.format(words))
    assert len(told(caplog)) == 1
    assert why in told(caplog)[0]


@pytest.mark.parametrize(
    ("line", "cores"),
    [
        ("W1126 21:41:30.388105   13109 log.cc:102] Log level INFO is not suitable for production.", True),
        ("Traceback (most recent call last):", False),
        ("", False),
        ('{"event": "rpc.serving"}', False),
    ],
)
def test_other_lines_are_no_records(caplog, line, cores):
    assert Refusals(lambda: 0.0).take(line) is cores
    assert told(caplog) == []


def test_a_scanner_does_not_fill_the_log(caplog):
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(1000):
        refusals.take(LINE.format("certificate has expired"))
    refusals.take(LINE.format("certificate is not yet valid"))
    assert len(told(caplog)) == 2
    now = QUIET_SECONDS
    refusals.take(LINE.format("certificate has expired"))
    assert "1000" in told(caplog)[-1]


def test_standard_error_is_given_back_and_nothing_is_lost():
    program = f"""
import os, sys
from common import corelog, logging
with corelog.taken_up() as stream:
    logging.setup("s", "info", "json", stream)
    os.write(2, b"raw line of https://me:hunter22@host\\n")
    os.write(2, {LINE.format("certificate has expired").encode()!r} + b"\\n")
    os.write(2, b"no end")
logging.setup("s", "info", "json")
os.write(2, b"\\nafter\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("{")] == [
        "raw line of https://[redacted]@host",
        "no end",
        "after",
    ]
    (record,) = (json.loads(line) for line in lines if line.startswith("{"))
    assert (record["event"], record["why"]) == ("rpc.handshake.refused", "the client's certificate has expired")


def test_a_log_that_cannot_be_written_stops_nothing():
    program = f"""
import os
from common import corelog, logging
kept = os.dup(2)
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
with corelog.taken_up() as stream:
    logging.setup("s", "info", "json", stream)
    for _ in range(200):
        os.write(2, {LINE.format("certificate has expired").encode()!r} + b"\\n" + b"a line of others " * 100 + b"\\n")
        logging.get("test").warning("of ours")
    os.dup2(kept, stream.fileno())  # there is room again
    os.write(2, b"read to the last line\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "read to the last line" in done.stderr


FORKING = """
import common, grpc, os, time
from concurrent.futures import ThreadPoolExecutor
server = grpc.server(ThreadPoolExecutor(1))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
grpc.channel_ready_future(grpc.insecure_channel(f"127.0.0.1:{port}")).result(30)
for _ in range(8):
    if not (child := os.fork()):
        os.closerange(3, 256)
        time.sleep(0.1)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_the_core_says_nothing_in_a_forked_child():
    """libvirt reads there why ssh failed; a complaint of gRPC's hid it from people."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    environment["GRPC_VERBOSITY"] = "INFO"
    ran = subprocess.run(
        [sys.executable, "-c", FORKING], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "epoll" not in ran.stderr
