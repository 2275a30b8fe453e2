"""What the command can be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from common.settings import SettingsError, load
from provider_proxmox.settings import ProxmoxSettings

URL = "https://pve1.example.org:8006"


def told(home: Path, *more: str) -> ProxmoxSettings:
    arguments = ["--owner", "tests", "--insecure", "--endpoint", URL, "--credentials-directory", str(home), *more]
    return load(ProxmoxSettings, arguments)


def test_the_command_takes_several_nodes_and_a_way_of_boot_data(tmp_path: Path) -> None:
    """Nothing else is needed."""
    settings = told(tmp_path, "--endpoint", "https://pve2.example.org:8006", "--boot-delivery", "native")
    assert settings.endpoint == [URL, "https://pve2.example.org:8006"]
    assert settings.boot_delivery == "native"
    assert settings.vmids == range(1_000, 1_000_000)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--endpoint", "http://pve1"), "http sends the credentials in plaintext"),
        (("--endpoint", "https://root:x@pve1:8006"), "holds credentials"),
        (("--fingerprint", "AB:CD"), "is not the SHA-256"),
        (("--vmid-first", "99"), "give a range within 100"),
        (("--vmid-first", "2000", "--vmid-last", "1999"), "give a range within 100"),
        (("--boot-delivery", "snippets"), "need snippets_storage and snippets_directory"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    """At the start, in words for whoever set it."""
    with pytest.raises(SettingsError, match=said):
        told(tmp_path, *more)
