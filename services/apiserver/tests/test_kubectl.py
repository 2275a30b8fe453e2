"""The real kubectl against a real server process, verb by verb."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.e2e
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {a: '1', b: '2'}\n"


def manifest(name: str = "w1", labels: dict[str, str] | None = None, **spec: Any) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "test.virtrigaud.io/v1",
            "kind": "Widget",
            "metadata": {"name": name, **({"labels": labels} if labels else {})},
            "spec": {"cpu": 2, **spec},
        }
    )


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_apply_is_three_way(kubectl):
    """Client-side apply removes what left the manifest and keeps what others added."""
    assert "created" in kubectl("apply", "-f", "-", stdin=CONFIG_MAP)
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=CONFIG_MAP)
    kubectl("patch", "cm", "cm", "-p", '{"data":{"c":"3"}}')
    assert "configured" in kubectl("apply", "-f", "-", stdin=CONFIG_MAP.replace("b: '2'", "d: '4'"))
    assert kubectl.json("get", "cm", "cm")["data"] == {"a": "1", "c": "3", "d": "4"}


def test_apply_of_a_custom_resource(kubectl):
    assert "created" in kubectl("apply", "-f", "-", stdin=manifest())
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=manifest())
    kubectl("apply", "-f", "-", stdin=manifest(disks=[{"name": "root", "size": 1}]))
    before = kubectl.json("get", "widget", "w1")
    kubectl("apply", "-f", "-", stdin=manifest(disks=[{"name": "root", "size": 1}]))
    assert kubectl.json("get", "widget", "w1") == before  # kubectl sends the list again: defaults made it differ
    kubectl("apply", "-f", "-", stdin=manifest(cpu=4, disks=[{"name": "root", "size": 2}, {"name": "data"}]))
    spec = kubectl.json("get", "widget", "w1")["spec"]
    assert (spec["cpu"], spec["power"]) == (4, "On")
    assert [d["name"] for d in spec["disks"]] == ["root", "data"]


def test_server_side_apply(kubectl):
    kubectl("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=manifest())
    refused = kubectl.fails("apply", "--server-side", "--field-manager=two", "-f", "-", stdin=manifest(cpu=3))
    assert 'conflict with "one": .spec.cpu' in refused
    forced = ("apply", "--server-side", "--force-conflicts", "--field-manager=two", "-f", "-")
    kubectl(*forced, stdin=manifest(cpu=3))
    shown = kubectl.json("get", "widget", "w1", "--show-managed-fields")
    managers = {m["manager"]: m["fieldsV1"] for m in shown["metadata"]["managedFields"]}
    assert "f:cpu" in managers["two"]["f:spec"]
    assert "f:cpu" not in managers.get("one", {}).get("f:spec", {})


def test_from_client_side_to_server_side(kubectl):
    kubectl("apply", "-f", "-", stdin=CONFIG_MAP)
    kubectl("apply", "--server-side", "-f", "-", stdin=CONFIG_MAP.replace(", b: '2'", ""))
    assert kubectl.json("get", "cm", "cm")["data"] == {"a": "1"}


def test_apply_says_what_is_wrong(kubectl):
    text = kubectl.fails("apply", "-f", "-", stdin=manifest(cpu=0))
    assert 'The Widget "w1" is invalid' in text
    assert "spec.cpu: Invalid value: 0: spec.cpu in body should be greater than or equal to 1" in text
    text = kubectl.fails("apply", "-f", "-", stdin=manifest(bogus=1))
    assert 'unknown field "spec.bogus"' in text
    done = kubectl.run("apply", "--validate=warn", "-f", "-", stdin=manifest(bogus=1))
    assert 'Warning: unknown field "spec.bogus"' in done.stderr
    text = kubectl.fails("apply", "-f", "-", stdin=manifest(cpu=40))
    assert "too many CPUs for a running widget" in text


def test_immutable_by_rule(kubectl):
    kubectl("create", "-f", "-", stdin=manifest(image="a"))
    text = kubectl.fails("patch", "widget", "w1", "--type=merge", "-p", '{"spec":{"image":"b"}}')
    assert "image is immutable" in text


def test_create(kubectl):
    kubectl("create", "configmap", "cm", "--from-literal=a=1")
    kubectl("create", "secret", "generic", "s", "--from-literal=password=hunter2")
    kubectl("create", "serviceaccount", "robot")
    assert kubectl.json("get", "secret", "s")["data"] == {"password": "aHVudGVyMg=="}
    assert "already exists" in kubectl.fails("create", "configmap", "cm")
    made = kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=manifest("dry"))
    assert made.strip() == "widget.test.virtrigaud.io/dry"
    assert "NotFound" in kubectl.fails("get", "widget", "dry")


def test_get(kubectl):
    kubectl("create", "-f", "-", stdin=manifest("w1", {"tier": "web"}))
    kubectl("create", "-f", "-", stdin=manifest("w2", {"tier": "db"}, cpu=8))
    head, first, second = lines(kubectl("get", "widgets"))
    assert head == ["NAME", "CPU", "READY", "AGE"]
    assert (first[:2], second[:2]) == (["w1", "2"], ["w2", "8"])
    assert "HOST" in lines(kubectl("get", "wd", "-o", "wide"))[0]
    assert lines(kubectl("get", "widget", "-l", "tier=db", "--no-headers"))[0][0] == "w2"
    assert kubectl("get", "wd", "-l", "tier notin (db)", "-o", "name").split() == ["widget.test.virtrigaud.io/w1"]
    assert kubectl("get", "wd", "--field-selector=metadata.name=w2", "-o", "name").split()[0].endswith("w2")
    assert kubectl("get", "wd", "w2", "-o", "jsonpath={.spec.cpu}") == "8"
    assert yaml.safe_load(kubectl("get", "wd", "w1", "-o", "yaml"))["spec"]["cpu"] == 2
    assert kubectl("get", "wd", "-o", "custom-columns=N:.metadata.name", "--no-headers").split() == ["w1", "w2"]
    assert kubectl("get", "wd", "--sort-by=.spec.cpu", "-o", "name").split()[1].endswith("w2")
    everywhere = kubectl("get", "wd", "-A")
    assert lines(everywhere)[0][:2] == ["NAMESPACE", "NAME"]
    assert kubectl.namespace in everywhere
    assert "w1" in kubectl("get", "all")
    assert "NAME" in kubectl("get", "wd", "w1", "-L", "tier")
    assert len(kubectl.json("get", "wd", "--chunk-size=1")["items"]) == 2


def test_get_watch(kubectl):
    kubectl("create", "-f", "-", stdin=manifest("w1"))
    watching = kubectl.start("get", "widgets", "-w", "--output-watch-events")
    try:
        assert watching.stdout.readline().split()[:2] == ["EVENT", "NAME"]
        assert watching.stdout.readline().split()[:2] == ["ADDED", "w1"]
        kubectl("patch", "wd", "w1", "--type=merge", "-p", '{"spec":{"cpu":3}}')
        assert watching.stdout.readline().split()[:3] == ["MODIFIED", "w1", "3"]
        kubectl("delete", "wd", "w1")
        assert watching.stdout.readline().split()[:2] == ["DELETED", "w1"]
    finally:
        watching.terminate()
        watching.communicate(timeout=10)


def test_describe_shows_events(kubectl):
    kubectl("create", "-f", "-", stdin=manifest("w1"))
    uid = kubectl("get", "wd", "w1", "-o", "jsonpath={.metadata.uid}")
    about = {"apiVersion": "test.virtrigaud.io/v1", "kind": "Widget", "name": "w1", "uid": uid}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "w1.1", "namespace": kubectl.namespace},
        "involvedObject": {**about, "namespace": kubectl.namespace},
        "reason": "Started",
        "message": "The widget runs",
        "type": "Normal",
        "source": {"component": "test"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 3,
    }
    kubectl("create", "-f", "-", stdin=json.dumps(event))
    described = kubectl("describe", "widget", "w1")
    assert "Cpu:" in described
    assert "The widget runs" in described
    head, row = lines(kubectl("get", "events"))
    assert head == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert row[1:4] == ["Normal", "Started", "widget/w1"]
    assert "The widget runs" in kubectl("events", "--for", "widget/w1")
    chosen = kubectl("get", "events", "--field-selector=involvedObject.name=w1,type=Normal", "-o", "name")
    assert chosen.strip() == "event/w1.1"
    assert kubectl.json("get", "events.events.k8s.io", "w1.1")["note"] == "The widget runs"


def test_describe_builtin_kinds(kubectl):
    kubectl("create", "secret", "generic", "s", "--from-literal=password=hunter2")
    described = kubectl("describe", "secret", "s")
    assert "password:  7 bytes" in described
    assert "hunter2" not in described
    kubectl("create", "configmap", "cm", "--from-literal=a=1")
    assert "Data\n====\na:\n----\n1" in kubectl("describe", "configmap", "cm")
    assert "Status:       Active" in kubectl("describe", "namespace", kubectl.namespace)
    assert "widgets.test.virtrigaud.io" in kubectl("describe", "crd", "widgets.test.virtrigaud.io")


@pytest.mark.parametrize(("kind", "old", "new"), [("cm", "a: .1.", 'a: "9"'), ("wd", "cpu: 2", "cpu: 7")])
def test_edit(kubectl, tmp_path, kind, old, new):
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    kubectl("create", "-f", "-", stdin=manifest("cm"))
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\nsed -i 's/{old}/{new}/' \"$1\"\n")
    editor.chmod(0o755)
    kubectl.run("edit", kind, "cm", KUBE_EDITOR=str(editor))
    after = kubectl.json("get", kind, "cm")
    assert after["data"]["a"] == "9" if kind == "cm" else after["spec"]["cpu"] == 7


@pytest.mark.parametrize(
    ("how", "patch"),
    [
        ("json", '[{"op":"replace","path":"/data/a","value":"9"}]'),
        ("merge", '{"data":{"a":"9"}}'),
        ("strategic", '{"data":{"a":"9"}}'),
    ],
)
def test_patch(kubectl, how, patch):
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    kubectl("patch", "cm", "cm", f"--type={how}", "-p", patch)
    assert kubectl.json("get", "cm", "cm")["data"] == {"a": "9", "b": "2"}


def test_patch_status(kubectl):
    kubectl("create", "-f", "-", stdin=manifest())
    body = '{"status":{"host":"h1"},"spec":{"cpu":9}}'
    kubectl("patch", "wd", "w1", "--subresource=status", "--type=merge", "-p", body)
    found = kubectl.json("get", "wd", "w1")
    assert (found["status"]["host"], found["spec"]["cpu"]) == ("h1", 2)


def test_label_and_annotate(kubectl):
    kubectl("create", "-f", "-", stdin=manifest())
    kubectl("label", "wd", "w1", "a=b")
    kubectl("annotate", "wd", "w1", "note=hello world")
    assert "--overwrite is false" in kubectl.fails("label", "wd", "w1", "a=c")
    kubectl("label", "wd", "w1", "a=c", "--overwrite")
    meta = kubectl.json("get", "wd", "w1")["metadata"]
    assert (meta["labels"]["a"], meta["annotations"]["note"]) == ("c", "hello world")
    kubectl("label", "wd", "w1", "a-")
    assert "a" not in kubectl.json("get", "wd", "w1")["metadata"].get("labels", {})


def test_scale_and_replace(kubectl):
    kubectl("create", "-f", "-", stdin=manifest())
    kubectl("scale", "wd", "w1", "--replicas=5")
    assert kubectl("get", "wd", "w1", "-o", "jsonpath={.spec.replicas}") == "5"
    kubectl("replace", "-f", "-", stdin=manifest(cpu=6))
    spec = kubectl.json("get", "wd", "w1")["spec"]
    assert (spec["cpu"], spec["replicas"]) == (6, 1)


def test_diff(kubectl):
    kubectl("apply", "-f", "-", stdin=manifest())
    assert kubectl("diff", "-f", "-", stdin=manifest()) == ""
    changed = kubectl.run("diff", "-f", "-", stdin=manifest(cpu=3), ok=False)
    assert changed.returncode == 1
    assert "+  cpu: 3" in changed.stdout


def test_wait(kubectl):
    kubectl("create", "-f", "-", stdin=manifest())
    waits = [
        kubectl.start("wait", "--for=condition=Ready", "widget/w1", "--timeout=30s"),
        kubectl.start("wait", "--for=jsonpath={.status.host}=h1", "widget/w1", "--timeout=30s"),
    ]
    status = {"status": {"host": "h1", "conditions": [{"type": "Ready", "status": "True"}]}}
    kubectl("patch", "wd", "w1", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    for waiting in waits:
        out, err = waiting.communicate(timeout=30)
        assert waiting.returncode == 0, err
        assert "condition met" in out
    gone = kubectl.start("wait", "--for=delete", "widget/w1", "--timeout=30s")
    kubectl("delete", "wd", "w1")
    gone.communicate(timeout=30)
    assert gone.returncode == 0
    assert "timed out" in kubectl.fails("wait", "--for=condition=Nope", "ns/default", "--timeout=1s")


def test_delete(kubectl):
    held = json.dumps({"metadata": {"finalizers": ["test.virtrigaud.io/hold"]}})
    for name in ("a", "b", "c"):
        kubectl("create", "-f", "-", stdin=manifest(name, {"k": "v"}))
    kubectl("patch", "wd", "a", "--type=merge", "-p", held)
    deleting = kubectl.start("delete", "wd", "a")
    with pytest.raises(subprocess.TimeoutExpired):
        deleting.wait(1)  # kubectl waits for the finalizer
    kubectl("patch", "wd", "a", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    deleting.communicate(timeout=30)
    assert deleting.returncode == 0
    kubectl("delete", "wd", "-l", "k=v")
    assert kubectl("get", "wd", "-o", "name") == ""
    assert "NotFound" in kubectl.fails("delete", "wd", "a")
    kubectl("delete", "wd", "a", "--ignore-not-found")
    kubectl("create", "-f", "-", stdin=manifest("d"))
    kubectl("delete", "wd", "--all", "--cascade=foreground")
    assert kubectl("get", "wd", "-o", "name") == ""


def test_namespace_with_content(kubectl):
    name = kubectl.namespace + "-x"
    kubectl("create", "namespace", name)
    kubectl("create", "configmap", "cm", "--from-literal=a=1", "-n", name)
    kubectl("delete", "namespace", name, "--timeout=30s")
    assert "NotFound" in kubectl.fails("get", "namespace", name)
    assert "not found" in kubectl.fails("create", "configmap", "cm", "-n", name)


def test_discovery_and_explain(kubectl):
    rows = kubectl("api-resources", "--api-group=test.virtrigaud.io", "--no-headers")
    assert rows.split() == ["widgets", "wd", "test.virtrigaud.io/v1", "true", "Widget"]
    assert "test.virtrigaud.io/v1" in kubectl("api-versions").split()
    assert "Number of CPUs." in kubectl("explain", "wd.spec.cpu")
    assert "cpu\t<integer>" in kubectl("explain", "wd.spec")
    assert "finalizers" in kubectl("explain", "namespace.metadata")
    assert "Server Version" in kubectl("version")
    assert kubectl("get", "--raw", "/readyz") == "ok"


def test_who_may_what(kubectl):
    assert "admin" in kubectl("auth", "whoami")
    assert kubectl("auth", "can-i", "delete", "widgets").strip() == "yes"
    assert "*.*" in kubectl("auth", "can-i", "--list")


def test_definition_and_its_objects_in_one_go(kubectl):
    """`kubectl apply` of a CRD, then at once of an object."""
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.test.virtrigaud.io"},
        "spec": {
            "group": "test.virtrigaud.io",
            "scope": "Cluster",
            "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(crd))
    kubectl("wait", "--for=condition=Established", "crd/gadgets.test.virtrigaud.io", "--timeout=10s")
    gadget = {"apiVersion": "test.virtrigaud.io/v1", "kind": "Gadget", "metadata": {"name": "g"}, "any": {"thing": 1}}
    kubectl("apply", "-f", "-", stdin=json.dumps(gadget))
    assert kubectl.json("get", "gadget", "g")["any"] == {"thing": 1}
    kubectl("delete", "crd", "gadgets.test.virtrigaud.io", "--timeout=30s")
    assert "gadgets" not in kubectl("api-resources")


def test_a_wrong_token(kubectl):
    text = kubectl.fails("get", "ns", "--token=wrong")
    assert "Unauthorized" in text or "must be logged in" in text
