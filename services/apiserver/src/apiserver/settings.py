"""What the command line and the environment may set."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

NAME = "virtrigaud-apiserver"


@dataclass(frozen=True)
class Settings:
    """How one server runs."""

    data_dir: Path
    host: str
    port: int
    tls_cert: Path
    tls_key: Path
    token_file: Path
    crds: Path | None
    log_level: str
    event_ttl: float
    """Seconds that an Event is kept after its last change."""
    metrics: tuple[str, int] | None = None
    """Host and port where anybody may read the metrics; None: only who shows a token."""


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read flags; each has an environment variable, `--data-dir` is VIRTRIGAUD_APISERVER_DATA_DIR and so on.

    Raises:
        SystemExit: a value is missing or wrong (status 2, with the reason on stderr).
    """
    env = os.environ if environ is None else environ

    def default(flag: str, fallback: str | None = None) -> str | None:
        return env.get("VIRTRIGAUD_APISERVER_" + flag.upper().replace("-", "_"), fallback)

    parser = argparse.ArgumentParser(prog=NAME, description="An embedded single-node Kubernetes API on SQLite.")

    def add(flag: str, text: str, fallback: str | None = None, *, required: bool = True) -> None:
        value = default(flag, fallback)
        parser.add_argument(f"--{flag}", default=value, required=required and value is None, help=text)

    add("data-dir", "where the state lives; created with mode 0700")
    add("listen", "HOST:PORT to bind; port 0 takes any free one (see DATA_DIR/endpoint)", "127.0.0.1:6443")
    add("tls-cert", "PEM certificate chain of the server")
    add("tls-key", "PEM private key of the server")
    add("token-file", "bearer tokens, one line each: token,user,uid[,groups]")
    add("crds", "directory of CustomResourceDefinitions to apply at start", required=False)
    add("metrics-address", "HOST:PORT that serves /metrics in the clear and without a login", required=False)
    add("log-level", "debug, info, warning or error", "info")
    add("event-ttl", "seconds that Events are kept", "3600")
    parser.add_argument("--version", action="version", version=f"{NAME} {version(NAME)}")
    args = parser.parse_args(argv)

    def address(flag: str, text: str, such_as: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            parser.error(f"--{flag} {text}: expected HOST:PORT such as {such_as}")
        return host.strip("[]"), int(port)

    host, port = address("listen", args.listen, "127.0.0.1:6443")
    metrics = address("metrics-address", args.metrics_address, "127.0.0.1:8080") if args.metrics_address else None
    if args.log_level not in ("debug", "info", "warning", "error"):
        parser.error(f"--log-level {args.log_level}: expected debug, info, warning or error")
    try:
        ttl = float(args.event_ttl)
    except ValueError:
        parser.error(f"--event-ttl {args.event_ttl}: expected a number of seconds")
    for flag in ("tls_cert", "tls_key", "token_file"):
        if not os.access(getattr(args, flag), os.R_OK):
            parser.error(f"--{flag.replace('_', '-')} {getattr(args, flag)}: no readable file")
    if args.crds and not Path(args.crds).is_dir():
        parser.error(f"--crds {args.crds}: no such directory")
    return Settings(
        data_dir=Path(args.data_dir),
        host=host,
        port=port,
        tls_cert=Path(args.tls_cert),
        tls_key=Path(args.tls_key),
        token_file=Path(args.token_file),
        crds=Path(args.crds) if args.crds else None,
        log_level=args.log_level,
        event_ttl=ttl,
        metrics=metrics,
    )
