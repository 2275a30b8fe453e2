"""What a user sees of the commands that speak to the API server alone: text, codes, and the cure."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from vrtg.__main__ import COMMANDS, build
from vrtg.api import Api
from vrtg.commands.demo import our_name
from vrtg.home import Home
from vrtg.kinds_table import VM_CLASS
from vrtg.kubeconfig import choose

Vrtg = Callable[..., Any]  # Any: the Ran of conftest.py
CLASS = "apiVersion: infra.virtrigaud.io/v1beta1\nkind: VMClass\nmetadata: {name: %s}\nspec: {cpu: %d, memory: 1Gi}\n"


@pytest.fixture
def classes(vrtg: Vrtg) -> Iterator[None]:
    assert vrtg("apply", "-f", "-", stdin=CLASS % ("one", 1) + "---\n" + CLASS % ("two", 2)).code == 0
    yield
    vrtg("delete", "class", "--all")


@pytest.mark.usefixtures("classes")
def test_get_prints_the_server_s_table_in_every_form(vrtg: Vrtg) -> None:
    lines = vrtg("get", "class").out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "CPU", "MEMORY"]
    assert [line.split()[:2] for line in lines[1:]] == [["one", "1"], ["two", "2"]]
    assert vrtg("get", "class", "-A").out.startswith("NAMESPACE")
    assert vrtg("get", "class", "-o", "name").out.splitlines()[0] == "vmclass.infra.virtrigaud.io/one"
    assert json.loads(vrtg("get", "class", "two", "-o", "json").out)["spec"]["cpu"] == 2
    assert "managedFields" not in vrtg("get", "class", "-o", "yaml").out
    assert "\x1b" not in vrtg("get", "class").out


EVENT = """
apiVersion: v1
kind: Event
metadata: {name: told, namespace: default, annotations: {virtrigaud.io/trace-id: %s}}
involvedObject: {kind: VMClass, namespace: default, name: one, uid: %s}
type: Normal
reason: Changed
message: it is larger now
"""


@pytest.mark.usefixtures("classes")
def test_describe_names_the_traces_of_an_object(vrtg: Vrtg) -> None:
    """Whoever has it finds the change in the logs of every process, and in the traces if somebody keeps them."""
    assert vrtg("apply", "-f", "-", stdin=CLASS % ("one", 4)).code == 0
    meta = json.loads(vrtg("get", "class", "one", "-o", "json").out)["metadata"]
    older, newer = (hashlib.sha256(f"{meta['uid']}\0{number}".encode()).hexdigest()[:32] for number in (1, 2))
    text = vrtg("describe", "class", "one").out
    assert f"Trace:            {newer} (generation 2, the last change)" in text
    assert "TRACE" not in text, "no Event tells of one"
    assert vrtg("apply", "-f", "-", stdin=EVENT % (older, meta["uid"])).code == 0
    events = vrtg("describe", "class", "one").out.partition("Events:")[2].splitlines()
    assert events[1].split() == ["TYPE", "REASON", "AGE", "COUNT", "TRACE", "MESSAGE"]
    assert events[2].split()[-5:] == [older, "it", "is", "larger", "now"]


@pytest.mark.usefixtures("classes")
def test_describe_goes_on_with_a_users_trace_as_the_controller_does(vrtg: Vrtg) -> None:
    theirs = "0af7651916cd43dd8448eb211c80319c"
    wanted = CLASS.replace("{name: %s}", "{name: %s, annotations: {virtrigaud.io/traceparent: %s}}")
    for traceparent, shown in ((f"00-{theirs}-b7ad6b7169203331-01", True), ("nonsense", False)):
        assert vrtg("apply", "-f", "-", stdin=wanted % ("one", traceparent, 4)).code == 0
        line = next(each for each in vrtg("describe", "class", "one").out.splitlines() if each.startswith("Trace:"))
        assert (theirs in line) is shown


@pytest.mark.usefixtures("classes")
def test_describe_says_of_which_generation_a_condition_is(vrtg: Vrtg, kubeconfig: Path) -> None:
    """A condition that nobody has looked after since the last change is not about it."""
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "all is well",
        "observedGeneration": 1,
    }
    api = Api(choose(Home(Path("/nonexistent")), str(kubeconfig), None))
    told = {"status": {"conditions": [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
    status = replace(VM_CLASS, plural="vmclasses/one/status")
    api._call("PUT", api.path(status, "default"), body=api.get(VM_CLASS, "one", "default") | told)
    api.close()
    assert "(of generation" not in vrtg("describe", "class", "one").out
    assert vrtg("apply", "-f", "-", stdin=CLASS % ("one", 4)).code == 0
    assert "(of generation 1) all is well" in vrtg("describe", "class", "one").out


@pytest.mark.usefixtures("classes")
def test_apply_says_what_it_did_and_removed_fields_go(vrtg: Vrtg) -> None:
    """As kubectl: what was taken out of the file is taken out of the object."""
    longer = CLASS % ("one", 1) + ""
    assert "unchanged" in vrtg("apply", "-f", "-", stdin=longer).out
    labelled = longer.replace("{name: one}", "{name: one, labels: {a: b}}")
    assert "configured" in vrtg("apply", "-f", "-", stdin=labelled).out
    vrtg("apply", "-f", "-", stdin=longer)
    assert "labels" not in json.loads(vrtg("get", "class", "one", "-o", "json").out)["metadata"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("get", "class", "nope"), 3, "nope"),
        (("get", "frobs"), 2, 'no resource "frobs"'),
        (("get",), 2, "vrtg get --help"),
        (("get", "vm", "--frob"), 2, "--frob"),
        (("frob",), 2, 'Unknown command "frob": see `vrtg --help`'),
        (("get", "vm", "a", "-A"), 2, "-A"),
        (("delete", "vm"), 2, "--all"),
        (("delete", "vm", "nope"), 3, "nope"),
        (("describe", "vm", "nope"), 3, "nope"),
        (("power", "nope", "on"), 3, "there is none"),
        (("apply", "-f", "/nope.yaml"), 3, "/nope.yaml"),
        (("plan", "-f", "/nope.yaml"), 3, "/nope.yaml"),
        (("get", "vm", "--context", "nope"), 2, "known: test"),
        (("get", "vm", "--kubeconfig", "/nope"), 2, "/nope"),
        (("logs",), 3, "no log of controller"),
        (("logs", "--tail", "-1"), 2, "--tail"),
    ],
)
def test_failures_are_one_sentence_and_a_code(vrtg: Vrtg, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    ran = vrtg(*arguments)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert ran.err.startswith("error: ")
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1


def test_an_api_server_that_is_away_is_named_with_the_cure(vrtg: Vrtg, tmp_path: Path, kubeconfig: Path) -> None:
    text = kubeconfig.read_text()
    away = tmp_path / "away"
    port = text.partition("127.0.0.1:")[2].partition('"')[0]
    ca = str(kubeconfig.parent / "ca.crt")
    away.write_text(text.replace(f"127.0.0.1:{port}", "127.0.0.1:1").replace("ca.crt", ca))
    ran = vrtg("get", "vm", environment={"KUBECONFIG": str(away)})
    assert ran.code == 4
    assert "127.0.0.1:1" in ran.err
    nothing = vrtg("get", "vm", environment={"KUBECONFIG": "", "HOME": str(tmp_path)})
    assert nothing.code == 4
    assert "vrtg up" in nothing.err


def test_a_wrong_token_and_an_unknown_authority_are_told_apart(vrtg: Vrtg, tmp_path: Path, kubeconfig: Path) -> None:
    text = kubeconfig.read_text().replace("ca.crt", str(kubeconfig.parent / "ca.crt"))
    (tmp_path / "token").write_text(text.replace("t0ken", "wrong"))
    (tmp_path / "ca").write_text(text.replace(f", certificate-authority: {kubeconfig.parent / 'ca.crt'}", ""))
    refused = vrtg("get", "vm", environment={"KUBECONFIG": str(tmp_path / "token")})
    assert refused.code == 5
    assert "credentials" in refused.err
    assert "wrong" not in refused.err, "a token is a secret"
    untrusted = vrtg("get", "vm", environment={"KUBECONFIG": str(tmp_path / "ca")})
    assert untrusted.code == 1
    assert "certificate-authority" in untrusted.err


def test_a_reader_that_leaves_early_is_no_error(kubeconfig: Path, home: Path) -> None:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "VIRTRIGAUD_HOME": str(home)}
    command = f"{sys.executable} -m vrtg get ns -o yaml | head -n 1"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=True)
    assert (ran.stdout, ran.stderr) == ("apiVersion: v1\n", "")


@pytest.mark.parametrize("command", [name for group in COMMANDS.values() for name in group])
def test_W72_P31_every_command_is_there_and_explains_itself(command: str) -> None:
    """A command that is listed exists, has a parameter for each option it names, and a sentence on what it does."""
    app = build()[command]
    assert app.default_command is not None
    assert app.default_command.__module__.startswith("vrtg.commands.")
    assert app.default_command.__doc__
    assert app.help


def test_W72_the_version_is_the_package_s(vrtg: Vrtg) -> None:
    assert vrtg("--version").out.strip() == f"vrtg {version('virtrigaud-cli')}"


def test_demo_names_itself_as_people_can_type_it() -> None:
    here = Path("/home/me/virtrigaud")
    assert our_name(here / ".venv/bin/vrtg", here) == ".venv/bin/vrtg"
    assert our_name(Path("/usr/local/bin/vrtg"), here) == "vrtg"
