"""Validation rules (CEL) that a schema alone cannot express: one-of, uniqueness, and what may not change.

They keep to what every CEL implementation knows: has, size, all, exists_one, and comparisons.
"""

from __future__ import annotations

from typing import Any

Rule = dict[str, Any]

Rules = dict[str, list[Rule]]
"""Path of the schema node, dotted, "[]" for the items of a list ("" is the root), to its rules."""


def rule(expression: str, message: str, **more: Any) -> Rule:  # Any: values of a JSON object
    """One entry of x-kubernetes-validations."""
    return {"rule": expression, "message": message, **more}


def at(schema: dict[str, Any], path: str) -> dict[str, Any]:  # Any: a JSON schema
    """The node of a schema at a path."""
    node = schema
    for part in filter(None, path.split(".")):
        node = node["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            node = node["items"]
    return node


def at_most_one(fields: tuple[str, ...], what: str) -> Rule:
    """At most one of these members is set."""
    count = " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)
    return rule(f"{count} <= 1", f"{what}: set one of {', '.join(fields)}, not several")


def unique(list_field: str, key: str) -> Rule:
    """No two items of a list share a key."""
    expression = (
        f"!has(self.{list_field}) || self.{list_field}.all(a, self.{list_field}.exists_one(b, b.{key} == a.{key}))"
    )
    return rule(expression, f"{list_field}: each {key} must be unique")


_BOUND = (
    "has(oldSelf.status) && (has(oldSelf.status.id) && oldSelf.status.id != '' || has(oldSelf.status.boundProvider))"
)
_NAMESPACE = "(has({0}.spec.providerRef.namespace) ? {0}.spec.providerRef.namespace : '')"
_OTHER_PROVIDER = (
    "self.spec.providerRef.name != oldSelf.spec.providerRef.name"
    # A list around one of them: Kubernetes counts a comparison of two fields that may be null as boundlessly dear.
    f" || !({_NAMESPACE.format('self')} in [{_NAMESPACE.format('oldSelf')}])"
)

RULES: dict[str, Rules] = {
    "VirtualMachine": {
        "": [
            rule(
                f"!has(self.spec) || !has(oldSelf.spec) || !({_BOUND}) || !({_OTHER_PROVIDER})",
                "spec.providerRef: the machine was made on this provider; delete it, or migrate it, to move it",
            ),
        ],
        "spec": [
            at_most_one(("imageRef", "importedDisk"), "boot disk"),
            unique("disks", "name"),
            unique("networks", "name"),
        ],
    },
    "Provider": {
        "spec": [
            rule("self.type == oldSelf.type", "type: cannot change; make another Provider"),
            rule(
                "!has(oldSelf.topology) || has(self.topology) && self.topology == oldSelf.topology",
                "topology: cannot change; make another Provider",
            ),
            rule(
                "!has(self.topology) || self.topology != 'cluster' || self.type == 'libvirt'",
                "topology: cluster is for libvirt only",
            ),
            rule(
                "!has(self.runtime) || !has(self.runtime.mode) || self.runtime.mode != 'External'"
                " || has(self.runtime.address)",
                "runtime.address: say where the server of mode External listens, as host:port",
            ),
        ],
    },
    "VMClone": {
        "spec.source": [at_most_one(("vmRef", "snapshotRef", "templateRef", "imageRef"), "source")],
    },
}
