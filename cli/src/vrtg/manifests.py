"""Manifests: from files, folders or standard input, in the order to apply them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrtg.failures import NotFoundError, RefusedError

# What must exist before others refer to it comes first; the rest keeps its order.
ORDER = (
    "Namespace",
    "CustomResourceDefinition",
    "Secret",
    "ConfigMap",
    "Provider",
    "VMClass",
    "VMImage",
    "VMNetworkAttachment",
)
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass
class Manifest:
    """One object as the user wrote it, and where."""

    source: str
    """File and line: "web.yaml:3"."""
    body: dict[str, Any]  # Any: an object of any kind

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def api_version(self) -> str:
        return str(self.body["apiVersion"])


def load(paths: list[str], warn: Callable[[str], None] | None = None) -> list[Manifest]:
    """Every object of the files, folders (*.yaml, *.yml, *.json) and "-", in the order to apply them.

    Raises:
        NotFoundError: a path does not exist, or nothing is in it.
        RefusedError: a file cannot be parsed, or holds something that is no object; names the place.
    """
    from kinds.manifests import ManifestError
    from kinds.manifests import load as parse

    found: list[Manifest] = []
    for path in paths:
        for source, text in _texts(path):
            try:
                loaded = parse(text, source)
            except ManifestError as error:
                raise RefusedError(str(error)) from error
            if warn is not None:
                for warning in loaded.warnings:
                    warn(warning)
            found += [Manifest(f"{document.source}:{document.line}", document.raw) for document in loaded.documents]
    if not found:
        raise NotFoundError(f"there is no object in {', '.join(paths)}")
    rank = {kind: index for index, kind in enumerate(ORDER)}
    return sorted(found, key=lambda manifest: rank.get(manifest.kind, len(ORDER)))


def _texts(path: str) -> list[tuple[str, str]]:
    if path == "-":
        return [("<stdin>", sys.stdin.read())]
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise NotFoundError(f"there is no .yaml, .yml or .json file in {place}")
    elif place.exists():
        files = [place]
    else:
        raise NotFoundError(f"there is no file or folder {place}: check -f")
    try:
        return [(str(file), file.read_text()) for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"cannot read {place}: {error}") from error
