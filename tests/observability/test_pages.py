"""Dashboards, alerts, runbooks and the page of metrics name what there is, and all that there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .inventory import Family, families

ROOT = Path(__file__).resolve().parents[2]
DEPLOY, RUNBOOKS = ROOT / "deploy" / "observability", ROOT / "docs" / "runbooks"
DASHBOARDS = sorted((DEPLOY / "dashboards").glob("*.json"))
NAME = re.compile(r"\b(?:virtrigaud|apiserver)_[a-z0-9_]+\b")
MACROS = {"$__rate_interval": "5m", "$provider": ".*", "$instance": ".*", "$installation": ".*"}
"""What Grafana puts into a query before Prometheus sees it."""

Json = dict[str, Any]  # Any: JSON


@pytest.fixture(scope="session")
def known() -> dict[str, Family]:
    return families()


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker, which scripts/setup.sh test fetches."""
    own = ROOT / ".cache" / "tools" / "bin" / "promtool"
    found = str(own) if own.exists() else shutil.which("promtool")
    if found is None:
        message = "promtool is not there: scripts/setup.sh test fetches it from Debian's package prometheus"
        if os.environ.get("REQUIRE_REAL"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[Json]:
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(board: Path) -> list[Json]:
    found: list[Json] = json.loads(board.read_text())["panels"]
    return found


def queries(board: Path) -> Iterator[str]:
    """What a dashboard asks Prometheus, as Prometheus sees it."""
    for panel in panels(board):
        for target in panel.get("targets", []):
            if "expr" in target:
                text = target["expr"]
                for macro, value in MACROS.items():
                    text = text.replace(macro, value)
                yield text


def real(known: dict[str, Family]) -> set[str]:
    return {series for family in known.values() for series in family.series}


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_W74_the_page_lists_every_metric_as_it_is_registered(known: dict[str, Family]) -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (\w+) \| (.*?) \| (.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.M
    )
    told = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), tuple(services.split(", ")))
        for name, kind, labels, services in rows
    }
    assert told == {name: (each.kind, each.labels, each.services) for name, each in known.items()}


def test_names_follow_the_conventions(known: dict[str, Family]) -> None:
    """Base units, a unit at the end of what has one, and no label with as many values as there are machines."""
    for family in known.values():
        assert not re.search(r"(_ms|_millis|_minutes|_mib|_percent)(_|$)", family.name), family
        assert family.kind != "histogram" or family.name.endswith("_seconds"), family
        assert not {"vm", "name", "namespace", "uid", "machine", "trace_id"} & set(family.labels), family
        assert family.help, family


# -- dashboards --------------------------------------------------------------------------------------------------------


def test_there_are_the_dashboards_that_the_links_name() -> None:
    uids = {json.loads(board.read_text())["uid"] for board in DASHBOARDS}
    assert {board.stem for board in DASHBOARDS} == {"overview", "provider", "vm-timeline"}
    for board in DASHBOARDS:
        for link in json.loads(board.read_text())["links"]:
            assert link["url"].removeprefix("/d/") in uids, board.name


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.stem)
def test_W74_dashboards_name_real_metrics_only(board: Path, known: dict[str, Family]) -> None:
    named = {name for query in queries(board) for name in NAME.findall(query)}
    for variable in json.loads(board.read_text())["templating"]["list"]:
        named |= set(NAME.findall(str(variable.get("definition", ""))))
    assert named
    assert named - real(known) == set()


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.stem)
def test_dashboards_can_be_of_one_installation_among_several(board: Path, known: dict[str, Family]) -> None:
    """One Prometheus may hold several: what a controller tells is not added up over all of them unasked."""
    controllers = {
        series for family in known.values() if family.services == ("controller",) for series in family.series
    }
    asked = [target["expr"] for panel in panels(board) for target in panel.get("targets", []) if "expr" in target]
    for query in asked:
        for found in NAME.finditer(query):
            if found[0] in controllers:
                assert query[found.end() :].startswith('{namespace=~"$installation"'), query


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.stem)
def test_dashboards_show_what_happens_seldom(board: Path) -> None:
    """A quantile of one event in an hour is one point without a line to the next; and nothing is not an error."""
    for panel in panels(board):
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["custom"]["showPoints"] == "auto", panel["title"]
            assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.stem)
def test_dashboards_are_laid_out(board: Path) -> None:
    """No panel lies on another, each has a unit and a source that is a variable, and its runbook is there."""
    taken: set[tuple[int, int]] = set()
    variables = {variable["name"] for variable in json.loads(board.read_text())["templating"]["list"]}
    for panel in panels(board):
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] in ("stat", "timeseries"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        if "datasource" in panel:
            assert panel["datasource"]["uid"].strip("${}") in variables, panel["title"]
        for link in panel.get("links", []):
            assert (RUNBOOKS / link["url"].rpartition("/")[2]).exists(), panel["title"]


def test_every_query_parses(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"q:{board.stem.replace('-', '_')}:{number}", "expr": query}
        for board in DASHBOARDS
        for number, query in enumerate(queries(board))
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))


# -- alerts ------------------------------------------------------------------------------------------------------------


def test_P46_alerts_fire_when_they_shall_and_only_then(promtool: str) -> None:
    run(promtool, "check", "rules", "alerts.yaml")
    run(promtool, "test", "rules", "alerts_test.yaml")


def test_the_compose_stack_loads_the_alerts(promtool: str, tmp_path: Path) -> None:
    """What Prometheus would not start with, cases that lie beside the rules included."""
    config = (ROOT / "deploy" / "compose" / "prometheus.yml").read_text()
    mounted = config.replace("/etc/observability/", f"{DEPLOY}/")
    assert str(DEPLOY / "alerts") in mounted
    (tmp_path / "prometheus.yml").write_text(mounted)
    run(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


def test_P46_an_alert_that_cannot_fire_is_noticed(promtool: str, tmp_path: Path) -> None:
    """The check of the check: the same cases against a rule with a wrong threshold."""
    text = (DEPLOY / "alerts.yaml").read_text()
    bent = text.replace("virtrigaud_queue_age_seconds > 120", "virtrigaud_queue_age_seconds > 1e9")
    assert bent != text
    (tmp_path / "alerts.yaml").write_text(bent)
    shutil.copy(DEPLOY / "alerts_test.yaml", tmp_path)
    command = [promtool, "test", "rules", str(tmp_path / "alerts_test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "QueueOld" in done.stdout + done.stderr


def test_P46_each_alert_has_both_cases_and_names_real_metrics(known: dict[str, Family]) -> None:
    cases = yaml.safe_load((DEPLOY / "alerts_test.yaml").read_text())["tests"]
    expected: dict[str, set[bool]] = {}
    for case in cases:
        for each in case["alert_rule_test"]:
            expected.setdefault(each["alertname"], set()).add(bool(each["exp_alerts"]))
    assert expected == {alert["alert"]: {True, False} for alert in alerts()}
    for alert in alerts():
        names = set(NAME.findall(alert["expr"]))
        assert names, alert["alert"]
        assert names <= real(known), alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert alert["annotations"]["summary"], alert["alert"]
        assert alert["annotations"]["description"], alert["alert"]


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    named = {alert["annotations"]["runbook_url"]: alert["alert"] for alert in alerts()}
    pages = {f"docs/runbooks/{page.name}" for page in RUNBOOKS.glob("*.md") if page.name != "README.md"}
    assert pages == set(named)
    assert len(named) == len(alerts())
    for url, alert in named.items():
        text = (ROOT / url).read_text()
        assert text.startswith(f"# {alert}\n"), url
        for part in ("## What it means", "## What is affected", "## How to look", "## What to do"):
            assert part in text, url
        assert "```" in text, url


def commands() -> dict[str, str]:
    """What the runbooks tell people to type, by command."""
    pages = {page.name: page.read_text() for page in sorted(RUNBOOKS.glob("*.md"))}
    return {line: name for name, text in pages.items() for line in re.findall(r"^\$ (.*)$", text, re.M)}


def test_W74_runbooks_ask_for_what_the_chart_installs() -> None:
    """Its controllers by a label that they have, whatever the release is called, and the Lease by its name."""
    deployed = yaml.safe_load_all((ROOT / "deploy" / "kustomize" / "base" / "virtrigaud.yaml").read_text())
    [deployment] = [body for body in deployed if body["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]
    labels = {f"{name}={value}" for name, value in pod["metadata"]["labels"].items()}
    asked = {name for line in commands() for name in re.findall(r" -l (\S+)", line)}
    assert asked
    assert asked <= labels
    for line, page in commands().items():
        for name in re.findall(r"\bdeploy/(\S+)", line):
            assert name in ("virtrigaud-provider-NAME", "crds"), f"{page}: {line}"  # a Provider's server; a folder
        assert "lease" not in line.lower() or "app.kubernetes.io/name=virtrigaud-controller" in line, f"{page}: {line}"


def test_runbooks_look_for_events_that_are_logged() -> None:
    """A word after grep, beside `kubectl logs`, is an event or the beginning of one."""
    source = "".join(path.read_text() for path in ROOT.glob("*/*/src/**/*.py"))
    logged = set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)+)"', source))
    for line, page in commands().items():
        if line.startswith("kubectl logs") and "| grep" in line:
            for word in re.sub(r"-E|'", "", line.partition("| grep ")[2]).strip().split("|"):
                assert any(f"{event}.".startswith(f"{word}.") for event in logged), f"{page}: {word}"
