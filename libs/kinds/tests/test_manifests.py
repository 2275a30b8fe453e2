"""Manifests: what loads, what is refused and how the refusal reads."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from kinds import manifests
from kinds.manifests import ManifestError

HEAD = "apiVersion: infra.virtrigaud.io/v1beta1\nkind: VirtualMachine\nmetadata: {name: web, namespace: shop}\n"


def refusal(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        manifests.load(text, "vm.yaml")
    return caught.value


def value_of(text: str) -> Any:
    """What `text` means as the value of spec.x."""
    return manifests.load(f"{HEAD}spec:\n  x: {text}\n").documents[0].raw["spec"]["x"]


def test_documents_come_in_order_with_their_places() -> None:
    text = f"# shop\n---\n{HEAD}---\n# nothing here\n---\n{HEAD.replace('web', 'db').replace(', namespace: shop', '')}"
    loaded = manifests.load(text, "vm.yaml")
    assert [(d.index, d.line, d.namespace, d.name) for d in loaded.documents] == [
        (1, 3, "shop", "web"),
        (3, 9, None, "db"),
    ]
    first = loaded.documents[0]
    assert (first.source, first.api_version, first.kind) == ("vm.yaml", "infra.virtrigaud.io/v1beta1", "VirtualMachine")
    assert first.raw["metadata"] == {"name": "web", "namespace": "shop"}
    assert loaded.warnings == []


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n---\n", "\ufeff", "null\n"])
def test_an_empty_source_holds_nothing(text: str) -> None:
    assert manifests.load(text) == manifests.Loaded([], [])


def test_json_loads_also_several_in_a_row_and_between_dashes() -> None:
    one = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}, indent=1)
    two = one.replace('"a"', '"b"')
    for text in (f"{one}\n{two}", f"{one}\n---\n{two}"):
        loaded = manifests.load(text)
        assert [(d.index, d.name) for d in loaded.documents] == [(1, "a"), (2, "b")]
        assert [d.line for d in loaded.documents] == [1, text.index(two) and text[: text.index(two)].count("\n") + 1]


def test_lists_are_taken_apart_in_order() -> None:
    text = textwrap.dedent("""\
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Secret, metadata: {name: a}}
        - apiVersion: infra.virtrigaud.io/v1beta1
          kind: VirtualMachineList
          items:
          - metadata: {name: b}
        - {apiVersion: v1, kind: Secret, metadata: {name: c}}
        """)
    found = [(d.kind, d.name, d.index, d.line) for d in manifests.load(text).documents]
    assert found == [("Secret", "a", 1, 4), ("VirtualMachine", "b", 1, 8), ("Secret", "c", 1, 9)]
    assert manifests.load(text).documents[1].api_version == "infra.virtrigaud.io/v1beta1"


def test_an_empty_list_holds_nothing_and_a_kind_may_end_in_list() -> None:
    assert manifests.load("apiVersion: v1\nkind: List\n").documents == []
    assert manifests.load("apiVersion: x/v1\nkind: AllowList\nmetadata: {name: a}").documents[0].kind == "AllowList"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: b: c\n", 1, "not valid YAML: mapping values are not allowed in this context"),
        ("a:\n\t- b\n", 2, "indent with spaces"),
        ("a: [1\n", 2, "not valid YAML"),
        ("a: b\x07\n", 1, "a character that is not allowed"),
        ("\n- 1\n", 2, "it is a list, not a mapping"),
        ("just words\n", 1, "it is a string, not a mapping"),
        ("kind: VirtualMachine\nmetadata: {name: a}\n", 1, "apiVersion is missing"),
        ("apiVersion: v1\nmetadata: {name: a}\n", 1, "kind is missing"),
        ("apiVersion: v1\nkind:\nmetadata: {name: a}\n", 2, "kind is missing"),
        ("apiVersion: 1\nkind: Secret\nmetadata: {name: a}\n", 1, "apiVersion is a number, not a string; put"),
        ("\napiVersion: v1\nkind: Secret\n", 2, "metadata.name is missing; add it, for example name: web"),
        ("apiVersion: v1\nkind: Secret\nmetadata: web\n", 3, "metadata is a string, not a mapping"),
        ("apiVersion: v1\nkind: Secret\nmetadata:\n  name: 12\n", 4, "metadata.name is a number, not a string"),
        ("apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  namespace: on\n", 5, "metadata.namespace is a boolean"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {generateName: a-}\n",
            3,
            "generateName makes a new object each time",
        ),
        ("apiVersion: v1\nkind: List\nitems: {}\n", 3, "items is a mapping, not a list"),
        ("apiVersion: v1\nkind: List\nitems:\n- 1\n", 4, "items[0] is a number, not a mapping"),
        ("apiVersion: v1\nkind: List\nitems:\n- {}\n- 1\n", 4, "items[0].apiVersion is missing"),
        (f"{HEAD}spec:\n  a: 1\n  b: 2\n  a: 3\n", 7, 'the key "a" is given twice in one mapping (first on line 5)'),
        (f"{HEAD}kind: Provider\n", 4, 'the key "kind" is given twice'),
        (f"{HEAD}spec:\n  ? [a]\n  : 1\n", 5, "a key is a list"),
        ("a: {{ .Values.x }}\n", 1, "a key is a mapping; a key must be a string; quote text that starts with {"),
        (f"{HEAD}spec: *x\n", 4, 'the alias "*x" names nothing; define &x earlier'),
        (f"{HEAD}spec: &x [*x]\n", 4, 'the alias "*x" names nothing'),
        (f"{HEAD}spec: {{<<: 1}}\n", 4, "<< does not name a mapping"),
        (f"{HEAD}spec: !!python/name:os.system x\n", 4, "is not known; remove the tag"),
        (f"{HEAD}spec: !!set {{a}}\n", 4, "is not known; remove the tag"),
        (f"{HEAD}spec: !!int x\n", 4, "does not fit its tag"),
        (f"{HEAD}spec: .inf\n", 4, "a number is too large to be exact, or not finite"),
        (f"{HEAD}spec: {'9' * 5000}\n", 4, "too large to be exact"),
        ('\n{"a": 1,,}', 2, "not valid JSON"),
        ('{"kind": "A",\n "kind": "B"}', 1, 'the key "kind" is given twice in one object'),
        ('{"a": NaN}', 1, "not finite"),
        ('{"a": 1e999}', 1, "not finite"),
        ('{"a": "\\ud800"}', 1, "half a surrogate pair"),
        ("a: b\nc: \ud800\n", 2, "not valid UTF-8"),
        ("[" * 5000, 1, "more than 100 mappings and lists"),
        ('{"a":' * 5000 + "1" + "}" * 5000, 1, "more than 100 mappings and lists"),
        ('{"a":' * 150 + "1" + "}" * 150, 1, "more than 100 mappings and lists"),
    ],
    ids=lambda value: None if isinstance(value, int) else ascii(value)[:40],
)
def test_what_is_wrong_is_said_with_its_place_and_a_remedy(text: str, line: int, says: str) -> None:
    error = refusal(text)
    assert says in str(error)
    assert str(error).startswith(f"vm.yaml:{line}: ")
    assert (error.source, error.line) == ("vm.yaml", line)
    assert error.problem
    assert error.remedy


def test_the_document_of_an_error_is_counted_from_one() -> None:
    error = refusal(f"{HEAD}---\n{HEAD}---\nkind: X\n")
    assert (error.index, error.line) == (3, 9)
    assert "vm.yaml:9: document 3: apiVersion is missing" in str(error)


def test_an_error_never_quotes_a_value() -> None:
    for text in (
        "stringData:\n  password: hunter2: x\n",
        "data: {password: hunter2\n",
        '{"password": "hunter2',
        "p: !!int hunter2",
    ):
        assert "hunter2" not in str(refusal(text))


def test_a_source_above_3_mib_is_refused() -> None:
    assert "more than the 3145728 that are read; split it" in str(refusal("#" * (3 * 2**20 + 1)))
    assert manifests.load("#" * (3 * 2**20)).documents == []


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("10.0.0.1", "10.0.0.1"),
        ("4Gi", "4Gi"),
        ("0755", 493),
        ("0x1F", 31),
        ("08", 8),
        ("1_000", 1000),
        ("-7", -7),
        ("1e3", 1000),
        ("1.5", 1.5),
        ("2.0", 2),
        ("18446744073709551615", 2**64 - 1),
        ("yes", True),
        ("OFF", False),
        ("y", "y"),
        ("~", None),
        ("", None),
        ("'on'", "on"),
        ('"12"', "12"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!float 3", 3),
        ("{1: a, on: b, '<<': c}", {"1": "a", "true": "b", "<<": "c"}),
    ],
)
def test_plain_scalars_mean_what_they_mean_to_kubectl(text: str, want: object) -> None:
    value = value_of(text)
    assert value == want
    assert type(value) is type(want)


def test_an_alias_is_a_copy_and_a_merge_keeps_what_is_written_out() -> None:
    spec = (
        manifests.load(
            f"{HEAD}spec:\n  a: &a {{x: 1, y: [2]}}\n  b: *a\n  c: {{<<: *a, x: 3}}\n  d: {{<<: [{{x: 4}}, *a]}}\n"
        )
        .documents[0]
        .raw["spec"]
    )
    assert spec["b"] == {"x": 1, "y": [2]}
    assert spec["c"] == {"x": 3, "y": [2]}
    assert spec["d"] == {"x": 4, "y": [2]}
    spec["a"]["y"].append(5)
    assert spec["b"]["y"] == spec["c"]["y"] == spec["d"]["y"] == [2]


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert "aliases expand to more than 3145728 bytes" in str(refusal("\n".join(lines)))


def test_aliases_cannot_build_what_is_too_deep() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 150)]
    assert "more than 100 mappings and lists" in str(refusal("\n".join(lines)))


def test_a_boolean_power_state_becomes_the_word_with_a_warning() -> None:
    loaded = manifests.load(f"{HEAD}spec:\n  powerState: Off\n", "vm.yaml")
    assert loaded.documents[0].raw["spec"] == {"powerState": "Off"}
    assert loaded.warnings == [
        "vm.yaml:5: VirtualMachine web: spec.powerState is the boolean false (YAML reads an unquoted Off so); "
        'taken as "Off"; put it in quotes: powerState: "Off"'
    ]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("VMSet", ["template", "spec"]),
        ("VMMigration", ["target"]),
        ("VMClone", ["target", "spec"]),
        ("VMClone", ["customization"]),
    ],
)
def test_nested_power_states_are_found(kind: str, path: list[str]) -> None:
    inner: dict[str, Any] = {"powerState": True}
    for key in reversed(path):
        inner = {key: inner}
    raw = {"apiVersion": "infra.virtrigaud.io/v1beta1", "kind": kind, "metadata": {"name": "a"}, "spec": inner}
    loaded = manifests.load(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [raw]}), "all.yaml")
    found: Any = loaded.documents[0].raw["spec"]
    for key in path:
        found = found[key]
    assert found == {"powerState": "On"}
    (warning,) = loaded.warnings
    assert f"{kind} a: spec.{'.'.join(path)}.powerState is the boolean true" in warning


def test_a_power_state_behind_an_alias_is_coerced_too() -> None:
    loaded = manifests.load(f"{HEAD}spec:\n  a: &a {{powerState: On}}\n  b: *a\n  c:\n  - <<: *a\n", "f")
    assert loaded.documents[0].raw["spec"] == {
        "a": {"powerState": "On"},
        "b": {"powerState": "On"},
        "c": [{"powerState": "On"}],
    }
    assert [warning.split(" ")[0] for warning in loaded.warnings] == ["f:5:", "f:5:", "f:8:"]


@pytest.mark.parametrize(
    "text",
    [
        f'{HEAD}spec:\n  powerState: "On"\n',
        f"{HEAD}spec:\n  template: {{metadata: {{labels: {{powerState: on}}}}}}\n",
        f"{HEAD}status:\n  powerState: on\n",
        "apiVersion: other/v1\nkind: Lamp\nmetadata: {name: a}\nspec: {powerState: on}\n",
    ],
)
def test_other_values_are_left_alone(text: str) -> None:
    loaded = manifests.load(text)
    assert loaded.warnings == []
    assert loaded.documents[0].raw == yaml.safe_load(text)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ANY_CHARACTER = st.characters(categories=["L", "N", "P", "S", "Z", "C"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
STRUCTURE = (
    "a: ",
    "- ",
    "? ",
    "  ",
    "\n",
    "---\n",
    "...\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    '"',
    "'",
    "|\n",
    ">-\n",
    "#",
    "\t",
)
ODDITIES = ("&a ", "*a ", "<<: ", "!!int ", "!!set ", "!x ", "! ", "%YAML 1.1\n", "0x", "1e9", ".inf", "on", "9" * 5000)
CHARACTERS = ("\\ud800", "\\U00110000", "\x00", "\ufeff", "\u2028")
OBJECTS = ("apiVersion: v1\n", "kind: List\n", "items:\n", "metadata: {name: a}\n", '{"a": ')
PIECES = st.sampled_from(STRUCTURE + ODDITIES + CHARACTERS + OBJECTS)


@given(
    st.text(ANY_CHARACTER) | st.lists(PIECES, max_size=30).map("".join) | st.binary().map(lambda b: b.decode("latin-1"))
)
@example("{" * 100_000)
@example('{"a":[' * 100_000)
@example("\ud800")
def test_no_text_raises_anything_but_manifest_error(text: str) -> None:
    try:
        outcome: object = manifests.load(text)
    except ManifestError as error:
        outcome = error
    assert isinstance(outcome, manifests.Loaded | ManifestError)


class Quoting(yaml.SafeDumper):
    """Quotes all text: PyYAML by itself leaves text such as 1e3 bare, which kubectl reads as a number."""

    def ignore_aliases(self, data: object) -> bool:
        return True


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.sampled_from(["json", "yaml", "flow"]))
def test_what_was_written_is_what_is_loaded(spec: dict[str, Any], form: str) -> None:
    raw = {"apiVersion": "other/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec}
    text = json.dumps(raw) if form == "json" else yaml.dump(raw, Dumper=Quoting, default_flow_style=form == "flow")
    (document,) = manifests.load(text).documents
    assert document.raw == raw


@given(VALUES, st.integers(0, 200), st.text(max_size=3))
def test_a_damaged_manifest_loads_or_is_refused(value: object, cut: int, put: str) -> None:
    whole = HEAD + yaml.safe_dump({"spec": value})
    text = whole[:cut] + put + whole[cut + 1 :]
    try:
        documents = manifests.load(text).documents
    except ManifestError:
        documents = []
    assert all(d.api_version and d.kind and d.name for d in documents)
