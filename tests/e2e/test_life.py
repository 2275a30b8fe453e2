"""From apply to a running guest, its power, and its end."""

from __future__ import annotations

from pathlib import Path

import yaml

from .stack import EXAMPLES, Stack, condition, machine

DEFAULT_NETWORK = """<network><name>default</name><forward mode='nat'/><bridge name='virbr-default'/>
<ip address='192.168.122.1' netmask='255.255.255.0'>
<dhcp><range start='192.168.122.9' end='192.168.122.99'/></dhcp></ip>
</network>"""


def test_W19_P47_the_quickstart_gives_a_running_machine_with_an_address(stack: Stack, tmp_path: Path) -> None:
    """What the README promises, with the files that it names."""
    (tmp_path / "network.xml").write_text(DEFAULT_NETWORK)
    stack.virsh("net-create", str(tmp_path / "network.xml"))
    objects = [yaml.safe_load(path.read_text()) for path in sorted(EXAMPLES.glob("*.yaml"))]
    namespace = "quickstart"
    stack.kubectl("create", "namespace", namespace)
    for body in objects:
        body["metadata"]["namespace"] = namespace
        if body["kind"] == "Provider":
            body["spec"]["endpoint"] = stack.libvirtd.uri

    stack.apply(*objects)
    stack.wait("vm", "web", "jsonpath={.status.ips[0]}", namespace)

    web = stack.get("vm", "web", namespace)
    assert (web["status"]["phase"], web["status"]["powerState"]) == ("Running", "On")
    assert web["status"]["ips"][0].startswith("192.168.122.")
    assert condition(web, "Ready")["status"] == "True"
    assert web["status"]["observedGeneration"] == web["metadata"]["generation"]
    assert stack.domains()["quickstart.web"] == "running"
    table = stack.kubectl("get", "vm", "-n", namespace)
    assert "Running" in table
    assert web["status"]["ips"][0] in table

    stack.kubectl("delete", "vm", "web", "-n", namespace, "--timeout=60s")
    for kind, name in (("vmimage", "guest"), ("vmclass", "small"), ("vmnet", "nat"), ("provider", "local")):
        stack.kubectl("delete", kind, name, "-n", namespace, "--timeout=60s")
    assert "quickstart.web" not in stack.domains()


def test_power_follows_the_spec(stack: Stack, namespace: str) -> None:
    """On, suspended, on, off by asking the guest, on, off at once."""
    stack.apply(machine("box", namespace))
    stack.wait("vm", "box", "jsonpath={.status.ips[0]}", namespace)
    domain = f"{namespace}.box"
    for wish, seen, state in (
        ("Suspended", "Suspended", ("shut off", "paused")),
        ("On", "On", ("running",)),
        ("OffGraceful", "Off", ("shut off",)),
        ("On", "On", ("running",)),
        ("Off", "Off", ("shut off",)),
    ):
        stack.patch("vm", "box", {"powerState": wish}, namespace)
        stack.wait("vm", "box", f"jsonpath={{.status.powerState}}={seen}", namespace)
        assert stack.domains()[domain] in state
        stack.wait("vm", "box", "condition=Ready", namespace)


def test_deleting_leaves_nothing_and_keeps_the_image(stack: Stack, namespace: str) -> None:
    """The machine and its files go; the image that it stood on stays for the next one."""
    before_domains = set(stack.domains())
    stack.apply(machine("box", namespace, disks=[{"name": "data", "sizeGiB": 1}]))
    stack.wait("vm", "box", "jsonpath={.status.powerState}=On", namespace)
    uid = stack.get("vm", "box", namespace)["metadata"]["uid"]
    mine = {volume for volume in stack.volumes() if uid in volume or f"{namespace}.box" in volume}
    assert len(mine) >= 2, stack.volumes()
    others = stack.volumes() - mine

    stack.kubectl("delete", "vm", "box", "-n", namespace, "--timeout=60s")

    assert set(stack.domains()) == before_domains
    assert stack.volumes() == others
    assert others, "the image is kept"
