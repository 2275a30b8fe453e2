"""The Kustomize base, generated from the chart: `python -m cluster.kustomize [--check]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import yaml
from e2e.stack import ROOT

from .chart import Object, rendered

BASE = ROOT / "deploy" / "kustomize" / "base"
FILE = BASE / "virtrigaud.yaml"
_HEADER = "# Generated from deploy/helm/virtrigaud by `make kustomize`; edit the chart instead.\n"
_OF_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart")
"""Labels that would not be true here."""


def base() -> str:
    """What the chart makes of its own values, definitions apart, without a word of helm's."""
    with tempfile.TemporaryDirectory() as home:
        bodies = rendered(Path(home), "--set", "crds.install=false")
    for body in bodies:
        _forget(body)
        if body["kind"] == "Deployment":
            _forget(body["spec"]["template"])
    return _HEADER + yaml.safe_dump_all(bodies, sort_keys=False, width=120)


def _forget(body: Object) -> None:
    for label in _OF_HELM:
        body["metadata"].get("labels", {}).pop(label, None)


def main() -> int:
    """Write it, or with --check tell whether it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the file is out of date")
    if parser.parse_args().check:
        if FILE.exists() and FILE.read_text() == base():
            return 0
        print(f"{FILE.relative_to(ROOT)} is not what the chart makes: run make kustomize", file=sys.stderr)
        return 1
    FILE.write_text(base())
    return 0


if __name__ == "__main__":
    sys.exit(main())
