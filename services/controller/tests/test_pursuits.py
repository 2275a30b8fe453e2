"""How pursuits end. With spans, in a process of its own: a tracer provider can be set but once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from common import tracing
from common.clock import ManualClock
from controller.metrics import Metrics
from controller.pursuits import Pursuits
from controller.worker import Key
from kinds.metadata import Condition, ObjectMeta
from kinds.virtualmachine import VirtualMachine, VirtualMachineSpec, VirtualMachineStatus
from kinds.shared import ObjectRef
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

KEY, exporter, registry = Key("VirtualMachine", "shop", "web"), InMemorySpanExporter(), CollectorRegistry()
known = {{}}
pursuits = Pursuits(ManualClock(), Metrics(registry), None, known.get)

def put(generation, version, ready=False):
    status = VirtualMachineStatus()
    if ready:
        told = Condition(type="Ready", status="True", reason="Ready", message="", last_transition_time="")
        status = VirtualMachineStatus(observed_generation=generation, conditions=[told])
    meta = ObjectMeta(name="web", namespace="shop", uid="u", generation=generation, resource_version=version)
    spec = VirtualMachineSpec(provider_ref=ObjectRef(name="p"), class_ref=ObjectRef(name="c"))
    known[KEY] = VirtualMachine(metadata=meta, spec=spec, status=status)

def remove():
    del known[KEY]
    pursuits.gone(KEY)

with tracing.setup("test", None, processors=[SimpleSpanProcessor(exporter)]):
    {steps}

count = registry.get_sample_value(
    "virtrigaud_time_to_ready_seconds_count", {{"kind": "VirtualMachine", "cause": "spec"}}
)
outcomes = [(s.name, s.attributes["k8s.generation"], s.attributes["outcome"]) for s in exporter.get_finished_spans()]
print(json.dumps([outcomes, count or 0]))
"""


def run(*steps: str) -> tuple[list[list[object]], int]:
    """Roots that were written (name, generation, outcome), and how many pursuits of a change came to Ready."""
    program = PROGRAM.format(steps="\n    ".join(steps))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    spans, count = json.loads(done.stdout)
    return spans, count


LOOK = "with pursuits.look(KEY): pass"


@pytest.mark.parametrize(
    ("steps", "roots", "ready"),
    [
        (["put(1, '1')", LOOK, "with pursuits.look(KEY): put(1, '2', ready=True)"], [[1, "ready"]], 1),
        (["put(1, '1')", LOOK, "remove()", LOOK], [[1, "gone"]], 0),
        (["put(1, '1')", "with pursuits.look(KEY): remove()"], [[1, "gone"]], 0),
        (["put(1, '1')", LOOK, "put(2, '2')", LOOK, "remove()"], [[1, "superseded"], [2, "gone"]], 0),
    ],
    ids=["ready", "removed after its last look", "removed in the middle of a look", "edited on the way"],
)
def test_each_pursuit_ends_once_and_leaves_nothing_behind(
    steps: list[str], roots: list[list[object]], ready: int
) -> None:
    spans, count = run(*steps, "assert not pursuits._open")
    assert spans == [["spec VirtualMachine", *root] for root in roots]
    assert count == ready
