"""Where the embedded stack keeps what it owns: one private directory per user."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The directory of one embedded stack. Everything below it is ours; nothing outside of it is."""

    root: Path

    @staticmethod
    def from_environment() -> Home:
        """$VIRTRIGAUD_HOME, else virtrigaud below $XDG_STATE_HOME, else ~/.local/state/virtrigaud."""
        if chosen := os.environ.get("VIRTRIGAUD_HOME"):
            return Home(Path(chosen).expanduser().absolute())
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return Home(Path(state).expanduser().absolute() / "virtrigaud")

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def token(self) -> Path:
        """Static token file of the API server: `token,user,uid,"groups"`."""
        return self.root / "tokens.csv"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def client_tls(self) -> Path:
        """Certificate with which vrtg speaks to providers."""
        return self.pki / "client"

    @property
    def data(self) -> Path:
        """Data directory of the API server."""
        return self.root / "data"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def images(self) -> Path:
        """Image files that VMImages may name by a relative path."""
        return self.root / "images"

    @property
    def hypervisor(self) -> Path:
        """Configuration of the libvirt daemon that we start where none runs."""
        return self.root / "libvirt"

    @property
    def state_file(self) -> Path:
        """What the supervisor last knew about itself and its processes."""
        return self.run / "state.json"

    def make(self) -> None:
        """Create the directories; 0700, for they hold keys."""
        for directory in (self.root, self.pki, self.data, self.logs, self.run, self.images):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)


def write_private(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step; it never exists with wider permissions or half its content."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
