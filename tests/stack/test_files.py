"""What can be said of docker-compose.yml without an engine, profiles that no test starts included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from libvirtd.fixtures import missing
from tools.gomodule import GoUnavailableError

from .images import collector

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "compose"

Object = dict[str, Any]  # Any: YAML


@pytest.fixture(scope="module")
def services() -> dict[str, Object]:
    found: dict[str, Object] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def once(service: Object) -> bool:
    return bool(service.get("restart") == "no")


def test_each_service_has_a_health_check(services: dict[str, Object]) -> None:
    lacking = {name for name, service in services.items() if not once(service) and "healthcheck" not in service}
    assert not lacking


def test_what_is_mounted_from_the_checkout_is_there(services: dict[str, Object]) -> None:
    """Docker would make an empty folder of what is missing, without a word."""
    mounts = [mount for service in services.values() for mount in service.get("volumes", []) if mount.startswith("./")]
    assert not [mount for mount in mounts if not (ROOT / mount.partition(":")[0]).exists()]


def test_a_dependency_runs_in_each_profile_of_its_dependant(services: dict[str, Object]) -> None:
    """Compose v1.29 refuses to start a service that needs one whose profile is off."""
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            profiles = services[needed].get("profiles")
            assert profiles is None or set(service.get("profiles", ())) == set(profiles), f"{name} needs {needed}"


def test_nothing_is_published_beyond_loopback(services: dict[str, Object]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("provider", ["libvirt", "proxmox"])
def test_what_waits_on_its_way_is_in_a_volume(services: dict[str, Object], provider: str) -> None:
    """Elsewhere it could not be written, or would take as much memory as an image is large; the image has the place."""
    service = services[f"provider-{provider}"]
    spool = service["environment"]["VIRTRIGAUD_SPOOL_DIRECTORY"]
    assert f"{provider}-spool:{spool}" in service["volumes"]
    assert re.search(rf"mkdir -p [^&]*{spool}\s", (ROOT / "deploy" / "images" / "Dockerfile").read_text())


def test_providers_log_whom_they_refused(services: dict[str, Object]) -> None:
    """Silent gRPC would leave a wrong certificate without a reason."""
    providers = [service for name, service in services.items() if name.startswith("provider-")]
    assert [each["environment"].get("GRPC_VERBOSITY") for each in providers] == ["INFO"] * 3


def test_no_default_stands_within_another(services: dict[str, Object]) -> None:
    """Compose v1.29 takes the inner one as text."""
    assert not re.search(r"\$\{[^}]*\$\{", (ROOT / "docker-compose.yml").read_text())


def test_images_of_others_are_pinned_and_replaced(services: dict[str, Object]) -> None:
    override = yaml.safe_load((Path(__file__).parent / "docker-compose.override.yml").read_text())["services"]
    for name, service in services.items():
        if service["image"].startswith("virtrigaud/"):
            continue
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+.*", tag), f"{name}: {service['image']}"
        assert name in override or name == "grafana"


def test_the_collector_has_one_version(services: dict[str, Object]) -> None:
    """In the compose file, in its Dockerfile, and where the tests build it."""
    collector = services["otel-collector"]
    named = [
        collector["image"].rpartition(":")[2],
        re.findall(r":([\d.]+)}$", collector["build"]["args"]["COLLECTOR"])[0],
        *re.findall(r"^ARG COLLECTOR=.*:(\S+)$", (ROOT / collector["build"]["dockerfile"]).read_text(), re.MULTILINE),
        *re.findall(r"collector/otelcol v(\S+)", (ROOT / "tests/tools/collector/go.mod").read_text()),
    ]
    assert len(named) == 4
    assert len(set(named)) == 1, named


def test_prometheus_asks_services_that_are_there(services: dict[str, Object]) -> None:
    scraped = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {t.partition(":")[0] for job in scraped for each in job.get("static_configs", []) for t in each["targets"]}
    hosts |= {name for job in scraped for each in job.get("dns_sd_configs", []) for name in each["names"]}
    assert hosts - {"localhost"} <= set(services)


def test_grafana_is_given_sources_that_are_there(services: dict[str, Object]) -> None:
    """Each dashboard asks a source by the id that is provisioned."""
    place = COMPOSE / "grafana" / "provisioning"
    sources = yaml.safe_load((place / "datasources" / "virtrigaud.yaml").read_text())["datasources"]
    for source in sources:
        assert re.fullmatch(r"http://([a-z-]+):\d+", source["url"])
        assert source["url"].split("/")[2].partition(":")[0] in services
    provided = yaml.safe_load((place / "dashboards" / "virtrigaud.yaml").read_text())["providers"][0]["options"]["path"]
    assert any(mount.endswith(f":{provided}:ro") for mount in services["grafana"]["volumes"])
    known = {source["uid"] for source in sources} | {"-- Grafana --", "grafana", "-- Mixed --"}
    for file in (ROOT / "deploy" / "observability" / "dashboards").glob("*.json"):
        asked = set(re.findall(r'"datasource":\s*\{[^}]*"uid":\s*"([^"$]+)"', file.read_text()))
        assert asked <= known, file.name


def test_the_collector_takes_its_configuration() -> None:
    """The real one judges it."""
    try:
        judge = collector()
    except GoUnavailableError as error:
        missing(str(error))
    command = [str(judge), "validate", f"--config={COMPOSE / 'otel-collector.yaml'}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr


def test_an_sbom_lists_what_a_service_is_made_of(tmp_path: Path) -> None:
    """Its dependencies at the versions of the lock file, and nothing that only tests need."""
    out = tmp_path / "controller.cdx.json"
    command = ["uv", "export", "--quiet", "--frozen", "--no-dev", "--format", "cyclonedx1.5"]
    command += ["--package", "virtrigaud-controller", "--output-file", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    document = json.loads(out.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    names = {each["name"]: each.get("version") for each in document["components"]}
    assert {"grpcio", "kubernetes", "virtrigaud-common"} <= set(names)
    assert all(each["purl"].startswith("pkg:pypi/") for each in document["components"] if "purl" in each)
    assert not {"pytest", "libvirt-python", "pyvmomi"} & set(names)


def test_every_service_has_an_image() -> None:
    """Each distribution with a command is built by deploy/images, under the name that its release has."""
    sys.path.insert(0, str(ROOT / "deploy" / "images"))
    try:
        import build  # type: ignore[import-not-found]  # a script beside the Dockerfile
    finally:
        sys.path.pop(0)
    folders = {str(path.parent.relative_to(ROOT)) for path in [*ROOT.glob("services/*/pyproject.toml")]} | {"cli"}
    assert {image.folder for image in build.IMAGES} == folders
    targets = set(re.findall(r"^FROM runtime AS (\S+)$", (ROOT / "deploy/images/Dockerfile").read_text(), re.MULTILINE))
    assert {image.name for image in build.IMAGES} == targets
