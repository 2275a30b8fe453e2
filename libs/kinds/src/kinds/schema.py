"""From a msgspec model to the structural schema that a CustomResourceDefinition holds.

Kubernetes' structural schemas are a strict subset of JSON Schema: every node has a type, nothing is referenced, and
`nullable` stands for a union with null. See https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

from typing import Any

import msgspec

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_DROPPED = ("title", "examples")


def structural(model: type[msgspec.Struct]) -> Schema:
    """The structural schema of a model; fields are in the model's order."""
    (root,), components = msgspec.json.schema_components([model], ref_template=_REF)
    return _node(root, components)


def _node(schema: Schema, components: dict[str, Schema]) -> Schema:
    schema = _resolved(schema, components)
    if schema.get("x-kubernetes-int-or-string"):
        return {key: value for key, value in schema.items() if key not in ("anyOf", "type", *_DROPPED)}
    if variants := schema.get("anyOf"):
        return _nullable(schema, variants, components)
    result = {key: value for key, value in schema.items() if key not in _DROPPED}
    if "enum" in result:
        result.setdefault("type", "string")
    if result.get("type") == "integer":
        result.setdefault("format", "int64")
    if result.get("default", ...) in (None, [], {}):
        del result["default"]
    if "properties" in result:
        result["properties"] = {name: _node(child, components) for name, child in result["properties"].items()}
    if isinstance(result.get("items"), dict):
        result["items"] = _node(result["items"], components)
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = _node(result["additionalProperties"], components)
        if result["additionalProperties"] == {}:
            del result["additionalProperties"]
    if result.get("required") == []:
        del result["required"]
    return result


def _resolved(schema: Schema, components: dict[str, Schema]) -> Schema:
    """Inline a reference; what stands beside it wins over what it points to."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    target = _resolved(components[reference.rsplit("/", 1)[1]], components)
    return {**target, **beside}


def _nullable(schema: Schema, variants: list[Schema], components: dict[str, Schema]) -> Schema:
    """A union with null becomes `nullable`; no other unions are structural."""
    others = [variant for variant in variants if variant.get("type") != "null"]
    if len(others) != 1:
        raise TypeError(f"a union of {len(others)} types has no structural schema: {schema}")
    beside = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**_node(others[0], components), **beside, "nullable": True}
