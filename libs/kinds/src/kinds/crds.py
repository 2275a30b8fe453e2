"""The CustomResourceDefinitions, generated from the models: `python -m kinds.crds --out deploy/crds [--check]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml

from .registry import GROUP, KINDS, VERSION, Kind
from .rules import RULES, at
from .schema import Schema, structural

_HEADER = "# Generated from libs/kinds by `make crds`; edit the models instead.\n"


class _PlainDumper(yaml.SafeDumper):
    """Writes every value where it stands: no anchors and aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root_schema(kind)},
        "subresources": _subresources(kind),
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short_name],
                "categories": ["virtrigaud"],
            },
            "versions": [version],
        },
    }


def _root_schema(kind: Kind) -> Schema:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind.model)}
    schema: Schema = {
        "type": "object",
        "description": kind.description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(fields["spec"]),
            "status": structural(fields["status"]),
        },
    }
    for path, rules in RULES.get(kind.name, {}).items():
        node = at(schema, path)
        node["x-kubernetes-validations"] = [*node.get("x-kubernetes-validations", []), *rules]
    return schema


def _subresources(kind: Kind) -> dict[str, Any]:
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return {"status": {}, **({"scale": scale} if kind.scale else {})}


def _column(column: tuple[str, str, str, int]) -> dict[str, Any]:
    name, type_, path, priority = column
    return {"name": name, "type": type_, "jsonPath": path, **({"priority": priority} if priority else {})}


def rendered() -> dict[str, str]:
    """File name to YAML text, for every kind."""
    return {
        f"{GROUP}_{kind.plural}.yaml": _HEADER + yaml.dump(crd(kind), Dumper=_PlainDumper, sort_keys=False, width=120)
        for kind in KINDS.values()
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with --check tell which of them are out of date."""
    parser = argparse.ArgumentParser(prog="python -m kinds.crds", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the YAML files")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is out of date")
    options = parser.parse_args(arguments)
    files = rendered()
    present = {path.name: path.read_text() for path in options.out.glob("*.yaml")}
    stale = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    if options.check:
        for name in stale:
            sys.stderr.write(f"{options.out / name} is not what the models say; run `make crds`\n")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - files.keys():
        (options.out / name).unlink()
    for name, text in files.items():
        (options.out / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
