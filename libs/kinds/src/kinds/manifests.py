"""Manifests as people write them: YAML or JSON text in, checked documents out.

Plain scalars mean what they mean to kubectl, not what PyYAML makes of them: a MAC address of digits stays a string
(YAML 1.1 reads it as a number to the base of 60), and so does a date. Messages quote keys, never values: a manifest
may hold a Secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import yaml

MAX_BYTES: Final = 3 * 2**20
"""Of a source's text, and again of what its aliases add; the Kubernetes API takes no larger request either."""
MAX_DEPTH: Final = 100
"""Mappings and lists inside each other; the deepest API objects (CRDs) stay well below."""

_GROUP: Final = "infra.virtrigaud.io/"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it
_NODE_COST: Final = 16  # bytes a node counts for beyond its text when aliases are expanded
_FREE_MAPS: Final = frozenset({"metadata", "labels", "annotations", "matchLabels"})  # keys of the user's, not the API's
_JSON_START: Final = re.compile(r'\s*\{\s*["}]')

_TAG: Final = "tag:yaml.org,2002:"
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{form: True for word in ("true", "yes", "on") for form in (word, word.title(), word.upper())},
    **{form: False for word in ("false", "no", "off") for form in (word, word.title(), word.upper())},
}
_TAGGED: Final[dict[str, tuple[type, ...]]] = {
    "bool": (bool,),
    "null": (type(None),),
    "int": (int,),
    "float": (int, float),
}
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INTEGER: Final = re.compile(r"[-+]?(0b[01][01_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)")
_REAL: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class ManifestError(ValueError):
    """A manifest that cannot be used.

    Args:
        source: file name or "<stdin>".
        problem: what was wrong, and remedy: what to do about it.
        index: which document of the source, counting from 1; None where the whole source is meant.
        line: counting from 1; None where unknown.
    """

    def __init__(
        self, source: str, problem: str, remedy: str, *, index: int | None = None, line: int | None = None
    ) -> None:
        where = source if line is None else f"{source}:{line}"
        which = "" if index is None else f"document {index}: "
        super().__init__(f"{where}: {which}{problem}; {remedy}")
        self.source, self.index, self.line = source, index, line
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True)
class Document:
    """One object of a manifest.

    `raw` is its content, not yet held against a schema (hence Any). `index` counts the source's documents from 1,
    `line` its lines; the objects of a List share an index. `namespace` is None where the manifest gives none.
    """

    raw: dict[str, Any]
    source: str
    index: int
    line: int
    api_version: str
    kind: str
    namespace: str | None
    name: str


@dataclass(frozen=True)
class Loaded:
    """The objects of one source in their order, and what was understood but should be written otherwise."""

    documents: list[Document]
    warnings: list[str]


def load(text: str, source: str = "<stdin>") -> Loaded:
    """Read every object of a YAML or JSON text; Lists are taken apart, empty documents skipped.

    A boolean powerState (an unquoted On or Off) becomes the string, with a warning.

    Raises:
        ManifestError: the first thing that is wrong. Nothing else is ever raised for a text.
    """
    text = text.removeprefix("\ufeff")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ManifestError(source, "the text is not valid UTF-8", "save the file as UTF-8", line=line) from None
    if size > MAX_BYTES:
        problem = f"the text has {size} bytes, more than the {MAX_BYTES} that are read"
        raise ManifestError(source, problem, "split it into several files")
    loaded = Loaded([], [])
    for root in _roots(text, source):
        for document in _objects(root, source):
            loaded.documents.append(document)
            loaded.warnings.extend(_quote_power_states(document, root.lines))
    return loaded


# Lines: for each mapping or list, by id(), the line of each key or item. The tree keeps the objects alive.
_Lines = dict[int, dict[str | int, int]]


@dataclass(frozen=True)
class _Root:
    value: Any  # whatever the document holds; checked in _objects
    index: int
    line: int
    lines: _Lines


def _roots(text: str, source: str) -> list[_Root]:
    refused: ManifestError | None = None
    if text.lstrip()[:1] == "{":
        try:
            return list(_JsonReader(text, source).read())
        except json.JSONDecodeError as error:  # may still be YAML, or JSON documents between "---" lines
            remedy = "correct the JSON there (a missing comma, quote or bracket is often the line before)"
            refused = ManifestError(source, f"not valid JSON: {error.msg}", remedy, line=error.lineno)
    try:
        return list(_YamlReader(source).read(text))
    except ManifestError:
        if refused is not None and _JSON_START.match(text):
            raise refused from None
        raise


# --- documents -------------------------------------------------------------------------------------------------------


def _objects(root: _Root, source: str) -> Iterator[Document]:
    """The objects in one document, Lists taken apart, in their order."""
    if root.value is None:
        return
    waiting: list[tuple[Any, int, str, dict[str, str]]] = [(root.value, root.line, "", {})]
    while waiting:
        value, line, path, inherited = waiting.pop()
        if not isinstance(value, dict):
            what = f"{path.rstrip('.')} is" if path else "it is"
            remedy = "write an object with apiVersion, kind, metadata and spec"
            raise ManifestError(source, f"{what} {_type(value)}, not a mapping", remedy, index=root.index, line=line)
        for key, text in inherited.items():
            value.setdefault(key, text)
        if not _is_list(value):
            yield _document(value, line, path, root, source)
            continue
        items = value.get("items")
        if not isinstance(items, list | None):
            line = _line(root.lines, value, "items", line)
            problem = f"{path}items is {_type(items)}, not a list"
            remedy = "write the objects as a list below items, each with a leading dash"
            raise ManifestError(source, problem, remedy, index=root.index, line=line)
        gives = _given_to_items(value)
        for place, item in reversed(list(enumerate(items or []))):
            waiting.append((item, _line(root.lines, items, place, line), f"{path}items[{place}].", gives))


def _is_list(value: dict[str, Any]) -> bool:
    kind = value.get("kind")
    return kind == "List" or (isinstance(kind, str) and kind.endswith("List") and isinstance(value.get("items"), list))


def _given_to_items(value: dict[str, Any]) -> dict[str, str]:
    """What the API leaves out in the items of a typed list: VirtualMachineList says it once for all."""
    kind, api_version = value["kind"].removesuffix("List"), value.get("apiVersion")
    return {"apiVersion": api_version, "kind": kind} if kind and isinstance(api_version, str) else {}


def _document(raw: dict[str, Any], line: int, path: str, root: _Root, source: str) -> Document:
    def text_of(holder: dict[str, Any], key: str, prefix: str, example: str) -> str:
        value = holder.get(key)
        if isinstance(value, str) and value:
            return value
        above = line if holder is raw else _line(root.lines, raw, "metadata", line)
        name, at = f"{path}{prefix}{key}", _line(root.lines, holder, key, above)
        if value is None or value == "":
            problem, remedy = f"{name} is missing", f"add it, for example {key}: {example}"
            if key == "name" and holder.get("generateName"):
                remedy = "generateName makes a new object each time: give a fixed name"
        else:
            problem, remedy = f"{name} is {_type(value)}, not a string", 'put the value in quotes: "..."'
        raise ManifestError(source, problem, remedy, index=root.index, line=at)

    api_version = text_of(raw, "apiVersion", "", f"{_GROUP}v1beta1")
    kind = text_of(raw, "kind", "", "VirtualMachine")
    metadata = raw.get("metadata", {})
    if not isinstance(metadata, dict | None):
        at = _line(root.lines, raw, "metadata", line)
        problem = f"{path}metadata is {_type(metadata)}, not a mapping"
        raise ManifestError(source, problem, "write name: and namespace: below it", index=root.index, line=at)
    metadata = metadata or {}
    name = text_of(metadata, "name", "metadata.", "web")
    namespace = None
    if metadata.get("namespace") not in (None, ""):
        namespace = text_of(metadata, "namespace", "metadata.", "default")
    return Document(raw, source, root.index, line, api_version, kind, namespace, name)


def _quote_power_states(document: Document, lines: _Lines) -> Iterator[str]:
    """Replace boolean power states anywhere below spec; answers a warning for each.

    Wherever the API has powerState it is a string (a machine's spec and every template of one), so the walk need not
    know the kinds.
    """
    if not document.api_version.startswith(_GROUP):
        return
    waiting: list[tuple[Any, str]] = [(document.raw.get("spec"), "spec")]
    while waiting:
        holder, path = waiting.pop()
        if isinstance(holder, list):
            waiting.extend((item, f"{path}[{place}]") for place, item in reversed(list(enumerate(holder))))
        if not isinstance(holder, dict):
            continue
        value = holder.get("powerState")
        if isinstance(value, bool):
            holder["powerState"] = word = "On" if value else "Off"
            yield (
                f"{document.source}:{_line(lines, holder, 'powerState', document.line)}: {document.kind} "
                f"{document.name}: {path}.powerState is the boolean {str(value).lower()} (YAML reads an unquoted "
                f'{word} so); taken as "{word}"; put it in quotes: powerState: "{word}"'
            )
        inner = [(item, f"{path}.{key}") for key, item in holder.items() if key not in _FREE_MAPS]
        waiting.extend(reversed(inner))


def _line(lines: _Lines, holder: object, place: str | int, otherwise: int) -> int:
    return lines.get(id(holder), {}).get(place, otherwise)


def _type(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean", type(None): "empty"}
    return names.get(type(value), "a number")


def _shown(text: str) -> str:
    """A key or name for a message."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...")


# --- numbers ---------------------------------------------------------------------------------------------------------


def _integer(text: str) -> int:
    """Raises ValueError beyond 64 bits: what reads the manifest next would round the number."""
    digits = text.replace("_", "")
    if len(digits) > 70:  # 64 binary digits, sign and prefix
        raise ValueError
    if re.fullmatch("[-+]?0[0-7]+", digits):
        number = int(digits, 8)
    else:
        number = int(digits, 0 if re.match("[-+]?0[box]", digits) else 10)
    if not -(2**63) <= number < 2**64:
        raise ValueError
    return number


def _real(text: str) -> int | float:
    """A float; an int where it is whole, as Kubernetes writes it (1e3 is 1000). Raises ValueError where not finite."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _plain(text: str) -> Any:  # str, bool, None, int or float
    """The value of an unquoted scalar. Raises ValueError for a number that JSON or 64 bits cannot carry."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _REAL.fullmatch(text):
        return _real(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError
    return text


_BAD_NUMBER: Final = ("a number is too large to be exact, or not finite", "if it is text, put it in quotes")
_BAD_CHARACTER: Final = ("a string holds half a surrogate pair", "write the character itself, or its full escape")
_TOO_DEEP: Final = (f"more than {MAX_DEPTH} mappings and lists inside each other", "flatten the structure")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


# --- JSON ------------------------------------------------------------------------------------------------------------


_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


class _JsonReader:
    """JSON documents, one after the other. Errors of meaning carry the line on which their document starts."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source, self._index, self._line = text, source, 0, 1

    def read(self) -> Iterator[_Root]:
        """Raises json.JSONDecodeError where the text is not JSON."""
        decoder = json.JSONDecoder(
            object_pairs_hook=self._mapping,
            parse_int=lambda text: self._number(text, _integer),
            parse_float=lambda text: self._number(text, _real),
            parse_constant=lambda _: self._fail(*_BAD_NUMBER),
        )
        end = 0
        while (position := _after_space(self._text, end)) < len(self._text):
            self._index += 1
            self._line += self._text.count("\n", end, position)
            try:
                value, end = decoder.raw_decode(self._text, position)
            except RecursionError:
                self._fail(*_TOO_DEEP)
            self._check(value)
            yield _Root(value, self._index, self._line, {})
            self._line += self._text.count("\n", position, end)

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                self._fail(f"the key {_shown(key)} is given twice in one object", "remove one of them")
            mapping[key] = value
        return mapping

    def _number(self, text: str, read: Any) -> int | float:  # read: _integer or _real
        try:
            number: int | float = read(text)
        except ValueError:
            self._fail(*_BAD_NUMBER)
        return number

    def _check(self, value: object) -> None:
        waiting = [(value, 1)]
        while waiting:
            value, depth = waiting.pop()
            if isinstance(value, str) and not _is_unicode(value):
                self._fail(*_BAD_CHARACTER)
            if isinstance(value, dict | list) and depth > MAX_DEPTH:
                self._fail(*_TOO_DEEP)
            if isinstance(value, dict):
                waiting.extend((key, depth) for key in value)
                waiting.extend((item, depth + 1) for item in value.values())
            if isinstance(value, list):
                waiting.extend((item, depth + 1) for item in value)

    def _fail(self, problem: str, remedy: str) -> NoReturn:
        raise ManifestError(self._source, problem, remedy, index=self._index, line=self._line)


# --- YAML ------------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """A finished value: where it stands, what a copy of it costs, how deep it is, and whether it is the key `<<`."""

    value: Any  # str, bool, None, int, float, list or dict
    line: int
    cost: int
    depth: int = 0
    merge: bool = False


@dataclass
class _Frame:
    """A mapping or list being read."""

    value: dict[str, Any] | list[Any]
    line: int
    anchor: str | None
    lines: dict[str | int, int] = field(default_factory=dict)
    key: _Node | None = None
    merges: list[_Node] = field(default_factory=list)
    cost: int = _NODE_COST
    depth: int = 0


class _YamlReader:
    """Builds values from PyYAML's events.

    PyYAML's own composer recurses without bound, shares what an alias names, and takes the last of equal keys.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._index = 0
        self._lines: _Lines = {}
        self._anchors: dict[str, _Node] = {}
        self._stack: list[_Frame] = []
        self._root = _Node(None, 1, 0)
        self._copied = 0  # bytes that aliases have added

    def read(self, text: str) -> Iterator[_Root]:
        """Every document, empty ones included."""
        line = 1
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                line = event.start_mark.line + 1 if event.start_mark else line
                if isinstance(event, yaml.DocumentStartEvent):
                    self._index += 1
                    self._lines, self._anchors, self._root = {}, {}, _Node(None, line, 0)
                elif isinstance(event, yaml.DocumentEndEvent):
                    yield _Root(self._root.value, self._index, self._root.line, self._lines)
                else:
                    self._take(event, line)
        except ManifestError:
            raise
        except yaml.MarkedYAMLError as error:
            if error.problem_mark is not None:
                line = error.problem_mark.line + 1
            # Not str(error): that quotes the text, which may be a secret.
            problem = ", ".join(part for part in (error.context, error.problem) if part)
            remedy = "correct the YAML there or just before (indent with spaces; quote text that holds ': ' or ' #')"
            self._fail(line, f"not valid YAML: {problem}", remedy)
        except (yaml.YAMLError, ValueError, OverflowError):  # control characters; escapes beyond Unicode
            self._fail(line, "not valid YAML: a character that is not allowed", "remove control characters")

    def _take(self, event: Any, line: int) -> None:  # Any: PyYAML's events have no common typed base
        if isinstance(event, yaml.AliasEvent):
            self._add(self._copy(event.anchor, line))
        elif isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event, line), line, _NODE_COST + len(event.value))
            node.merge = event.value == "<<" and event.tag is None and event.implicit[0]
            self._finish(node, event.anchor)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            mapping = isinstance(event, yaml.MappingStartEvent)
            if event.tag not in (None, "!", f"{_TAG}map" if mapping else f"{_TAG}seq"):
                self._fail(line, f"the tag {_shown(event.tag)} is not known", "remove the tag")
            if len(self._stack) >= MAX_DEPTH:
                self._fail(line, *_TOO_DEEP)
            self._stack.append(_Frame({} if mapping else [], line, event.anchor))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            frame = self._stack.pop()
            self._merge(frame)
            self._lines[id(frame.value)] = frame.lines
            self._finish(_Node(frame.value, frame.line, frame.cost, frame.depth + 1), frame.anchor)

    def _finish(self, node: _Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        self._add(node)

    def _add(self, node: _Node) -> None:
        """Put a finished value where it belongs: the document, a list, a mapping's key or a mapping's value."""
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.cost += node.cost
        frame.depth = max(frame.depth, node.depth)
        if isinstance(frame.value, list):
            frame.lines[len(frame.value)] = node.line
            frame.value.append(node.value)
        elif frame.key is None:
            frame.key = node
            if not node.merge:
                self._note_key(frame, frame.value, node)
        elif frame.key.merge:
            frame.key = None
            frame.merges.append(node)
        else:
            frame.value[frame.key.value] = node.value
            frame.key = None

    def _note_key(self, frame: _Frame, mapping: dict[str, Any], node: _Node) -> None:
        """Make the key a string, as kubectl does, and refuse it if the mapping has it already."""
        if isinstance(node.value, dict | list | None):
            self._fail(
                node.line, f"a key is {_type(node.value)}", "a key must be a string; quote text that starts with { or ["
            )
        key = str(node.value).lower() if isinstance(node.value, bool) else str(node.value)
        if key in mapping:
            first = frame.lines[key]
            problem = f"the key {_shown(key)} is given twice in one mapping (first on line {first})"
            self._fail(node.line, problem, "remove one of them, or correct the indentation")
        frame.key = _Node(key, node.line, 0)
        frame.lines[key] = node.line

    def _merge(self, frame: _Frame) -> None:
        """Apply `<<`: keys written out win, then the earlier mapping."""
        for node in frame.merges:
            for mapping in node.value if isinstance(node.value, list) else [node.value]:
                if not isinstance(mapping, dict) or not isinstance(frame.value, dict):
                    self._fail(node.line, "<< does not name a mapping", "give it an alias of a mapping: <<: *name")
                for key, value in mapping.items():
                    frame.lines.setdefault(key, node.line)
                    frame.value.setdefault(key, value)

    def _copy(self, anchor: str | None, line: int) -> _Node:
        """What the alias names, as values of its own: a later change to one place must not reach the other."""
        anchor = anchor or ""  # for the type checker: an alias always has a name
        node = self._anchors.get(anchor)
        if node is None:
            remedy = f"define &{anchor} earlier in the same document, outside of what it contains"
            self._fail(line, f"the alias {_shown('*' + anchor)} names nothing", remedy)
        self._copied += node.cost
        if self._copied > MAX_BYTES:
            self._fail(line, f"aliases expand to more than {MAX_BYTES} bytes", "write the values out, or use fewer")
        if len(self._stack) + node.depth > MAX_DEPTH:
            self._fail(line, *_TOO_DEEP)
        return _Node(self._copy_value(node.value), line, node.cost, node.depth)

    def _copy_value(self, value: Any) -> Any:  # any value of a node
        copy: Any = value
        if isinstance(value, dict):
            copy = {key: self._copy_value(item) for key, item in value.items()}
        elif isinstance(value, list):
            copy = [self._copy_value(item) for item in value]
        if copy is not value:
            self._lines[id(copy)] = self._lines[id(value)]
        return copy

    def _scalar(self, event: Any, line: int) -> Any:  # a ScalarEvent; str, bool, None, int or float
        text, tag = event.value, event.tag
        if not _is_unicode(text):
            self._fail(line, *_BAD_CHARACTER)
        try:
            if tag is None:
                return _plain(text) if event.implicit[0] else text
            if tag in ("!", f"{_TAG}str", f"{_TAG}timestamp"):
                return text
            value = _plain(text)
        except ValueError:
            self._fail(line, *_BAD_NUMBER)
        wanted = _TAGGED.get(tag.removeprefix(_TAG))
        if wanted is None:
            self._fail(line, f"the tag {_shown(tag)} is not known", "remove the tag")
        if type(value) not in wanted:
            self._fail(line, f"the value does not fit its tag {_shown(tag)}", "remove the tag or correct the value")
        return value

    def _fail(self, line: int, problem: str, remedy: str) -> NoReturn:
        raise ManifestError(self._source, problem, remedy, index=max(self._index, 1), line=line) from None
