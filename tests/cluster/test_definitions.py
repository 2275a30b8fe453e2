"""A cluster takes our definitions and our examples, and holds to our rules."""

from __future__ import annotations

import json

import pytest
from e2e.stack import ROOT, SHARED, machine

from .stack import ClusterStack

EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir())


def test_every_kind_is_served_and_its_schema_has_no_fault(stack: ClusterStack) -> None:
    every = json.loads(stack.kubectl("get", "crd", "-o", "json"))["items"]
    crds = [crd for crd in every if crd["spec"]["group"] == "infra.virtrigaud.io"]  # other tests leave theirs
    assert len(crds) == len(list((ROOT / "deploy" / "crds").glob("*.yaml")))
    for crd in crds:
        conditions = {each["type"]: each["status"] for each in crd["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}, crd["metadata"]["name"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_W74_the_examples_are_valid(stack: ClusterStack, example: str) -> None:
    said = stack.kubectl("apply", "--dry-run=server", "-f", str(ROOT / "examples" / example))
    assert "created (server dry run)" in said or "configured (server dry run)" in said


def test_W8_P33_a_machine_stays_with_the_provider_that_made_it(stack: ClusterStack, namespace: str) -> None:
    stack.apply(machine("box", namespace, powerState="Off"))
    stack.wait("vm", "box", "jsonpath={.status.id}", namespace)
    for other in ({"name": "other"}, {"namespace": namespace}, {"namespace": None}):
        patch = json.dumps({"spec": {"providerRef": other}})
        said = stack.refused("patch", "vm", "box", "-n", namespace, "--type=merge", "-p", patch)
        assert "the machine was made on this provider" in said
    same = json.dumps({"spec": {"providerRef": {"name": "local", "namespace": SHARED}}})
    stack.kubectl("patch", "vm", "box", "-n", namespace, "--type=merge", "-p", same)
