"""Commands that reach through to a provider, against the fake one over real gRPC and mutual TLS."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from common import identity, pki, rpc, tls, v1
from vrtg.api import Api
from vrtg.home import Home
from vrtg.kinds_table import PROVIDER as PROVIDERS
from vrtg.kubeconfig import choose

BIN = Path(sys.executable).parent
Vrtg = Callable[..., Any]  # Any: the Ran of conftest.py
CLASS = """
apiVersion: infra.virtrigaud.io/v1beta1
kind: VMClass
metadata: {name: small}
spec: {cpu: %d, memory: 256Mi}
"""
NETWORK = """
apiVersion: infra.virtrigaud.io/v1beta1
kind: VMNetworkAttachment
metadata: {name: nat}
spec: {network: {type: nat}}
"""
MACHINE = """
apiVersion: infra.virtrigaud.io/v1beta1
kind: VirtualMachine
metadata: {name: web}
spec:
  providerRef: {name: fake}
  classRef: {name: small}
  importedDisk: {diskID: there-already}
  networks: [{name: eth0, networkRef: {name: nat}}]
  lifecycle: {preStop: {exec: {command: ["true"]}}}
  powerState: "On"
"""
PROVIDER = """
apiVersion: infra.virtrigaud.io/v1beta1
kind: Provider
metadata: {name: fake}
spec: {type: fake, endpoint: "fake://"}
"""


FAKE = identity.Server("default", "fake")


@dataclass(frozen=True)
class Fake:
    """A fake provider that serves."""

    address: str
    files: tls.TlsFiles

    def apply(self, spec: v1.MachineSpec) -> v1.Machine:
        """Make a machine true, as the controller would."""
        return asyncio.run(self._apply(spec))

    async def _apply(self, spec: v1.MachineSpec) -> v1.Machine:
        async with rpc.connect(self.address, self.files, server=FAKE) as channel:
            machines = rpc.stub(channel, "virtrigaud.provider.v1.MachineService")
            async with asyncio.timeout(20):
                while True:
                    answer = await machines.apply_machine(v1.ApplyMachineRequest(spec=spec), timeout=10.0)
                    if answer.operation is None and answer.machine is not None:
                        return answer.machine
                    operations = rpc.stub(channel, "virtrigaud.provider.v1.OperationService")
                    request = v1.WatchOperationRequest(id=answer.operation.id)
                    async for _ in operations.watch_operation(request, timeout=10.0):
                        pass


def _report(kubeconfig: Path, address: str) -> None:
    """Write the provider's status, as the controller does."""
    api = Api(choose(Home(Path("/nonexistent")), str(kubeconfig), None))
    status = replace(PROVIDERS, plural="providers/fake/status")
    body = api.get(PROVIDERS, "fake", "default") | {"status": {"runtime": {"endpoint": address}}}
    api._call("PUT", api.path(status, "default"), body=body)
    api.close()


@pytest.fixture
def fake(home: Path, tmp_path: Path, vrtg: Vrtg, kubeconfig: Path) -> Iterator[Fake]:
    """The fake provider, and a Provider object that says where it serves."""
    keys = Home(home).pki
    authority = pki.Authority.create(keys / "ca")
    server = authority.issue(tmp_path / "server", FAKE.host, [FAKE.uri], end=pki.End.SERVER)
    controller = authority.issue(tmp_path / "controller", tls.CONTROLLER, end=pki.End.CLIENT)
    authority.issue(keys / "client", tls.OPERATOR, end=pki.End.CLIENT)
    ready = tmp_path / "ready"
    command = [BIN / "virtrigaud-provider-fake", "--listen-address", "127.0.0.1:0", "--owner", "test"]
    command += ["--tls-cert", server.cert, "--tls-key", server.key, "--tls-ca", server.ca, "--ready-file", ready]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(600):
                if ready.exists():
                    break
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.05)
            address = ready.read_text().strip()
            assert vrtg("apply", "-f", "-", stdin="\n---\n".join([PROVIDER, CLASS % 1, NETWORK])).code == 0
            patch = json.dumps({"status": {"runtime": {"endpoint": address}}})
            subprocess.run(
                [
                    "kubectl",
                    "--kubeconfig",
                    kubeconfig,
                    "patch",
                    "provider",
                    "fake",
                    "--subresource=status",
                    "--type=merge",
                    "-p",
                    patch,
                ],
                check=True,
            )
            yield Fake(address, controller)
        finally:
            process.terminate()
            for kind, name in (("vm", "web"), ("provider", "fake"), ("class", "small"), ("network", "nat")):
                vrtg("delete", kind, name, "--ignore-not-found")


def test_a_plan_shows_changes_effects_and_what_nothing_implements(fake: Fake, vrtg: Vrtg) -> None:
    """The plan of a machine that does not exist yet is its creation; nothing is created by planning."""
    ran = vrtg("plan", "-f", "-", "-o", "json", stdin=MACHINE)
    assert ran.code == 0, ran.err
    (plan,) = json.loads(ran.out)
    assert (plan["name"], plan["exists"]) == ("web", False)
    assert [change["field"] for change in plan["ignored"]] == ["spec.lifecycle.preStop"]
    assert plan["changes"], plan
    assert vrtg("get", "vm", "web").code == 3


@pytest.fixture
def web(fake: Fake, vrtg: Vrtg) -> str:
    """A machine that runs; its UID."""
    assert vrtg("apply", "-f", "-", stdin=MACHINE).code == 0
    uid = str(json.loads(vrtg("get", "vm", "web", "-o", "json").out)["metadata"]["uid"])
    fake.apply(
        v1.MachineSpec(
            identity=v1.MachineIdentity(uid=uid, namespace="default", name="web", owner="test"),
            cpu=v1.CpuSpec(count=1),
            memory=v1.MemorySpec(size_bytes=256 << 20),
            disks=[v1.DiskSpec(name="root", size_bytes=1 << 30)],
            power=v1.PowerSpec(state=v1.PowerState.ON),
        )
    )
    return uid


def test_a_plan_names_every_machine_that_a_class_change_concerns(web: str, vrtg: Vrtg) -> None:
    """Editing a class changes machines that the file never names."""
    ran = vrtg("plan", "-f", "-", stdin=CLASS % 4)
    assert ran.code == 0, ran.err
    assert "default/web: would be changed" in ran.out
    assert "cpu.count" in ran.out


def test_a_console_with_piped_input_answers_and_ends(web: str, vrtg: Vrtg) -> None:
    ran = vrtg("console", "web", "--idle", "0.5", stdin="hello\n")
    assert ran.code == 0, ran.err
    assert "hello" in ran.out


def test_a_console_on_a_terminal_is_left_with_its_key(web: str, kubeconfig: Path, home: Path) -> None:
    """Ctrl-] ends it, keys before it arrive, and the terminal is as it was."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "VIRTRIGAUD_HOME": str(home)}
    command = [sys.executable, "-m", "vrtg", "console", "web"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment) as process:
        os.write(master, b"typed")
        seen = b""
        while b"typed" not in seen:
            assert select.select([master], [], [], 30)[0], process.poll()
            seen += os.read(master, 1024)
        os.write(master, b"\x1d")
        assert process.wait(30) == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_the_url_of_a_console_is_the_only_output(web: str, vrtg: Vrtg) -> None:
    """It lets in whoever has it, so a script must be able to take it without showing it."""
    ran = vrtg("console", "web", "--url")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"wss://console.example/{web}?ticket=")
    assert ran.out.count("\n") == 1
    assert "valid once, until" in ran.err
    assert "ticket" not in ran.err


def test_a_screenshot_is_a_picture_in_a_file(web: str, vrtg: Vrtg, tmp_path: Path) -> None:
    ran = vrtg("screenshot", "web", "-o", str(tmp_path / "web.png"))
    assert ran.code == 0, ran.err
    assert (tmp_path / "web.png").read_bytes().startswith(b"\x89PNG")
    nowhere = vrtg("screenshot", "web", "-o", str(tmp_path / "missing" / "web.png"))
    assert (nowhere.code, "No such file" in nowhere.err) == (1, True)


def test_a_reset_reaches_the_provider_and_a_refusal_comes_back(web: str, vrtg: Vrtg) -> None:
    assert vrtg("power", "web", "reset").out == "web: reset\n"
    missing = vrtg("power", "nope", "reset")
    assert (missing.code, "there are: web" in missing.err) == (3, True)


def test_power_writes_the_wish(web: str, vrtg: Vrtg) -> None:
    """The controller does the rest; without one, waiting gives up and says where it stands."""
    assert vrtg("power", "web", "shutdown", "--no-wait").code == 0
    assert json.loads(vrtg("get", "vm", "web", "-o", "json").out)["spec"]["powerState"] == "OffGraceful"
    late = vrtg("power", "web", "on", "--timeout", "0.5")
    assert (late.code, "vrtg describe vm web" in late.err) == (1, True)
    assert vrtg("power", "web", "sideways").code == 2


def test_a_provider_that_does_not_answer_is_named(web: str, vrtg: Vrtg, kubeconfig: Path) -> None:
    _report(kubeconfig, "127.0.0.1:1")
    ran = vrtg("power", "web", "reset")
    assert ran.code == 4, ran.err
    assert "default/fake" in ran.err


def test_a_provider_anywhere_is_reached_with_the_same_certificate(
    fake: Fake, web: str, vrtg: Vrtg, kubeconfig: Path
) -> None:
    """On a cluster, or by a tunnel: the certificate is for the Provider, wherever its server is."""
    _report(kubeconfig, fake.address.replace("127.0.0.1", "localhost"))
    ran = vrtg("power", "web", "reset")
    assert ran.code == 0, ran.err


def test_without_a_certificate_it_says_where_one_belongs(web: str, vrtg: Vrtg, home: Path) -> None:
    keys = Home(home).client_tls
    aside = keys.rename(keys.with_name("aside"))
    try:
        ran = vrtg("screenshot", "web", "-o", "-")
    finally:
        aside.rename(keys)
    assert ran.code == 4, ran.err
    assert str(keys) in ran.err


def test_the_server_of_another_provider_is_not_spoken_to(fake: Fake, vrtg: Vrtg, kubeconfig: Path) -> None:
    """A wrong address must not plan on, or open a console of, another hypervisor."""
    assert vrtg("apply", "-f", "-", stdin=PROVIDER.replace("name: fake", "name: other")).code == 0
    api = Api(choose(Home(Path("/nonexistent")), str(kubeconfig), None))
    body = api.get(PROVIDERS, "other", "default") | {"status": {"runtime": {"endpoint": fake.address}}}
    api._call("PUT", api.path(replace(PROVIDERS, plural="providers/other/status"), "default"), body=body)
    api.close()
    try:
        ran = vrtg("plan", "-f", "-", stdin=MACHINE.replace("providerRef: {name: fake}", "providerRef: {name: other}"))
        assert ran.code == 4, ran.err
        assert "certificate is not for this name" in ran.err
    finally:
        vrtg("delete", "provider", "other")
