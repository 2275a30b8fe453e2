"""What a log may tell of an error: where it came from, and nothing of what it quotes."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import asyncio, logging
import structlog
from apiserver.logs import configure

configure("warning")
secret = "hunter" + "2"

def decode():
    raise ValueError(f"cannot decode {secret}")

def handle():
    try:
        decode()
    except ValueError as error:
        raise ExceptionGroup(f"two of {secret}", [KeyError(secret), OSError(secret)]) from error

try:
    handle()
except ExceptionGroup:
    structlog.get_logger("ours").exception("test.defect", key="a")
    logging.getLogger("theirs").exception("it broke\\nfuture: %r", ValueError(secret))

logging.getLogger("theirs").error("nothing was raised", exc_info=True)

async def forget():
    task = asyncio.ensure_future(asyncio.to_thread(decode))
    await asyncio.wait([task])

asyncio.run(forget())
"""


def test_an_error_tells_its_place_and_not_its_text():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert "hunter2" not in done.stdout + done.stderr
    ours, theirs, nothing, forgotten = map(json.loads, done.stderr.splitlines())
    assert (ours["event"], ours["key"]) == ("test.defect", "a")
    for kind in ("builtins.ExceptionGroup", "builtins.KeyError", "builtins.OSError", "builtins.ValueError"):
        assert kind in ours["exception"]
    assert "in handle" in ours["exception"]
    assert "in decode" in ours["exception"], "the cause has its place too"
    assert (theirs["logger"], theirs["message"]) == ("theirs", "it broke")
    assert theirs["exception"] == ours["exception"]
    assert nothing["message"] == "nothing was raised"
    assert forgotten["message"] == "Task exception was never retrieved"
    assert "in decode" in forgotten["exception"]
