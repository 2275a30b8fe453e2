"""What logs show, and above all what they never show."""

import io
import json
import logging as stdlib_logging
import subprocess
import sys
import warnings

import pytest
from common import logging, redact, secrets, v1

CANARY = "c4n4ry-in-the-coal-mine"


@pytest.fixture
def lines():
    """Set up JSON logs into a buffer; answers with a reader of the records so far."""
    root = stdlib_logging.getLogger()
    before, level, hook = root.handlers[:], root.level, sys.excepthook
    buffer = io.StringIO()
    logging.setup("test-service", "debug", "json", buffer)
    yield lambda: [json.loads(line) for line in buffer.getvalue().splitlines()]
    root.handlers[:], sys.excepthook = before, hook
    root.setLevel(level)
    stdlib_logging.captureWarnings(False)


def test_a_record_is_one_json_object_with_its_fields(lines):
    logging.get("a.module").info("machine.power.set", uid="m-1", want="on", took=0.25)
    (record,) = lines()
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        **{"event": "machine.power.set", "level": "info", "logger": "a.module", "service": "test-service"},
        **{"uid": "m-1", "want": "on", "took": 0.25},
    }


def test_levels_filter(lines):
    stdlib_logging.getLogger().setLevel("WARNING")
    logging.get("x").info("quiet")
    logging.get("x").warning("loud")
    assert [record["event"] for record in lines()] == ["loud"]


def test_the_standard_librarys_loggers_take_the_same_way(lines):
    stdlib_logging.getLogger("kubernetes.client").error("refused by %s", "host", extra={"password": CANARY})
    (record,) = lines()
    assert record["event"] == "refused by host"
    assert record["password"] == redact.MASK
    assert record["service"] == "test-service"


def test_warnings_are_logged(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old habit", stacklevel=1)
    assert "old habit" in lines()[0]["event"]


def test_bound_fields_are_attached(lines):
    import structlog

    with structlog.contextvars.bound_contextvars(machine="shop/web"):
        logging.get("x").info("step")
    assert lines()[0]["machine"] == "shop/web"


@pytest.mark.parametrize(
    "fields",
    [
        {"password": CANARY},
        {"db_passwd": CANARY},
        {"api_token": CANARY},
        {"Authorization": f"Bearer {CANARY}"},
        {"headers": {"authorization": CANARY, "cookie": CANARY}},
        {"nested": [{"clientSecret": CANARY}]},
        {"private_key": CANARY},
        {"user_data": f"#cloud-config\npassword: {CANARY}"},
        {"userData": CANARY},
        {"ignition": CANARY},
        {"text": f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----"},
        {"cut": f"-----BEGIN PRIVATE KEY-----\n{CANARY}"},
        {"url": f"qemu+ssh://root:{CANARY}@host/system"},
        {"header": f"Authorization: Bearer {CANARY}"},
        {"payload": CANARY.encode()},
        {"spec": v1.MachineSpec(boot_data=v1.BootData(user_data=CANARY, meta_data=CANARY, ignition=CANARY))},
        {"source": v1.ImageSource(url=v1.UrlSource(url="https://x/y", headers={"X-Api": CANARY}))},
        {"specs": [v1.MachineSpec(boot_data=v1.BootData(user_data=CANARY))]},
        {"opened": v1.ConsoleOpened(url=f"https://esx/?ticket={CANARY}")},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_W76_a_secret_in_a_field_is_never_shown(lines, fields):
    logging.get("x").error("event", **fields)
    (record,) = lines()
    assert CANARY not in json.dumps(record)
    assert next(iter(fields)) in record


def test_what_lies_beside_secrets_is_not_masked(lines, tmp_path):
    """Else a user named as the product is would leave holes in every line."""
    (tmp_path / "ssh_user").write_text("somebody\n")
    assert secrets.read_plain(tmp_path / "ssh_user") == "somebody"
    logging.get("x").info("somebody logs in")
    assert lines()[0]["event"] == "somebody logs in"


def test_W76_a_registered_secret_is_masked_everywhere(lines, tmp_path):
    """In events, fields, keys, exceptions and their notes, of any logger."""
    value = "registered-" + CANARY
    (tmp_path / "token").write_text(value + "\n")
    assert secrets.read_secret(tmp_path / "token") == value
    log = logging.get("x")
    log.info(f"login with {value}", field=f"a {value} b", **{f"key-{value}": 1})
    try:
        error = RuntimeError(f"server said: bad token {value}")
        error.add_note(f"sent {value}")
        raise error
    except RuntimeError:
        log.exception("failed")
        stdlib_logging.getLogger("lib").exception("failed with %s", value)
    records = lines()
    assert len(records) == 3
    assert value not in json.dumps(records)
    assert "RuntimeError: server said: bad token [redacted]" in records[1]["exception"]
    assert "RuntimeError" in records[2]["exception"]


def test_every_line_of_a_secret_is_masked(lines):
    """A key's file may be quoted by the line."""
    redact.register("first-line-of-it\nsecond-line-of-it")
    logging.get("x").info("event", seen="... second-line-of-it ...")
    assert lines()[0]["seen"] == "... [redacted] ..."


def test_what_only_sounds_like_a_secret_stays_readable(lines):
    """A log that hides the file's name does not help whoever must fix it."""
    fields = {
        "tls_key_file": "/etc/tls.key",
        "credentials_directory": "/run/creds",
        "password_file": "/run/pw",
        "secret_name": "esx",
    }
    logging.get("x").info("event", **fields)
    assert {key: lines()[0][key] for key in fields} == fields


def test_a_message_is_shown_without_what_is_unset(lines):
    spec = v1.MachineSpec(
        identity=v1.MachineIdentity(uid="u", name="web"),
        boot_data=v1.BootData(user_data=CANARY, hostname="web"),
        power=v1.PowerSpec(state=v1.PowerState.ON),
    )
    logging.get("x").info("event", spec=spec)
    assert lines()[0]["spec"] == {
        "identity": {"uid": "u", "name": "web"},
        "boot_data": {"user_data": redact.MASK, "hostname": "web"},
        "power": {"state": "ON"},
    }


def test_hostile_values_do_not_break_the_line(lines):
    """Newlines, lone surrogates, cycles and odd objects come out as one JSON line each."""
    cycle: dict[str, object] = {}
    cycle["self"] = cycle

    class Odd:
        def __str__(self) -> str:
            return "odd\nline"

    logging.get("x").info("a\nb", bad="\ud800", cycle=cycle, odd=Odd(), key={1: 2}, big=2**70)
    logging.get("x").info("after")
    assert [record["event"] for record in lines()] == ["a\nb", "after"]


def test_text_format_is_for_people(capsys):
    buffer = io.StringIO()
    root = stdlib_logging.getLogger()
    before, level, hook = root.handlers[:], root.level, sys.excepthook
    try:
        logging.setup("s", "info", "text", buffer)
        logging.get("x").info("machine.created", uid="m-1", password=CANARY)
    finally:
        root.handlers[:], sys.excepthook = before, hook
        root.setLevel(level)
        stdlib_logging.captureWarnings(False)
    assert "machine.created" in buffer.getvalue()
    assert "uid=m-1" in buffer.getvalue()
    assert CANARY not in buffer.getvalue()


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("info", "xml")])
def test_unknown_level_or_format_is_named(level, format):
    with pytest.raises(ValueError, match="is none of"):
        logging.setup("s", level, format)


CRASH = f"""
from common import logging, redact
logging.get("early").warning("before.setup")
logging.setup("crashing", "info", "json")
redact.register("{CANARY}")
raise RuntimeError("died with {CANARY} in its hands")
"""


def test_last_words_are_redacted_and_stdout_stays_clean():
    """A command's output is data; a traceback may quote a secret."""
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert CANARY not in done.stderr
    early, crash = done.stderr.splitlines()
    assert "before.setup" in early
    record = json.loads(crash)
    assert record["event"] == "process.crashed"
    assert "RuntimeError: died with [redacted] in its hands" in record["exception"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file"), (b"", "is empty"), (b"\xff", "is no UTF-8"), (b"x" * 2**21, "larger")],
)
def test_a_secrets_file_that_cannot_be_used_is_named(tmp_path, content, problem):
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(secrets.SecretError, match=problem) as caught:
        secrets.read_secret(path)
    assert str(path) in str(caught.value)


def test_grpcs_own_lines_stay_out_of_the_log(tmp_path):
    """They would stand between the JSON records, unredacted."""
    program = """
import asyncio, sys
from common import errors, logging, pki, rpc, tls, v1
SERVICE = "virtrigaud.provider.v1.MachineService"
class Machines:
    async def get_machine(self, request, context): return v1.GetMachineResponse()
async def main(root):
    ours, theirs = pki.Authority.create(root + "/a"), pki.Authority.create(root + "/b")
    server = rpc.Server("127.0.0.1:0", tls.server_credentials(ours.issue(root + "/s", "s", ["127.0.0.1"])))
    server.bind(SERVICE, Machines())
    async with server, rpc.connect(server.address, theirs.issue(root + "/c", tls.CONTROLLER)) as channel:
        try:
            await rpc.stub(channel, SERVICE).get_machine(v1.GetMachineRequest(), timeout=10)
        except errors.HypervisorUnavailableError as error:
            logging.get("x").error("refused", problem=str(error))
logging.setup("s", "info", "json")
asyncio.run(main(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events == ["rpc.serving", "refused", "rpc.stopped"]


def test_a_password_is_masked_whatever_stands_before_its_url():
    """The whole of the word before it must not be looked through for each of its letters."""
    assert CANARY not in redact.text(f"{'a' * 60_000}1https://me:{CANARY}@host/ {'b' * 60_000}://")
