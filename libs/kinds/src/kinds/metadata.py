"""What every object carries: type and metadata, conditions, label selectors."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct


class Model(Struct, rename="camel", gc=False, omit_defaults=True, kw_only=True):
    """Base of every part of an object: snake_case here, camelCase on the wire; unknown fields are skipped."""


class OwnerReference(Model):
    """An object that this one goes with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """The part of metav1.ObjectMeta that we use; times are RFC 3339 text as the API server gives them."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []


class Resource(Struct, rename="camel", gc=False, omit_defaults=True, kw_only=True):
    """Base of the ten kinds."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


class EmbeddedMetadata(Model):
    """Metadata of objects that are made from a template."""

    name: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Name")] = None
    generate_name: Annotated[str | None, Meta(description="Prefix of a generated name")] = None
    labels: Annotated[dict[str, str], Meta(description="Labels")] = {}
    annotations: Annotated[dict[str, str], Meta(description="Annotations")] = {}


class Condition(Model):
    """metav1.Condition: one aspect of the state, with the reason and a message for people."""

    type: Annotated[
        str,
        Meta(
            description="What it is about",
            max_length=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        ),
    ]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether it holds")]
    reason: Annotated[
        str,
        Meta(
            description="Why, in one word",
            min_length=1,
            max_length=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        ),
    ]
    message: Annotated[str, Meta(description="Why, for people", max_length=32768)]
    last_transition_time: Annotated[
        str, Meta(description="When the status last changed", extra_json_schema={"format": "date-time"})
    ]
    observed_generation: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Generation that it speaks of")
    ] = None


Conditions = Annotated[
    list[Condition],
    Meta(extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


class LabelSelectorRequirement(Model):
    """One term of a label selector."""

    key: Annotated[str, Meta(description="Label key")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], Meta(description="How the label relates to the values")
    ]
    values: Annotated[list[str], Meta(description="Values of In and NotIn")] = []


class LabelSelector(Model):
    """metav1.LabelSelector: all terms must hold; an empty one selects everything."""

    match_labels: Annotated[dict[str, str], Meta(description="Labels that must be equal")] = {}
    match_expressions: Annotated[list[LabelSelectorRequirement], Meta(description="Further terms")] = []

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        return all(_holds(term, labels) for term in self.match_expressions)


def _holds(term: LabelSelectorRequirement, labels: dict[str, str]) -> bool:
    match term.operator:
        case "In":
            return labels.get(term.key) in term.values
        case "NotIn":
            return labels.get(term.key) not in term.values
        case "Exists":
            return term.key in labels
        case "DoesNotExist":
            return term.key not in labels
