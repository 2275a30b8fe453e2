"""Which libvirt the demo uses, and one of our own where none runs.

A libvirt that the user runs is used and never reconfigured. Where root finds none at all, we start libvirtd and
virtlogd with a configuration of our own: a private mount namespace puts our directory over /etc/libvirt, so that not
one file of the user's changes, while the socket is where `virsh` looks for it. `stop` ends them and their network.
"""

# ruff: noqa: S603, S607 - fixed commands of the system, found on PATH as in a shell

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vrtg.failures import CommandError
from vrtg.home import Home, write_private
from vrtg.keeper import PROGRAMS
from vrtg.lifecycle import Say, last_words
from vrtg.processes import Process

SYSTEM, SESSION = "qemu:///system", "qemu:///session"
SOCKETS = (Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/virtqemud-sock"))
NETWORK = "default"
"""Name of the NAT network; ours lives in our own configuration, so it cannot clash with the user's."""
START_LIMIT = 60.0


@dataclass(frozen=True)
class Hypervisor:
    """The libvirt to use."""

    uri: str
    ours: bool
    """We started it, and we end it."""
    note: str
    """What was found or done, for people."""


def ensure(home: Home, say: Say, uri: str | None = None) -> Hypervisor:
    """A libvirt that answers.

    Raises:
        CommandError: there is none and none can be started; says what to install or to do.
    """
    if uri is not None:
        _check_given(uri)
        return Hypervisor(uri, False, f"{uri}, as you said")
    if ours(home) and answers(SYSTEM):
        return Hypervisor(SYSTEM, True, "libvirtd, started earlier by vrtg")
    _require_tools()
    if any(socket.exists() for socket in SOCKETS) and answers(SYSTEM):
        if _nat_usable():
            return Hypervisor(SYSTEM, False, "the libvirt that runs on this machine")
        # Starting the network would change the user's libvirt; a session needs none, and root has no session.
        cure = f"start it with `virsh -c {SYSTEM} net-start {NETWORK}`"
        if os.geteuid() == 0:
            raise CommandError(
                f'the network "{NETWORK}" of your libvirt is not active: {cure}, then repeat this command'
            )
        return _session(f'the system libvirt\'s network "{NETWORK}" is not active: {cure} to use that one')
    if os.geteuid() != 0:
        return _session("no root needed")
    if Path("/run/systemd/system").is_dir() and (unit := _systemd_unit()):
        raise CommandError(
            f"libvirt is installed and does not run: start it with `systemctl start {unit}`, then repeat this command"
        )
    return _start(home, say)


def answers(uri: str, *, timeout: float = 15.0) -> bool:
    """Whether a libvirt answers at this URI."""
    return _virsh(uri, "version", timeout=timeout).returncode == 0


def stop(home: Home, say: Say) -> None:
    """End what `ensure` started: the network, libvirtd, virtlogd. Harmless when there is nothing."""
    keeper = _keeper(home)
    if keeper is not None and keeper.alive():
        if running_machines() == []:
            for network in _virsh(SYSTEM, "net-list", "--name").stdout.split():
                _virsh(SYSTEM, "net-destroy", network)
        keeper.end(40.0)
        say("libvirtd ended")
    _record(home).unlink(missing_ok=True)


def running_machines(uri: str = SYSTEM) -> list[str] | None:
    """Names of the domains that run; None when libvirt does not tell."""
    told = _virsh(uri, "list", "--name")
    return told.stdout.split() if told.returncode == 0 else None


def ours(home: Home) -> bool:
    """Whether a libvirtd that we started is recorded and lives."""
    keeper = _keeper(home)
    return keeper is not None and keeper.alive()


# -- finding -----------------------------------------------------------------------------------------------------------


def _check_given(uri: str) -> None:
    if shutil.which("virsh") and not answers(uri):
        raise CommandError(
            f"no libvirt answers at {uri}: check the URI, and that you may connect (`virsh -c {uri} list`)"
        )


def _require_tools() -> None:
    needs = {
        "virsh": "libvirt-clients",
        "qemu-system-x86_64": "qemu-system-x86",
        "qemu-img": "qemu-utils",
        "libvirtd": "libvirt-daemon-system",
    }
    missing = {
        package
        for command, package in needs.items()
        if not shutil.which(command) and not Path("/usr/sbin", command).exists()
    }
    if missing:
        names = " ".join(sorted(missing))
        raise CommandError(
            f"the demo runs a machine on the local libvirt, which lacks {names}: install with `apt-get install {names}`"
        )


def _nat_usable() -> bool:
    """Whether NAT works as it is: its network is active, or there is none and user-mode networking takes its place."""
    known = _virsh(SYSTEM, "net-list", "--all", "--name").stdout.split()
    return NETWORK not in known or NETWORK in _virsh(SYSTEM, "net-list", "--name").stdout.split()


def _session(why: str) -> Hypervisor:
    """The user's own libvirt; the client starts its daemon."""
    result = _virsh(SESSION, "version", timeout=60.0)
    if result.returncode != 0:
        reason = " ".join(result.stderr.split()) or "no reason given"
        raise CommandError(f"{SESSION} does not answer ({reason}): check `virsh -c {SESSION} list`")
    return Hypervisor(SESSION, False, f"your own libvirt session, with user-mode networking ({why})")


def _systemd_unit() -> str:
    for unit in ("libvirtd.socket", "virtqemud.socket", "libvirtd.service"):
        found = subprocess.run(["systemctl", "cat", unit], capture_output=True, check=False)
        if found.returncode == 0:
            return unit
    return ""


# -- starting ----------------------------------------------------------------------------------------------------------


def _start(home: Home, say: Say) -> Hypervisor:
    say("no libvirt runs here: starting libvirtd with a configuration of its own")
    etc = _configuration(home)
    process = _spawn(home, etc)
    write_private(_record(home), json.dumps(asdict(process)))
    _wait_serving(home, process)
    _start_network(home)
    return Hypervisor(SYSTEM, True, "libvirtd, started by vrtg (`vrtg down` ends it)")


def _configuration(home: Home) -> Path:
    """Our /etc/libvirt: the distribution's files as they are, a qemu.conf of ours, no domains and no networks."""
    etc = home.hypervisor / "etc"
    etc.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in ("qemu/networks/autostart", "qemu/autostart", "storage/autostart", "secrets", "hooks"):
        (etc / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    if Path("/etc/libvirt/nwfilter").is_dir() and not (etc / "nwfilter").exists():
        shutil.copytree("/etc/libvirt/nwfilter", etc / "nwfilter")
    write_private(etc / "libvirt.conf", "")
    write_private(
        etc / "libvirtd.conf", 'unix_sock_group = "root"\nunix_sock_rw_perms = "0700"\nauth_unix_rw = "none"\n'
    )
    write_private(etc / "virtlogd.conf", "")
    write_private(etc / "qemu.conf", _qemu_conf())
    return etc


def _qemu_conf() -> str:
    """QEMU as the unprivileged user where it can open /dev/kvm, else as root.

    A QEMU user that may not open /dev/kvm makes libvirt probe every emulator anew, a minute at each start.
    """
    lines = ["security_driver = []" if not Path("/sys/module/apparmor").exists() else "", "remember_owner = 0"]
    if not _libvirt_user_opens_kvm():
        lines += ['user = "root"', 'group = "root"']
    return "\n".join(filter(None, lines)) + "\n"


def _libvirt_user_opens_kvm() -> bool:
    if not Path("/dev/kvm").exists():
        return True
    import grp
    import pwd

    status = Path("/dev/kvm").stat()
    try:
        user = pwd.getpwnam("libvirt-qemu")
    except KeyError:
        return False
    groups = {user.pw_gid, *(g.gr_gid for g in grp.getgrall() if user.pw_name in g.gr_mem)}
    return bool(status.st_mode & 0o006 == 0o006 or (status.st_gid in groups and status.st_mode & 0o060 == 0o060))


def _spawn(home: Home, etc: Path) -> Process:
    """The keeper of virtlogd and libvirtd, in a mount namespace where /etc/libvirt is ours."""
    leases = home.hypervisor / "dnsmasq"
    leases.mkdir(exist_ok=True, mode=0o755)
    for place in ("/etc/libvirt", "/var/lib/libvirt/dnsmasq"):
        Path(place).mkdir(parents=True, exist_ok=True)
    script = 'mount --bind "$1" /etc/libvirt && mount --bind "$2" /var/lib/libvirt/dnsmasq && shift 2 && exec "$@"'
    programs = [shutil.which(name) or f"/usr/sbin/{name}" for name in PROGRAMS]
    keeper = [sys.executable, "-m", "vrtg", "stack", "keep-libvirt", str(home.logs), *programs]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(etc), str(leases), *keeper]
    with (home.logs / "libvirtd.log").open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    identity = Process.of(process.pid)
    if identity is None:
        raise CommandError(f"libvirtd ended at once: {last_words(home, 'libvirtd')}see {home.logs / 'libvirtd.log'}")
    return identity


def _wait_serving(home: Home, keeper: Process) -> None:
    deadline = time.monotonic() + START_LIMIT
    while not (SOCKETS[0].exists() and answers(SYSTEM, timeout=START_LIMIT)):
        if not keeper.alive() or time.monotonic() > deadline:
            raise CommandError(f"libvirtd does not start: {last_words(home, 'libvirtd')}see `vrtg logs libvirtd`")
        time.sleep(0.05)


def _start_network(home: Home) -> None:
    """A NAT network on a subnet that nothing here uses; one that is active serves machines, and is kept."""
    if NETWORK in _virsh(SYSTEM, "net-list", "--name").stdout.split():
        return
    if NETWORK in _virsh(SYSTEM, "net-list", "--all", "--name").stdout.split():
        _virsh(SYSTEM, "net-undefine", NETWORK)
    prefix = _free_prefix()
    # no-ping: dnsmasq would wait 3 s for an echo before it gives an address away; nobody else lives on this bridge.
    xml = f"""<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>{NETWORK}</name>
  <forward mode='nat'/>
  <bridge name='virtrigaud0' stp='off' delay='0'/>
  <ip address='{prefix}.1' netmask='255.255.255.0'>
    <dhcp><range start='{prefix}.10' end='{prefix}.250'/></dhcp>
  </ip>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>
"""
    path = home.hypervisor / "network.xml"
    write_private(path, xml)
    for step in (["net-define", str(path)], ["net-start", NETWORK]):
        result = _virsh(SYSTEM, *step, timeout=60.0)
        if result.returncode != 0:
            raise CommandError(
                f"cannot start a NAT network: {' '.join(result.stderr.split())}: see `vrtg logs libvirtd`"
            )


def _free_prefix() -> str:
    routes = subprocess.run(
        ["ip", "-4", "-o", "route", "show", "table", "all"], capture_output=True, text=True, check=False
    )
    for candidate in ("192.168.122", *(f"192.168.{third}" for third in range(140, 250))):
        if f"{candidate}." not in routes.stdout:
            return candidate
    raise CommandError("every subnet 192.168.140-249.0/24 is in use: free one, or give a libvirt with --libvirt URI")


def _virsh(uri: str, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    command = ["virsh", "-q", "-c", uri, *arguments]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _record(home: Home) -> Path:
    return home.run / "libvirt.json"


def _keeper(home: Home) -> Process | None:
    try:
        return Process(**json.loads(_record(home).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
