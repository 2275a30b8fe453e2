"""One value's rule in the API schema, as the machine-readable description writes it."""

from __future__ import annotations

import msgspec

DASHED = ("instance_type", "type_property", "type_property_schema")


class Rule(msgspec.Struct, frozen=True):
    """What a parameter, or a key of a property string, must be.

    Attributes:
        format: a name (`formats`), or the keys of a property string.
        default_key: its value may stand in a property string without the key.
        alias: another key that takes this one's value; then nothing else here counts.
        keyAlias: a key that takes this one's name.
        requires: a parameter that must be given too.
        pattern: Perl's; bound to begin and end of the value, yet not grouped, as Perl's match is written there.
    """

    type: str = "string"
    optional: bool = False
    format: str | dict[str, Rule] = ""
    pattern: str | None = None
    enum: list[str] | None = None
    minimum: float | None = None
    maximum: float | None = None
    minLength: int | None = None
    maxLength: int | None = None
    default_key: bool = False
    alias: str = ""
    keyAlias: str = ""
    requires: str = ""
    items: Rule | None = None


class Parameters(msgspec.Struct, frozen=True, rename={name: name.replace("_", "-") for name in DASHED}):
    """Of one method.

    Attributes:
        additionalProperties: whether unknown ones may be given.
        allOf: parts that count together.
        oneOf: parts of which the parameter named `type_property` picks one, by its `instance_type`.
    """

    properties: dict[str, Rule] = {}
    additionalProperties: bool = True
    allOf: list[Parameters] = []
    oneOf: list[Parameters] = []
    instance_type: str = ""
    type_property: str = ""
    type_property_schema: Rule | None = None
