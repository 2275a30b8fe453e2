"""What services share: the wire, statuses, settings, fault plans, TLS files, and the masks over secrets."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import grpc
from common import faults, redact, settings, status, v1, wire
from common.clock import SystemClock
from common.errors import ProviderError
from common.pki import Authority
from common.rpc.services import methods, service
from common.secrets import SecretError, read_secret
from common.settings import SettingsError
from common.tls import TlsError, TlsFiles
from providerkit.serving import ALWAYS, DEPENDENT, PACKAGE

from fuzz.registry import CANARY, LONGEST, parts, target, text

METHODS = [each for name in (*ALWAYS, *DEPENDENT) for each in methods(service(f"{PACKAGE}.{name}"))]
SPEC = v1.MachineSpec(
    identity=v1.MachineIdentity(uid="u", namespace="n", name="m"), cpu=v1.CpuSpec(count=1), tags=["a"],
    disks=[v1.DiskSpec(name="root", size_bytes=1 << 30)], extra_config={"k": "v"},
)  # fmt: skip
MESSAGES = [
    wire.codec(v1.ApplyMachineRequest).dumps(v1.ApplyMachineRequest(spec=SPEC)),
    wire.codec(v1.GetMachineRequest).dumps(v1.GetMachineRequest(uid="u")),
    b"\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
]


@target("common.wire", MESSAGES, inputs=600)
def message(data: bytes) -> None:
    """Any bytes are read as every message, or refused; what is read can be logged, and says the same again."""
    for codec in {id(each.request): each.request for each in METHODS}.values():
        try:
            found = codec.loads(data)
        except wire.DecodeError:
            continue
        wire.unknown_enums(found)
        redact.message(found)
        again = codec.loads(codec.dumps(found))
        assert again == found or repr(again) == repr(found)  # NaN is not itself


def _details() -> bytes:
    from common.errors import HostFullError

    return status.to_status(HostFullError("full", retry_after=2.0)).SerializeToString()


@target("common.status", [_details() + b"", b"\x08\x05\x12\x02no"], inputs=400)
def rpc_status(data: bytes) -> None:
    """Any status of a server becomes an error of ours, with a wait that ends."""
    for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN):
        error = SimpleNamespace(
            code=lambda code=code: code, details=lambda: text(data),
            trailing_metadata=lambda: ((status.DETAILS_KEY, data),),
        )  # fmt: skip
        found = status.from_rpc_error(error)
        assert isinstance(found, ProviderError)
        assert found.retry_after is None or 0 <= found.retry_after <= status.MAX_RETRY_AFTER
        status.abortion(found)


@dataclass(frozen=True)
class Example:
    """Settings of each kind."""

    level: Annotated[Literal["info", "debug"], "l"] = "info"
    count: int = 1
    ratio: float = 1.0
    wait: settings.Seconds = 1.0
    names: list[str] = field(default_factory=list)
    place: Path | None = None
    flag: bool = False
    title: str = ""


YAML = f"level: debug\ncount: 3\nratio: 0.5\nwait: 1m30s\nnames: [a, b]\nplace: /x\nflag: on\ntitle: {CANARY}\n"
TOML = 'level = "debug"\ncount = 3\nratio = 0.5\nwait = "90s"\nnames = ["a"]\nplace = "/x"\nflag = true\n'


@target("common.settings", [YAML, TOML], refuses=(SettingsError,), inputs=400)
def settings_file(data: bytes) -> None:
    """A file of settings is read, or each problem in it is named."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("a.toml", "a.yaml"):
            path = Path(directory, name)
            path.write_bytes(data)
            with contextlib.suppress(SettingsError):
                found = settings.load(Example, ["--config", str(path)], environ={})
                assert found.wait >= 0
                assert isinstance(found.count, int)


@target("common.duration", ["90", "1m30s", "500ms", "2h", "1d", "1.5s"], refuses=(ValueError,))
def duration(data: bytes) -> None:
    """Seconds, finite and not negative."""
    assert 0 <= settings.duration(text(data)) < float("inf")


@target("common.faults", ["fake.create:kill", "a:raise:3, b:hang", "a:hang:1"], refuses=(ValueError,))
def fault_plan(data: bytes) -> None:
    """A plan is understood whole or not at all."""
    before = faults._plan.get()
    try:
        faults.install_from_environment({faults.ENVIRONMENT: text(data)})
    finally:
        faults._plan.set(before)


KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----"
TEXTS = (f"https://me:{CANARY}@host/x", f"Authorization: Bearer {CANARY}", KEY, f"basic {CANARY}==", "://" + "a" * 100)


@target("common.redact", TEXTS, inputs=400)
def masked(data: bytes, mask: Callable[[str], str] = redact.text) -> None:
    """What is a secret by its form is masked wherever it stands, and masking twice is masking once."""
    given = text(data).replace(CANARY, "x")
    once = mask(given)
    assert mask(once) == once
    for secret in (f"\nhttps://me:{CANARY}@host/\n", f"\nBearer {CANARY}\n", f"\n{KEY}\n"):
        assert CANARY not in mask(given + secret)


def _tls() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority.create(Path(directory, "ca"))
        files = authority.issue(Path(directory, "a"), "controller")
        return [b"\0".join(path.read_bytes() for path in (files.cert, files.key, files.ca))]


@target("common.tls", _tls(), refuses=(TlsError,), inputs=150)
def tls(data: bytes) -> None:
    """Certificates that cannot be used are refused by the name of their file, and no key is ever repeated."""
    with tempfile.TemporaryDirectory() as directory:
        files = TlsFiles(*(Path(directory, name) for name in ("tls.crt", "tls.key", "ca.crt")))
        for path, content in zip((files.cert, files.key, files.ca), parts(data, 3), strict=True):
            path.write_bytes(content)
        files.key.chmod(0o600)
        files.check(SystemClock())


@target("common.secret-file", ["word\n"], bad=[b"\xff"], refuses=(SecretError,), inputs=60)
def secret_file(data: bytes) -> None:
    """A text without its line end. The register of masks is the process's own, so that nothing long goes there."""
    before = redact._slots, redact._layers
    redact._slots = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "secret")
        path.write_bytes(data[:LONGEST])
        try:
            word = read_secret(path)
            assert word
            assert len(word) < 4 or word not in redact.text(f"it is {word}.")
        finally:
            redact._slots, redact._layers = before
