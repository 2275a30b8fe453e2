"""What runs a provider server on a cluster: pure, from the Provider to the manifests."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from controller.runtime.arguments import PROGRAMS
from controller.runtime.manifests import ServerSettings, host_of, manifests, object_name
from controller.runtime.policies import parsed, policy
from kinds.provider import Provider

SETTINGS = ServerSettings("owner-1", "virtrigaud-system", {"libvirt": "registry.example/libvirt:1"}, ("pull",))
CREDENTIALS = "secret-7"


def provider(name: str = "lab", **spec: Any) -> Provider:
    whole = {"type": "libvirt", "endpoint": "qemu+tls://kvm.example/system", **spec}
    meta = {"name": name, "namespace": "shop", "uid": "5f1c"}
    return msgspec.convert({"metadata": meta, "spec": whole}, Provider)


def of(kind: str, given: Provider, credentials: str = CREDENTIALS) -> dict[str, Any]:
    return next(each for each in manifests(given, SETTINGS, credentials) if each["kind"] == kind)


def pod_of(given: Provider) -> dict[str, Any]:
    pod: dict[str, Any] = of("Deployment", given)["spec"]["template"]["spec"]
    return pod


def container_of(given: Provider) -> dict[str, Any]:
    (container,) = pod_of(given)["containers"]
    assert isinstance(container, dict)
    return container


def test_everything_is_the_providers_own_and_goes_with_it() -> None:
    for each in manifests(provider(), SETTINGS, CREDENTIALS):
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Provider", "5f1c", True)
        assert each["metadata"]["namespace"] == "shop"


@pytest.mark.parametrize("name", ["lab", "lab.example.org", "x" * 63, "y" * 253, "a.b-" + "c" * 60])
def test_names_are_dns_labels_and_differ(name: str) -> None:
    found = object_name(provider(name))
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", found)
    assert found != object_name(provider(name.replace(".", "-") + "-z"))
    assert host_of(provider(name)) == f"{found}.shop.svc"


def test_the_pod_meets_the_restricted_standard() -> None:
    pod, container = pod_of(provider()), container_of(provider())
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_credentials_are_mounted_and_never_an_argument_or_in_the_environment() -> None:
    given = provider(credentialSecretRef={"name": "login"})
    container = container_of(given)
    (place,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "credentials"]
    assert container["args"][container["args"].index("--credentials-directory") + 1] == place
    (volume,) = [each for each in pod_of(given)["volumes"] if each["name"] == "credentials"]
    assert volume["secret"]["secretName"] == "login"
    assert container["env"] == [{"name": "GRPC_VERBOSITY", "value": "INFO"}]
    assert "--credentials-directory" not in container_of(provider())["args"]


def test_other_credentials_need_new_pods() -> None:
    given = provider(credentialSecretRef={"name": "login"})
    before, after = (
        of("Deployment", given, each)["spec"]["template"]["metadata"] for each in (CREDENTIALS, "secret-8")
    )
    assert before != after


def test_one_server_at_a_time_and_the_old_one_drains_first() -> None:
    deployment = of("Deployment", provider(runtime={"replicas": 3}))["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    container, pod = container_of(provider()), pod_of(provider())
    drain = int(container["args"][container["args"].index("--drain") + 1].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] > drain


APART = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize(
    ("affinity", "others"),
    [(None, []), ({"nodeAffinity": {}}, []), ({"podAntiAffinity": {REQUIRED: [APART], "preferred": []}}, [APART])],
)
def test_a_pod_is_not_scheduled_beside_another_of_its_provider(affinity: Any, others: list[Any]) -> None:
    """A ReplicaSet makes the next pod of one that is evicted at once, whatever the Deployment's strategy."""
    rules = pod_of(provider(runtime={"affinity": affinity}))["affinity"]["podAntiAffinity"][REQUIRED]
    selected = of("Deployment", provider())["spec"]["selector"]
    assert rules == [*others, {"labelSelector": selected, "topologyKey": "kubernetes.io/os"}]


@pytest.mark.parametrize("given", [[1], "x", {REQUIRED: {"a": 1}}, {REQUIRED: "x"}])
def test_an_affinity_that_is_none_is_named(given: Any) -> None:
    with pytest.raises(ValueError, match=r"spec\.runtime\.affinity\.podAntiAffinity"):
        pod_of(provider(runtime={"affinity": {"podAntiAffinity": given}}))


def test_what_the_provider_says_of_its_server_is_done() -> None:
    runtime = {
        "image": "registry.example:5000/mine@sha256:" + "a" * 64,
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "own"}, {"name": "pull"}],
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "logLevel": "warn",
        "logFormat": "json",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "resources": {"requests": {"cpu": "1"}},
        "securityContext": {"runAsNonRoot": True},
        "livenessProbe": {"tcpSocket": {"port": 9443}},
        "readinessProbe": {"tcpSocket": {"port": 9443}},
        "service": {"port": 7443},
    }
    given = provider(runtime=runtime)
    pod, container = pod_of(given), container_of(given)
    assert container["env"] == [*runtime["env"], {"name": "GRPC_VERBOSITY", "value": "INFO"}]
    for name in ("image", "imagePullPolicy", "resources", "securityContext", "livenessProbe", "readinessProbe"):
        assert container[name] == runtime[name]
    for name in ("nodeSelector", "tolerations"):
        assert pod[name] == runtime[name]
    assert pod["affinity"]["nodeAffinity"] == {}
    assert pod["imagePullSecrets"] == [{"name": "own"}, {"name": "pull"}]
    assert container["args"][container["args"].index("--log-level") + 1] == "warning"
    port = of("Service", given)["spec"]["ports"][0]
    assert (port["port"], port["targetPort"]) == (7443, "grpc")


def test_P33_only_the_controller_may_call() -> None:
    policy = of("NetworkPolicy", provider())["spec"]
    grpc = next(rule for rule in policy["ingress"] if rule["ports"][0]["port"] == "grpc")
    (source,) = grpc["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "virtrigaud-system"}
    assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "virtrigaud-controller"}


@pytest.mark.parametrize(
    ("kind", "endpoint", "wanted"),
    [
        ("libvirt", "qemu+tls://192.0.2.7/system", [("192.0.2.7/32", 16514)]),
        ("libvirt", "qemu+ssh://root@kvm.example/system", [("", 22)]),
        ("libvirt", "qemu+tcp://[2001:db8::7]:1234/system", [("2001:db8::7/128", 1234)]),
        ("libvirt", "qemu:///system", []),
        ("vsphere", "https://192.0.2.8/sdk", [("192.0.2.8/32", 443), ("", 443), ("", 902)]),
        ("proxmox", "https://192.0.2.9:8006,https://pve2.example", [("192.0.2.9/32", 8006), ("", 443), ("", 22)]),
        ("fake", "fake://lab", []),
    ],
)
def test_a_server_that_is_restricted_reaches_its_hypervisor(
    kind: str, endpoint: str, wanted: list[tuple[str, int]]
) -> None:
    """At its address where the endpoint has one, else at its port anywhere: no NetworkPolicy knows names."""
    images = {"ports": [{"port": 443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    network = parsed(json.dumps({"egress": [images]}))
    spec = policy(provider(type=kind, endpoint=endpoint), {"a": "b"}, "sys", "http://192.0.2.5:4317", network)
    dns, collector, *own, last = spec["egress"]
    assert {each["port"] for each in dns["ports"]} == {53, 5353}
    assert collector == {"to": [{"ipBlock": {"cidr": "192.0.2.5/32"}}], "ports": [{"port": 4317, "protocol": "TCP"}]}
    assert last == images
    found = [
        (rule["to"][0]["ipBlock"]["cidr"] if "to" in rule else "", port["port"])
        for rule in own
        for port in rule["ports"]
    ]
    assert found == wanted
    assert spec["policyTypes"] == ["Ingress", "Egress"]


def test_nothing_is_restricted_that_nobody_asked_for() -> None:
    """A hypervisor, a mirror of images or an API of a cloud may be anywhere."""
    spec = of("NetworkPolicy", provider())["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert "egress" not in spec
    (metrics,) = [rule for rule in spec["ingress"] if rule["ports"][0]["port"] == "metrics"]
    assert "from" not in metrics


@pytest.mark.parametrize("text", ["x", "[]", '{"metricsFrom": [{"podSelektor": {}}]}', '{"egress": [{"from": []}]}'])
def test_a_network_that_is_none_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^server_network: "):
        parsed(text)


def test_what_waits_on_its_way_to_proxmox_has_a_place_that_can_be_written() -> None:
    """The image's own file system cannot: images of unknown length, and disks, would end in an error."""
    given = provider(type="proxmox", endpoint="https://pve1.example:8006")
    container = container_of(given)
    spool = container["args"][container["args"].index("--spool-directory") + 1]
    (mount,) = [each for each in container["volumeMounts"] if spool.startswith(f"{each['mountPath']}/")]
    (volume,) = [each for each in pod_of(given)["volumes"] if each["name"] == mount["name"]]
    assert "emptyDir" in volume
    assert not mount.get("readOnly")


def test_P34_probes_need_no_certificate() -> None:
    """A kubelet has none, so gRPC would refuse it; what it asks is served beside the metrics."""
    container = container_of(provider())
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = container["args"][container["args"].index("--metrics-address") + 1]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}, probe
    assert served == f"0.0.0.0:{ports['metrics']}"


@pytest.mark.parametrize("kind", sorted(PROGRAMS))
def test_each_type_has_its_command_and_knows_its_hypervisor(kind: str) -> None:
    container = container_of(provider(type=kind, endpoint="https://one.example"))
    assert container["command"] == [f"virtrigaud-provider-{kind}"]
    assert ("https://one.example" in container["args"]) is (kind != "fake")


def test_only_clients_of_the_installation_are_let_in() -> None:
    arguments = container_of(provider())["args"]
    allowed = [each.partition("=")[2] for each in arguments if each.startswith("--allowed-clients=")]
    assert allowed == [
        f"spiffe://virtrigaud.io/ns/{SETTINGS.namespace}/{role}" for role in ("controller", "operator", "viewer")
    ]


def test_the_environment_of_the_provider_wins_over_ours() -> None:
    mine = [{"name": "GRPC_VERBOSITY", "value": "NONE"}]
    assert container_of(provider(runtime={"env": mine}))["env"] == mine
