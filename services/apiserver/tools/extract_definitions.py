"""Write `src/apiserver/data/definitions.json` from the published OpenAPI v3 documents of Kubernetes.

Usage: extract_definitions.py ZIP, where ZIP is the module `k8s.io/kubernetes` as the Go module proxy serves it
(Apache-2.0). Only the definitions that the built-in kinds reach are kept.
"""

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOTS = {
    "api__v1": ["ConfigMap", "Secret", "Namespace", "ServiceAccount", "Event"],
    "apis__apiextensions.k8s.io__v1": ["CustomResourceDefinition"],
    "apis__authentication.k8s.io__v1": ["TokenReview", "SelfSubjectReview"],
    "apis__authorization.k8s.io__v1": [
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ],
    "apis__autoscaling__v1": ["Scale"],
    "apis__coordination.k8s.io__v1": ["Lease"],
    "apis__events.k8s.io__v1": ["Event"],
}
META = ["DeleteOptions", "Status", "Patch", "WatchEvent"]
REF = re.compile(r'"\$ref": ?"#/components/schemas/([^"]+)"')
TARGET = Path(__file__).resolve().parents[1] / "src" / "apiserver" / "data" / "definitions.json"


def reach(name: str, schemas: dict[str, Any], kept: dict[str, Any]) -> None:
    """Keep a definition and all that it refers to."""
    if name in kept:
        return
    kept[name] = schemas[name]
    for other in REF.findall(json.dumps(schemas[name])):
        reach(other, schemas, kept)


def main() -> None:
    """Read the archive named on the command line and write the definitions."""
    archive = zipfile.ZipFile(sys.argv[1])
    version = re.search(r"@(v[0-9.]+)/", archive.namelist()[0])
    kept: dict[str, Any] = {}
    for document, kinds in ROOTS.items():
        path = next(n for n in archive.namelist() if n.endswith(f"/api/openapi-spec/v3/{document}_openapi.json"))
        schemas = json.loads(archive.read(path))["components"]["schemas"]
        for name in schemas:
            last = name.rsplit(".", 1)[1]
            own = any(last == kind and ".apis.meta." not in name for kind in kinds)  # a kind of this document's group
            if own or (".apis.meta.v1." in name and last in META):
                reach(name, schemas, kept)
            if name.endswith("List") and last.removesuffix("List") in kinds:
                reach(name, schemas, kept)
    source = {"source": "k8s.io/kubernetes", "version": version[1] if version else "", "license": "Apache-2.0"}
    TARGET.write_text(json.dumps({**source, "schemas": dict(sorted(kept.items()))}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
