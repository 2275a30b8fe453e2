"""CEL validation rules (`x-kubernetes-validations`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

from .celengine import cel
from .celfunctions import functions_of

Wanted = dict[str, Any]
"""Which members a rule reads, as a tree; an empty tree means all of them."""

_STRINGS = re.compile(r"""r?"(?:\\.|[^"\\])*"|r?'(?:\\.|[^'\\])*'""")
_PATHS = re.compile(r"(?<![\w.])(self|oldSelf)\b((?:\s*\.\s*[A-Za-z_]\w*(?!\w))*)(\s*\()?")
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)


class RuleError(Exception):
    """A rule could not be evaluated on this object."""


class Node(Protocol):
    """What rules ask of the schema node that they stand in."""

    def as_cel(self, value: Any, wanted: Wanted) -> Any:
        """A JSON value as expressions see it under this schema."""
        ...


@dataclass(frozen=True)
class Rule:
    """One rule of one schema node."""

    rule: str
    message: str = ""
    message_expression: str = ""
    reason: str = "FieldValueInvalid"
    field_path: str = ""
    optional_old: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Rule:
        """Read it from the schema."""
        return cls(
            rule=raw.get("rule") or "",
            message=raw.get("message") or "",
            message_expression=raw.get("messageExpression") or "",
            reason=raw.get("reason") or "FieldValueInvalid",
            field_path=raw.get("fieldPath") or "",
            optional_old=bool(raw.get("optionalOldSelf")),
        )

    @cached_property
    def transition(self) -> bool:
        """Tell whether the rule compares with the old value."""
        return re.search(r"\boldSelf\b", _STRINGS.sub('""', self.rule)) is not None

    @cached_property
    def _program(self) -> Expression:
        return Expression(self.rule)

    @cached_property
    def _message_program(self) -> Expression:
        return Expression(self.message_expression)

    def compile(self) -> None:
        """Compile both expressions.

        Raises:
            ValueError: one of them is no CEL; the text says where.
        """
        _ = self._program
        if self.message_expression:
            _ = self._message_program

    def holds(self, node: Node, value: Any, old: Any, has_old: bool) -> bool:
        """Evaluate the rule.

        Raises:
            RuleError: it reads what is not there, or mixes types.
        """
        return self._program.run(node, value, old, has_old, self.optional_old) is True

    def explain(self, node: Node, value: Any, old: Any, has_old: bool) -> str:
        """Return the text for a broken rule."""
        if self.message_expression:
            try:
                text = self._message_program.run(node, value, old, has_old, self.optional_old)
            except RuleError:
                text = ""
            if isinstance(text, str) and text.strip() and "\n" not in text:
                return text
        return self.message or f"failed rule: {self.rule}"


class Expression:
    """A compiled CEL expression over `self` and `oldSelf`."""

    def __init__(self, text: str) -> None:
        """Compile it.

        Raises:
            ValueError: it cannot be parsed.
        """
        self._program = cel.compile(text)
        bare = _STRINGS.sub('""', text)
        self._functions = functions_of(bare)
        self._names = {name: wanted_of(bare, name) for name in ("self", "oldSelf")}
        self._reads_old = re.search(r"\boldSelf\b", bare) is not None

    def run(self, node: Node, value: Any, old: Any, has_old: bool, optional_old: bool) -> Any:
        """Evaluate with only the members that the expression names."""
        context: dict[str, Any] = {"self": node.as_cel(value, self._names["self"])}
        if self._reads_old:
            if optional_old:
                inner = node.as_cel(old, {}) if has_old else None
                context["oldSelf"] = cel.OptionalValue.of(inner) if has_old else cel.OptionalValue.none()
            else:
                context["oldSelf"] = node.as_cel(old, self._names["oldSelf"])
        try:
            if self._functions:
                return self._program.execute(cel.Context(variables=context, functions=self._functions))
            return self._program.execute(context)
        except KeyError as error:
            raise RuleError(f"no such key: {error.args[0] if error.args else ''}") from error
        except (ValueError, TypeError, RuntimeError, ArithmeticError, IndexError) as error:
            raise RuleError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def wanted_of(text: str, name: str) -> Wanted:
    """Return the members of `name` that an expression reads; empty if it may read any."""
    tree: Wanted = {}
    for found in _PATHS.finditer(text):
        if found[1] != name:
            continue
        parts = [p.strip() for p in found[2].split(".") if p.strip()]
        if found[3]:
            parts = parts[:-1]  # the last one is a method, not a member
        if not parts:
            return {}
        here = tree
        for index, part in enumerate(parts):
            if index == len(parts) - 1:
                here[part] = {}
            elif part in here and not here[part]:
                break  # all of it is wanted already
            else:
                here = here.setdefault(part, {})
    return tree


@lru_cache(maxsize=4096)
def escape(name: str) -> str:
    """Return the name by which an expression reads a member."""
    if name in _RESERVED:
        return f"__{name}__"
    for plain, coded in (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")):
        name = name.replace(plain, coded)
    return name
