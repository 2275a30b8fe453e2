"""A private, real libvirtd: its own mounts, network and process ids, gone without a trace at the end.

One keeper process holds three namespaces. libvirtd is started inside them, as often as a test likes, and finds its
usual paths (/etc/libvirt, /run/libvirt, /var/lib/libvirt...) bound to a directory of ours. So:

- a libvirtd that the machine already runs is neither seen nor touched, nor are its bridges and iptables rules;
- QEMU processes live on when libvirtd dies, as they do in production;
- ending the keeper, which is process 1 in there, ends every process in there: the kernel sees to it.

Clients outside connect through the socket file; the images directory has the same path inside and outside.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

NETWORK = "vrtg-test"
POOL = "default"

# dynamic ownership and labels need a libvirt-qemu user and xattrs, which a test directory need not have.
# No cgroups: the machine's tree is shared. stdio_handler=file: no virtlogd beside us.
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0777"
log_outputs = "3:file:{log}"
"""
TLS_PORT = 16514
TLS_CONF = """\
listen_tls = 1
listen_addr = "127.0.0.1"
tls_port = "{port}"
ca_file = "/etc/libvirt/pki/ca.crt"
cert_file = "/etc/libvirt/pki/tls.crt"
key_file = "/etc/libvirt/pki/tls.key"
"""
# no-ping: dnsmasq would wait 3 s for an echo before it gives an address away; nobody else lives on this bridge.
NETWORK_XML = """\
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>{name}</name>
  <forward mode='nat'/>
  <bridge name='virbr-vrtg' stp='off' delay='0'/>
  <ip address='192.168.222.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.222.10' end='192.168.222.250'/></dhcp>
  </ip>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>
"""
POOL_XML = "<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>\n"

# $1 is our directory. The shell is process 1 of its namespace, and its `wait` reaps what others leave: libvirt waits
# 40 s for each QEMU that it ended and nobody reaped, and it ends four when it probes.
KEEPER = """\
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys  # the network devices of this namespace, not the machine's
# Without KVM the tests are the same everywhere, also where it is there but broken.
if [ "$2" != kvm ] && [ -e /dev/kvm ]; then
    : >"$1/no-kvm"
    mount --bind "$1/no-kvm" /dev/kvm
    mount -o remount,bind,ro /dev/kvm # not writable is what libvirt takes for "no KVM"
fi
# Locks of consoles too: they name process ids, which mean another process in another daemon's namespace.
for pair in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt \
    lock:/run/lock; do
    mkdir -p "${pair#*:}"
    mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
ip link set lo up
echo ready
sleep infinity &
wait
"""


class LibvirtdUnavailableError(RuntimeError):
    """A private libvirtd cannot run here; the message says why and what to do."""


def _program(name: str, package: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise LibvirtdUnavailableError(f"{name} is not installed (apt-get install {package})")
    return path


def check_available() -> None:
    """Raise LibvirtdUnavailableError if a private libvirtd could not start on this machine."""
    _program("libvirtd", "libvirt-daemon-system")
    _program("qemu-system-x86_64", "qemu-system-x86")
    _program("dnsmasq", "dnsmasq-base")
    _program("iptables", "iptables")
    _program("ip", "iproute2")
    for name in ("unshare", "nsenter", "setpriv"):
        _program(name, "util-linux")
    if os.geteuid() != 0:
        raise LibvirtdUnavailableError("a private libvirtd needs root, for its namespaces (run as root)")


@dataclass(frozen=True)
class Guest:
    """A QEMU process of this libvirtd, by its process id outside."""

    pid: int
    name: str


class PrivateLibvirtd:
    """`with PrivateLibvirtd() as daemon:` gives a libvirtd of its own with a NAT network and a storage pool.

    Attributes:
        uri: for libvirt clients on this machine, in any namespace.
        network: name of an active NAT network that gives out DHCP leases.
        pool: name of an active directory pool; `pool_path` is where it is.
    """

    network = NETWORK
    pool = POOL

    def __init__(self, cache: Path | None = None, *, kvm: bool = False, tls: Path | None = None) -> None:
        """Prepare nothing yet.

        Args:
            cache: where QEMU's probed capabilities are kept between daemons; probing takes a second or more.
            kvm: whether guests may use /dev/kvm; otherwise it is masked and they are emulated (type='qemu').
            tls: directory with ca.crt, tls.crt and tls.key; with it libvirtd serves TLS on TLS_PORT of its own network.
        """
        check_available()
        self._kvm = kvm
        self._tls = tls
        self._cache = None if cache is None else cache / ("kvm" if kvm else "tcg")
        self._keeper: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self.path = Path()

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.path}/run/libvirt-sock"

    @property
    def pool_path(self) -> Path:
        return self.path / "images"

    @property
    def pid(self) -> int:
        """libvirtd's process id; 0 while it is not running."""
        return self._pid

    @property
    def log(self) -> str:
        """What libvirtd said so far, warnings and errors."""
        return "".join(file.read_text(errors="replace") for file in sorted((self.path / "log").glob("libvirtd*")))

    def __enter__(self) -> Self:
        # A socket's path has at most 107 bytes, so not below pytest's long directories.
        self.path = Path(tempfile.mkdtemp(prefix="vrtg-libvirtd-"))
        try:
            self.path.chmod(0o755)
            self._write_configuration()
            self._start_keeper()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_configuration(self) -> None:
        for name in (
            "etc/qemu/networks/autostart",
            "etc/storage/autostart",
            "run",
            "lib",
            "log",
            "cache",
            "lock",
            "images",
        ):
            (self.path / name).mkdir(parents=True)
        if self._cache is not None:
            self._cache.mkdir(parents=True, exist_ok=True)
            (self.path / "cache").rmdir()
            (self.path / "cache").symlink_to(self._cache.resolve())
        etc = self.path / "etc"
        (etc / "qemu.conf").write_text(QEMU_CONF)
        conf = LIBVIRTD_CONF.format(log="/var/log/libvirt/libvirtd.log")
        if self._tls is not None:
            shutil.copytree(self._tls, etc / "pki")
            conf += TLS_CONF.format(port=TLS_PORT)
        (etc / "libvirtd.conf").write_text(conf)
        for folder, name, text in (
            ("qemu/networks", NETWORK, NETWORK_XML.format(name=NETWORK)),
            ("storage", POOL, POOL_XML.format(name=POOL, path=self.pool_path)),
        ):
            (etc / folder / f"{name}.xml").write_text(text)
            (etc / folder / "autostart" / f"{name}.xml").symlink_to(f"/etc/libvirt/{folder}/{name}.xml")

    def _start_keeper(self) -> None:
        self._keeper = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),  # so that it ends with us also when we are killed
                *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", KEEPER, "sh", str(self.path), "kvm" if self._kvm else "tcg"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stderr is not None
        if self._keeper.stdout.readline() != "ready\n":
            reason = self._keeper.stderr.read().strip()
            raise LibvirtdUnavailableError(f"namespaces cannot be made here: {reason}")

    @property
    def _inside(self) -> int:
        """The process id, outside, of the keeper's process 1."""
        assert self._keeper is not None, "not started"
        return _children(self._keeper.pid)[0]

    def inside(self, *argv: str) -> list[str]:
        """The command line that runs this one where libvirtd lives: its mounts, network and process ids."""
        # --root too: from within a chroot, the root of the mount namespace alone would be the machine's own.
        return ["nsenter", "-t", str(self._inside), "--mount", "--root", "--wd", "--net", "--pid", *argv]

    def start(self, *, timeout: float = 30.0) -> None:
        """Start libvirtd and wait until its drivers are ready; networks and guests that already run are found again.

        Args:
            timeout: seconds; the first start on a machine probes QEMU, later ones read the cache.
        Raises:
            LibvirtdUnavailableError: it did not come up; the message has its log.
        """
        assert self._process is None, "libvirtd runs already"
        address = self.path / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(address))
            output = (self.path / "log" / "output").open("ab")
            with output:
                self._process = subprocess.Popen(
                    [
                        *self.inside(_program("libvirtd", "libvirt-daemon-system")),
                        *("--pid-file", "/run/libvirt/libvirtd.pid"),  # /run itself is the machine's
                        *(["--listen"] if self._tls is not None else []),
                    ],
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "NOTIFY_SOCKET": str(address)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            self._wait_ready(notify, timeout)
        self._pid = _children(self._process.pid)[0]

    def _wait_ready(self, notify: socket.socket, timeout: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout
        ended = os.pidfd_open(self._process.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select([notify.fileno(), ended], [], [], left)
                if notify.fileno() in ready and b"READY=1" in notify.recv(4096):
                    return
                if ended in ready:
                    break
        finally:
            os.close(ended)
        output = (self.path / "log" / "output").read_text(errors="replace")
        raise LibvirtdUnavailableError(f"libvirtd ended or was not ready after {timeout:g} s: {output}{self.log}")

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """End libvirtd alone and wait for it; its guests live on."""
        assert self._process is not None, "libvirtd does not run"
        if self._pid:
            os.kill(self._pid, sig)
            self._process.send_signal(signal.SIGCONT)
        self._process.wait(timeout=30)
        self._process = None
        self._pid = 0

    def pause(self) -> None:
        """Make libvirtd hang: it answers nothing until `resume`."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "libvirtd does not run"
        os.kill(self._pid, signal.SIGCONT)
        self._process.send_signal(signal.SIGCONT)  # nsenter stops itself with its child

    def restart(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """End libvirtd with a signal and start it again."""
        self.kill(sig)
        self.start()

    def guests(self) -> list[Guest]:
        """The QEMU processes in here that run now."""
        namespace = os.readlink(f"/proc/{self._inside}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns/pid") != namespace:
                    continue
                argv = (entry / "cmdline").read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended meanwhile, or none of ours
            if "qemu-system" in argv[0] and "-name" in argv:
                name = argv[argv.index("-name") + 1].removeprefix("guest=").partition(",")[0]
                found.append(Guest(int(entry.name), name))
        return sorted(found, key=lambda guest: guest.pid)

    def run(self, *argv: str) -> str:
        """Run a command where libvirtd lives (its network, its mounts); its output, or CalledProcessError."""
        return subprocess.run(self.inside(*argv), check=True, text=True, stdout=subprocess.PIPE, timeout=60).stdout

    def _end_keeper(self) -> None:
        """End the keeper. Process 1 inside dies with it (--kill-child), and ends only after all others in there."""
        assert self._keeper is not None
        ended = [os.pidfd_open(pid) for pid in _children(self._keeper.pid)]
        self._keeper.kill()
        self._keeper.wait()
        for descriptor in ended:
            select.select([descriptor], [], [], 30)
            os.close(descriptor)

    def close(self) -> None:
        """End everything in here and remove the directory."""
        if self._keeper is not None:
            self._end_keeper()
            for pipe in (self._keeper.stdout, self._keeper.stderr):
                if pipe is not None:
                    pipe.close()
            self._keeper = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._pid = 0
        if self.path != Path() and self.path.exists():
            shutil.rmtree(self.path)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
