"""Remote endpoints: the URI that libvirt gets, with paths of credentials in it and never a secret.

Host keys are always checked, and nothing is ever asked on a terminal.
Source: libvirt, "Remote support": transports ssh, libssh2, tls; parameters keyfile, known_hosts, known_hosts_verify,
no_tty, command, sshauth, pkipath. A third, libssh, stalls on answers larger than a packet (seen with libvirt 9.0: what
libssh has decrypted already does not wake libvirt's poll), so it is refused.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

import libvirt
from common.errors import InvalidSpecError
from common.secrets import find_credential

SSH = Path(__file__).with_name("ssh.sh")


class Credentials:
    """A directory with any of `username`, `password`, `ssh-privatekey`, `known_hosts`, `ca.crt`, `tls.crt`, `tls.key`.

    Read anew at each connection, so that rotated ones are used.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def file(self, name: str) -> Path | None:
        """The file, if it is there."""
        path = self._directory / name if self._directory is not None else None
        return path if path is not None and path.is_file() else None

    def text(self, name: str) -> str | None:
        """Its content without the line end, if it is there; masked in logs from now on, if it is a secret.

        Raises:
            CredentialsRefusedError: it cannot be read.
        """
        return find_credential(self._directory, name)

    def answers(self) -> dict[int, str]:
        """What to say when libvirt asks, by kind of question."""
        answers: dict[int, str] = {}
        if (user := self.text("username")) is not None:
            answers[libvirt.VIR_CRED_AUTHNAME] = answers[libvirt.VIR_CRED_USERNAME] = user
        if (password := self.text("password")) is not None:
            answers[libvirt.VIR_CRED_PASSPHRASE] = answers[libvirt.VIR_CRED_NOECHOPROMPT] = password
        return answers


def connection_uri(endpoint: str, credentials: Credentials, scratch: Path) -> str:
    """The URI to open.

    Args:
        scratch: private directory, for what a parameter of the URI cannot say.
    Raises:
        InvalidSpecError: a password in the URI, or one that the transport cannot use.
    """
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        raise InvalidSpecError("endpoint: is no URI") from None
    if parts.password is not None:
        raise InvalidSpecError(
            "endpoint: holds a password; put it into the file `password` of the credentials directory"
        )
    transport = parts.scheme.partition("+")[2]
    if transport == "libssh":
        raise InvalidSpecError("endpoint: libvirt's libssh transport stalls; use qemu+ssh:// or qemu+libssh2://")
    if transport not in ("ssh", "libssh2", "tls"):
        return endpoint
    query = parts.query.split("&") if parts.query else []
    given = {item.partition("=")[0] for item in query}
    if transport == "tls":
        pki = _pki_directory(credentials, scratch) if "pkipath" not in given else None
        query += [urlencode({"pkipath": str(pki)}, safe="/")] if pki is not None else []
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join(query), ""))
    key, hosts = credentials.file("ssh-privatekey"), credentials.file("known_hosts")
    wanted: dict[str, str] = {}
    if key is not None:
        wanted["keyfile"] = str(key)
    if transport == "ssh":
        if key is None and credentials.file("password") is not None:
            raise InvalidSpecError(
                "endpoint: the ssh transport takes no password; give `ssh-privatekey`, or use qemu+libssh2://"
            )
        wanted["no_tty"] = "1"
        if hosts is not None:
            wanted["command"] = str(_ssh_command(scratch, hosts))
    else:
        wanted["known_hosts_verify"] = "normal"
        if hosts is not None:
            wanted["known_hosts"] = str(hosts)
        if key is None and credentials.file("password") is not None:
            wanted["sshauth"] = "password,keyboard-interactive"
    query += [urlencode({name: value}, safe="/,") for name, value in wanted.items() if name not in given]
    netloc = parts.netloc
    if "@" not in netloc and (user := credentials.text("username")):
        netloc = f"{user}@{netloc}"
    return urlunsplit((parts.scheme, netloc, parts.path, "&".join(query), ""))


def _pki_directory(credentials: Credentials, scratch: Path) -> Path | None:
    """Certificates under the names that libvirt wants them to have; None leaves it to libvirt's own places."""
    names = {"ca.crt": "cacert.pem", "tls.crt": "clientcert.pem", "tls.key": "clientkey.pem"}
    found = {wanted: path for name, wanted in names.items() if (path := credentials.file(name)) is not None}
    if not found:
        return None
    if len(found) < len(names):
        missing = ", ".join(name for name, wanted in names.items() if wanted not in found)
        raise InvalidSpecError(f"credentials: {missing} missing; TLS needs ca.crt, tls.crt and tls.key together")
    directory = scratch / "pki"
    directory.mkdir(mode=0o700, exist_ok=True)
    for wanted, path in found.items():
        copy = directory / wanted
        copy.unlink(missing_ok=True)
        copy.touch(mode=0o600)
        copy.write_bytes(path.read_bytes())
    return directory


def _ssh_command(scratch: Path, hosts: Path) -> Path:
    """A link to ssh.sh, which says what it is for, and beside it one to the known hosts, where it looks for them."""
    command = scratch / "ssh"
    for link, target in ((command, SSH), (scratch / "known_hosts", hosts)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return command
