"""The chart: what it refuses, what it makes, and that nothing of it is more than the controller needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.stack import ROOT

from .chart import CHART, NAMESPACE, RELEASE, Object, define_others, helm, rendered
from .cluster import Cluster
from .stack import ClusterStack

EVERYTHING = (
    *("--set", "authority.certManager.enabled=true", "--set", "metrics.serviceMonitor.enabled=true"),
    *("--set", "metrics.prometheusRule.enabled=true", "--set", "metrics.dashboards.enabled=true"),
    *("--set", "metrics.dashboards.annotations.grafana_folder=VirtRigaud"),
    *("--set", "watchNamespace=shop", "--set", "owner=here", "--set", "otlpEndpoint=http://collector:4317"),
    *(
        "--set",
        "priorityClassName=high",
        "--set",
        "imagePullSecrets={pull}",
        "--set",
        "extraArgs={--ready-file=/tmp/ready}",
    ),
    *(
        "--set",
        "providers.imagePullSecrets={pull}",
        "--set",
        "networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b",
        "--set",
        "networkPolicy.egress.controller.enabled=true",
        "--set",
        "networkPolicy.egress.servers.enabled=true",
    ),
    *("--set", "tolerations[0].operator=Exists", "--set", "nodeSelector.zone=a", "--set", "podLabels.team=x"),
    *("--set", "podAnnotations.a=b", "--set", "serviceAccount.annotations.a=b"),
    *("--set-json", 'affinity={"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}'),
)
BARE = (
    *("--set", "networkPolicy.enabled=false", "--set", "podDisruptionBudget.enabled=false", "--set", "replicas=1"),
    *("--set", "resources.limits=null", "--set", "resources.requests=null", "--set", "crds.install=false"),
    *("--set", f"image.digest=sha256:{'0' * 64}"),
)
SETS = pytest.mark.parametrize("values", [(), EVERYTHING, BARE], ids=["as it is", "everything", "bare"])
DEFAULTS: Object = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
OPEN = {"affinity", "nodeSelector", "podAnnotations", "podLabels", "resources", "annotations", "labels"}
"""Values that hold what Kubernetes says they may, under names that are the user's."""


def leaves(values: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that the chart documents."""
    for name, value in values.items():
        if isinstance(value, dict) and name not in OPEN:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def wrong(value: Any) -> Any:
    """A value of a type that cannot take its place."""
    return [["x"]] if isinstance(value, dict | str) else {"x": "y"}


LEAVES = dict(leaves(DEFAULTS))


@pytest.fixture(scope="module")
def others(cluster: Cluster) -> None:
    """The kinds of cert-manager and of the Prometheus operator are served, as their projects define them."""
    define_others(cluster)


@SETS
def test_it_passes_its_own_linter(tmp_path: Path, cluster: Cluster, values: tuple[str, ...]) -> None:
    done = helm("lint", "--strict", str(CHART), *values, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("replicas=-1", "/replicas"),
        ("leaderElection.duration=soon", "/leaderElection/duration"),
        ("providers.images.vmware=x", "/providers/images"),
        ("image.digest=sha256:1", "/image/digest"),
        ("resources.limits.memory=much", "/resources/limits/memory"),
        ("extraArgs={resync}", "/extraArgs/0"),
        ("leaderElection.duration=9s", "duration 9s must be longer than renewDeadline 10s"),
        ("leaderElection.retry=2m", "renewDeadline 10s, and that longer than retry 2m"),
        ("networkPolicy.egress.servers.rules[0].prots=1", "/networkPolicy/egress/servers/rules/0"),
        ("networkPolicy.metricsFrom[0].podSelektor.a=b", "/networkPolicy/metricsFrom/0"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_named(tmp_path: Path, cluster: Cluster, value: str, where: str) -> None:
    done = helm("template", RELEASE, str(CHART), "--set", value, home=tmp_path)
    assert done.returncode != 0
    assert where in done.stderr


def test_the_schema_knows_every_value_and_lets_none_be_of_another_type(tmp_path: Path, cluster: Cluster) -> None:
    """All mistakes at once: each is told with its place."""
    values: Object = {}
    for path, value in LEAVES.items():
        place = values
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = wrong(value)
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", RELEASE, str(CHART), "--values", str(file), home=tmp_path)
    assert done.returncode != 0
    missed = ["/".join(path) for path in LEAVES if f"'/{'/'.join(path)}" not in done.stderr]
    assert missed == []


def test_no_part_of_the_values_takes_a_name_that_it_does_not_know(cluster: Cluster) -> None:
    """A mistyped name would leave the default in its place, unseen."""

    def lax(schema: Object, where: str) -> Iterator[str]:
        for name, part in schema.get("properties", {}).items():
            if part.get("type") == "object" and "additionalProperties" not in part:
                yield f"{where}/{name}"
            yield from lax(part, f"{where}/{name}")

    assert SCHEMA["additionalProperties"] is False
    # helm's own, and what is handed on to Kubernetes as it is
    handed_on = {f"/affinity/{name}" for name in SCHEMA["properties"]["affinity"]["properties"]}
    assert set(lax(SCHEMA, "")) == {"/global"} | handed_on


def test_every_value_says_what_it_is(cluster: Cluster) -> None:
    """Editors and registries of charts show it."""

    def silent(schema: Object, where: str) -> Iterator[str]:
        for name, part in schema.get("properties", {}).items():
            if not part.get("description"):
                yield f"{where}/{name}"
            yield from silent(part, f"{where}/{name}")

    assert list(silent(SCHEMA, "")) == []


OWN_LABEL = r"app\.kubernetes\.io/name=mine"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"podLabels.{OWN_LABEL}", "podLabels: app.kubernetes.io/name is a label of the chart's own"),
        (f"metrics.serviceMonitor.labels.{OWN_LABEL}", "metrics.serviceMonitor.labels: app.kubernetes.io/name is"),
        (f"metrics.prometheusRule.labels.{OWN_LABEL}", "metrics.prometheusRule.labels: app.kubernetes.io/name is"),
        (f"metrics.dashboards.labels.{OWN_LABEL}", "metrics.dashboards.labels: app.kubernetes.io/name is"),
        ("extraArgs={--ready-file=/tmp/a,--resync=5m}", "extraArgs[1]: --resync is set by the value resync"),
        ("extraArgs={--no-leader-elect}", "extraArgs[0]: --no-leader-elect is set by the value replicas"),
        ("extraArgs={--lease-name=mine}", "extraArgs[0]: --lease-name is set by the chart"),
    ],
)
def test_what_the_chart_sets_itself_is_not_set_twice(tmp_path: Path, cluster: Cluster, value: str, said: str) -> None:
    """One of two equal keys would win, unseen; with another name, services and policies would find no pod."""
    everything = ("--set", "metrics.serviceMonitor.enabled=true", "--set", "metrics.prometheusRule.enabled=true")
    dashboards = ("--set", "metrics.dashboards.enabled=true")
    done = helm("template", RELEASE, str(CHART), *everything, *dashboards, "--set", value, home=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


def test_every_argument_of_the_chart_is_one_that_extraargs_may_not_repeat(tmp_path: Path, cluster: Cluster) -> None:
    (deployment,) = (body for body in rendered(tmp_path, *EVERYTHING) if body["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    own = {argument.partition("=")[0] for argument in container["args"]} - {"--ready-file"}
    for name in own:
        again = ("--set", f"extraArgs={{{name}=x}}")
        done = helm("template", RELEASE, str(CHART), *EVERYTHING, *again, home=tmp_path)
        assert f"extraArgs[0]: {name} is set by" in done.stderr


def test_no_key_is_there_twice(tmp_path: Path, cluster: Cluster) -> None:
    """helm and the API server read such an object without a word."""
    done = helm("template", RELEASE, str(CHART), "-n", NAMESPACE, *EVERYTHING, home=tmp_path)
    for text in done.stdout.split("\n---\n"):
        yaml.load(text, Once)  # a safe one


class Once(yaml.SafeLoader):
    """Refuses a mapping with one key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # Any: yaml has no types
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


def test_it_says_what_to_do_next(cluster: Cluster, tmp_path: Path) -> None:
    values = ("--set", "watchNamespace=shop", "--set", "crds.install=false")
    done = helm("install", "any", str(CHART), "-n", "any", "--dry-run=client", *values, home=tmp_path, cluster=cluster)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for said in ("serves namespace shop.", "rollout status deployment/any-virtrigaud", "Images are not published yet"):
        assert said in notes


def test_a_value_that_is_unset_is_named(tmp_path: Path, cluster: Cluster) -> None:
    """helm takes a value away when it is set to null, and templates would make nonsense of what is not there."""
    for path in [("replicas",), ("metrics", "port"), ("leaderElection", "retry")]:
        done = helm("template", RELEASE, str(CHART), "--set", f"{'.'.join(path)}=null", home=tmp_path)
        assert f"missing property '{path[-1]}'" in done.stderr


@SETS
@pytest.mark.usefixtures("others")
def test_P33_W74_a_cluster_takes_all_of_it(tmp_path: Path, cluster: Cluster, values: tuple[str, ...]) -> None:
    """The API server validates each object against its schema, and knows every field of it."""
    bodies = rendered(tmp_path, *values)
    if values == EVERYTHING:
        kinds = {body["kind"] for body in bodies}
        assert kinds >= {"Certificate", "Issuer", "ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy"}
    told = {f"{body['kind']} {body['metadata']['name']}": cluster.try_out(placed(body), "default") for body in bodies}
    assert {name: said for name, said in told.items() if said} == {}


@pytest.mark.parametrize(("namespace", "where"), [("", {"any": True}), ("lab", {"matchNames": ["lab"]})])
def test_no_server_is_read_for_two_installations(
    tmp_path: Path, cluster: Cluster, namespace: str, where: Object
) -> None:
    """Each reads its own controllers, and the servers where it alone serves: read twice, all sums are double."""
    given = ("--set", "metrics.serviceMonitor.enabled=true", "--set", f"watchNamespace={namespace}")
    bodies = rendered(tmp_path, *given)
    monitors = [body["spec"] for body in bodies if body["kind"] == "ServiceMonitor"]
    (service,) = (body for body in bodies if body["kind"] == "Service")
    ours, servers = (spec["selector"]["matchLabels"] for spec in monitors)
    assert ours == {"app.kubernetes.io/name": "virtrigaud-controller", "app.kubernetes.io/instance": RELEASE}
    assert ours.items() <= service["metadata"]["labels"].items()
    assert servers == {"app.kubernetes.io/name": "virtrigaud-provider"}
    assert [spec.get("namespaceSelector") for spec in monitors] == [None, where]


def test_alerts_and_dashboards_arrive_as_they_are(tmp_path: Path, cluster: Cluster) -> None:
    """Grafana's and Prometheus' own braces are no templates of the chart's."""
    bodies = rendered(tmp_path, *EVERYTHING)
    observability = ROOT / "deploy" / "observability"
    (rule,) = (body for body in bodies if body["kind"] == "PrometheusRule")
    assert rule["spec"]["groups"] == yaml.safe_load((observability / "alerts.yaml").read_text())["groups"]
    held = {name: text for body in bodies if body["kind"] == "ConfigMap" for name, text in body["data"].items()}
    assert held == {path.name: path.read_text() for path in (observability / "dashboards").glob("*.json")}
    assert held


def test_alerts_link_to_runbooks_where_they_are(tmp_path: Path, cluster: Cluster) -> None:
    where = ("--set", "metrics.prometheusRule.runbooks=https://wiki.example.org/runbooks/")
    (rule,) = (body for body in rendered(tmp_path, *EVERYTHING, *where) if body["kind"] == "PrometheusRule")
    links = {alert["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for alert in group["rules"]}
    pages = {page.name for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README.md"}
    assert links == {f"https://wiki.example.org/runbooks/{page}" for page in pages}


def placed(body: Object) -> Object:
    """In a namespace that is there: nothing is made by trying."""
    namespaced = {"namespace": "default"} if "namespace" in body["metadata"] else {}
    return {**body, "metadata": {**body["metadata"], **namespaced}}


@pytest.mark.usefixtures("others")
def test_a_field_that_nobody_knows_would_be_told(cluster: Cluster) -> None:
    """The test above can fail: for a kind of Kubernetes' own, and for one of others."""
    port = {"name": "a", "port": 1, "targetprot": 1}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [port]}}
    assert "targetprot" in cluster.try_out(service, "default")
    issuer = {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "a"}, "spec": {"self": {}}}
    assert "self" in cluster.try_out(issuer, "default")


def test_W74_the_definitions_arrive_as_they_are(stack: ClusterStack) -> None:
    for file in (ROOT / "deploy" / "crds").glob("*.yaml"):
        wanted = yaml.safe_load(file.read_text())
        served = json.loads(stack.kubectl("get", "crd", wanted["metadata"]["name"], "-o", "json"))
        assert served["spec"]["versions"] == wanted["spec"]["versions"]
        assert served["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    "may_not",
    [
        ("list", "secrets"),
        ("delete", "virtualmachines.infra.virtrigaud.io"),
        ("update", "virtualmachines.infra.virtrigaud.io"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("get", "nodes"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
    ],
)
def test_P34_the_controller_may_do_no_more_than_it_needs(stack: ClusterStack, may_not: tuple[str, str]) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    assert stack.refused("auth", "can-i", *may_not, "--as", account, "-A") == ""
