"""Write `src/apiserver/data/*.json` from what Kubernetes publishes (Apache-2.0).

Usage: extract_definitions.py KUBERNETES API APIMACHINERY, the zip files of the modules `k8s.io/kubernetes`,
`k8s.io/api` and `k8s.io/apimachinery` as the Go module proxy serves them. `definitions.json` comes from the OpenAPI v3
documents, `protobuf.json` (field numbers) from the .proto files. Only what the built-in kinds reach is kept.
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
DATA = Path(__file__).resolve().parents[1] / "src" / "apiserver" / "data"
MESSAGES = [
    "k8s.io.api.core.v1." + kind for kind in ("ConfigMap", "Secret", "Namespace", "ServiceAccount", "Event")
] + [
    "k8s.io.api.coordination.v1.Lease",
    "k8s.io.api.events.v1.Event",
    "k8s.io.api.authentication.v1.TokenReview",
    "k8s.io.api.authentication.v1.SelfSubjectReview",
    "k8s.io.api.authorization.v1.LocalSubjectAccessReview",
    "k8s.io.api.authorization.v1.SelfSubjectAccessReview",
    "k8s.io.api.authorization.v1.SelfSubjectRulesReview",
    "k8s.io.api.authorization.v1.SubjectAccessReview",
    "k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions",
]
FIELD = re.compile(
    r"^\s*(?:(?:optional|repeated)\s+)?(?:map<(\w+),\s*([\w.]+)>|([\w.]+))\s+(\w+)\s*=\s*(\d+)", re.MULTILINE
)


def reach(name: str, schemas: dict[str, Any], kept: dict[str, Any]) -> None:
    """Keep a definition and all that it refers to."""
    if name in kept:
        return
    kept[name] = schemas[name]
    for other in REF.findall(json.dumps(schemas[name])):
        reach(other, schemas, kept)


def messages(archive: zipfile.ZipFile) -> dict[str, dict[str, list[str]]]:
    """Return each message's fields: number -> [name, type, "", "repeated" or "map"]."""
    found = {}
    for path in (n for n in archive.namelist() if n.endswith("generated.proto")):
        text = re.sub(r"//.*", "", archive.read(path).decode())
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        if package is None:
            continue
        for name, body in re.findall(r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            fields = {}
            for match in FIELD.finditer(body):
                kind = match[2] or match[3]
                if kind.startswith("."):
                    kind = kind[1:]
                elif kind[0].isupper():
                    kind = f"{package[1]}.{kind}"
                how = "map" if match[1] else "repeated" if match[0].split()[0] == "repeated" else ""
                fields[match[5]] = [match[4], kind, how]
            found[f"{package[1]}.{name}"] = fields
    return found


def reach_messages(name: str, known: dict[str, Any], kept: dict[str, Any]) -> None:
    """Keep a message and all that it refers to."""
    if name in kept or name not in known:
        return
    kept[name] = known[name]
    for _, kind, _ in known[name].values():
        reach_messages(kind, known, kept)


def write(name: str, content: dict[str, Any]) -> None:
    """Write one file, compactly."""
    (DATA / name).write_text(json.dumps(content, separators=(",", ":")) + "\n")


def main() -> None:
    """Read the archives named on the command line and write the files."""
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
    write("definitions.json", {**source, "schemas": dict(sorted(kept.items()))})
    known = messages(zipfile.ZipFile(sys.argv[2])) | messages(zipfile.ZipFile(sys.argv[3]))
    fields: dict[str, Any] = {}
    for name in MESSAGES:
        reach_messages(name, known, fields)
    write("protobuf.json", {**source, "source": "k8s.io/api, k8s.io/apimachinery", "messages": fields})


if __name__ == "__main__":
    main()
