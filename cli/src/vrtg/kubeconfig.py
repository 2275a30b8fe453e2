"""Which API server to speak to, and as whom: kubeconfig files, by the rules of kubectl."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrtg.failures import CommandError, UnreachableError, UsageError
from vrtg.home import Home

MAX_DEPTH = 50
"""Mappings and lists inside each other; a kubeconfig has six."""


@dataclass(frozen=True)
class Target:
    """One API server and one user."""

    server: str
    """https://host:port[/prefix]"""
    context: str
    namespace: str = "default"
    ca: bytes | None = None
    """PEM; None means the system's authorities."""
    insecure: bool = False
    server_name: str | None = None
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)
    proxy: str | None = None
    embedded: bool = False
    """It is the embedded stack of this user."""


def choose(home: Home, path: str | None, context: str | None) -> Target:
    """The target that the command line, the environment and the files name, in this order.

    --kubeconfig, then $KUBECONFIG (a list, merged), then the embedded stack's file, then ~/.kube/config.

    Raises:
        UsageError: a file or context does not exist, or makes no sense.
        UnreachableError: there is no configuration at all.
    """
    files = _files(home, path)
    document = _merge(files)
    name = context or document.get("current-context") or ""
    entry = document["contexts"].get(name)
    if entry is None:
        known = ", ".join(sorted(document["contexts"])) or "none"
        what = f'there is no context "{name}"' if name else "there is no current context"
        raise UsageError(f"{what} in {_names(files)} (known: {known}): pass --context NAME")
    cluster = _named(document, "clusters", entry.get("cluster"), name)
    user = _named(document, "users", entry.get("user"), name) if entry.get("user") else {}
    if "server" not in cluster:
        raise UsageError(f'the cluster of context "{name}" has no server address')
    certificate, key, authorization = _identity(user, cluster)
    return Target(
        server=str(cluster["server"]).rstrip("/"),
        context=name,
        namespace=str(entry.get("namespace") or "default"),
        ca=_content(cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
        server_name=_text(cluster, "tls-server-name"),
        certificate=certificate,
        key=key,
        authorization=authorization,
        proxy=_text(cluster, "proxy-url"),
        embedded=files == [home.kubeconfig],
    )


def directed(file: Path, content: bytes, server: str) -> str:
    """A kubeconfig whose clusters are all at another address.

    Raises:
        UsageError: it is none; the text shows nothing of it.
    """
    import yaml

    try:
        document = _yaml(content.decode())
        for entry in document["clusters"]:
            entry["cluster"]["server"] = server
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, KeyError):
        raise UsageError(f"{file} is no kubeconfig, so --server is of no use to it") from None
    return yaml.safe_dump(document)


def _files(home: Home, path: str | None) -> list[Path]:
    if path:
        chosen = Path(path).expanduser()
        if not chosen.is_file():
            raise UsageError(f"there is no kubeconfig at {chosen}: check --kubeconfig")
        return [chosen.absolute()]
    if listed := os.environ.get("KUBECONFIG"):
        there = [
            Path(p).expanduser().absolute() for p in listed.split(os.pathsep) if p and Path(p).expanduser().is_file()
        ]
        if not there:
            raise UsageError(f"$KUBECONFIG names {listed}, which does not exist: correct it, or unset it")
        return there
    if home.kubeconfig.is_file():
        return [home.kubeconfig]
    common = Path("~/.kube/config").expanduser()
    if common.is_file():
        return [common]
    raise UnreachableError(
        "there is no API server to speak to: `vrtg up` starts the embedded one, --kubeconfig names another"
    )


def _names(files: list[Path]) -> str:
    return ", ".join(str(file) for file in files)


def _merge(files: list[Path]) -> dict[str, Any]:  # Any: a kubeconfig is free-form YAML
    """All files as one; the first to set a value wins. Relative paths become absolute."""
    import yaml

    merged: dict[str, Any] = {"contexts": {}, "clusters": {}, "users": {}}
    for file in files:
        try:
            document = _yaml(file.read_text())
        except OSError as error:
            raise UsageError(f"cannot read the kubeconfig {file}: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark is not None else ""
            raise UsageError(f"cannot read the kubeconfig {file}: it is no YAML{where}") from None  # it holds secrets
        if not isinstance(document, dict):
            raise UsageError(f"{file} is not a kubeconfig: it holds no mapping")
        merged["current-context"] = merged.get("current-context") or str(document.get("current-context") or "")
        for section, inner in (("contexts", "context"), ("clusters", "cluster"), ("users", "user")):
            for name, body in _entries(document, section, inner, file):
                for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
                    if body.get(key):
                        body[key] = str(file.parent / str(body[key]))
                merged[section].setdefault(name, body)
    return merged


def _yaml(text: str) -> Any:  # Any: whatever it holds
    """Raises: yaml.YAMLError, ValueError, RecursionError."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):  # its composer recurses in C, and would end the process
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecursionError
    return yaml.load(text, Loader=loader)  # noqa: S506 - a safe one


def _entries(document: dict[str, Any], section: str, inner: str, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of each entry of a section."""
    listed = document.get(section) or []
    if not isinstance(listed, list):
        raise UsageError(f"{file} is not a kubeconfig: its {section} are no list")
    for place, entry in enumerate(listed):
        body = entry.get(inner) or {} if isinstance(entry, dict) else None
        if not isinstance(body, dict):
            raise UsageError(f"{file} is not a kubeconfig: {section}[{place}] holds no {inner}")
        yield str(entry.get("name")), dict(body)


def _named(document: dict[str, Any], section: str, name: object, context: str) -> dict[str, Any]:
    entry = document[section].get(str(name))
    if entry is None:
        raise UsageError(f'context "{context}" names {section[:-1]} "{name}", which the kubeconfig does not define')
    return dict(entry)


def _text(entry: dict[str, Any], key: str) -> str | None:
    return str(entry[key]) if entry.get(key) else None


def _content(entry: dict[str, Any], key: str) -> bytes | None:
    """PEM given inline as `KEY-data` (base64) or as a file."""
    if data := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(str(data), validate=True)
        except ValueError as error:
            raise UsageError(f"{key}-data in the kubeconfig is not base64") from error
    if path := entry.get(key):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {key} {path}: {error.strerror}") from error
        except ValueError:
            raise UsageError(f"{key} in the kubeconfig is no path of a file") from None
    return None


def _identity(user: dict[str, Any], cluster: dict[str, Any]) -> tuple[bytes | None, bytes | None, str | None]:
    """Client certificate, its key, and the Authorization header."""
    if "exec" in user:
        return _ask_plugin(user["exec"], cluster)
    if "auth-provider" in user:
        raise UsageError("the kubeconfig uses auth-provider, which Kubernetes has removed: use exec or a token")
    certificate, key = _content(user, "client-certificate"), _content(user, "client-key")
    if path := user.get("tokenFile"):
        try:
            return certificate, key, f"Bearer {Path(path).read_text().strip()}"
        except OSError as error:
            raise UsageError(f"cannot read the token file {path}: {error.strerror}") from error
        except ValueError:
            raise UsageError("tokenFile in the kubeconfig is no path of a text file") from None
    if token := user.get("token"):
        return certificate, key, f"Bearer {token}"
    if name := user.get("username"):
        pair = base64.b64encode(f"{name}:{user.get('password', '')}".encode()).decode()
        return certificate, key, f"Basic {pair}"
    return certificate, key, None


def _ask_plugin(plugin: dict[str, Any], cluster: dict[str, Any]) -> tuple[bytes | None, bytes | None, str | None]:
    """Run a client-go credential plugin (ExecCredential)."""
    version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = {
            k: v for k, v in cluster.items() if k in ("server", "certificate-authority-data", "tls-server-name")
        }
    request = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    environment = {e["name"]: e["value"] for e in plugin.get("env") or []}
    command = [str(plugin.get("command")), *map(str, plugin.get("args") or [])]
    try:
        answer = subprocess.run(  # noqa: S603 - the user's own kubeconfig names the command, as for kubectl
            command,
            env={**os.environ, **environment, "KUBERNETES_EXEC_INFO": json.dumps(request)},
            stdout=subprocess.PIPE,
            timeout=120,
            check=True,
        )
        status = json.loads(answer.stdout)["status"]
    except FileNotFoundError as error:
        hint = plugin.get("installHint") or "install it"
        raise CommandError(f"the kubeconfig asks {command[0]} for credentials, and it is missing: {hint}") from error
    except (subprocess.SubprocessError, ValueError, KeyError) as error:
        raise CommandError(
            f"{command[0]} gave no credentials (the kubeconfig names it): run it by hand to see why"
        ) from error
    certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    token = status.get("token")
    return (
        certificate.encode() if certificate else None,
        key.encode() if key else None,
        f"Bearer {token}" if token else None,
    )
