"""What the command line, the environment and a file may set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from common.settings import Seconds
from common.tls import TlsFiles

from .runtime.policies import Network, parsed


@dataclass(frozen=True)
class Settings:
    """How one controller runs."""

    kubeconfig: Annotated[str, "kubeconfig file; empty takes the pod's service account, else ~/.kube/config"] = ""
    context: Annotated[str, "context of the kubeconfig; empty takes its current one"] = ""
    namespace: Annotated[str, "watch this namespace only; empty watches all"] = ""
    runtime: Annotated[
        Literal["process", "external", "kubernetes"], "how provider servers run where the Provider does not say"
    ] = "external"
    controller_namespace: Annotated[
        str,
        "namespace of this installation, which its certificates name; empty takes the pod's own, and for runtime "
        "process virtrigaud-system",
    ] = ""
    authority: Annotated[str, "Secret there with the authority for servers (tls.crt, tls.key)"] = "virtrigaud-authority"
    make_authority: Annotated[bool, "make the authority if there is none; otherwise wait until somebody else has"] = (
        True
    )
    provider_image: Annotated[
        list[str] | None, "TYPE=IMAGE for servers of a type of hypervisor, for runtime kubernetes; may be repeated"
    ] = None
    provider_image_pull: Annotated[
        list[str] | None, "Secret in a Provider's namespace to pull images with; may be repeated"
    ] = None
    server_network: Annotated[
        str,
        "NetworkPolicies of servers on a cluster, as JSON: metricsFrom (peers that may read metrics; none: everybody) "
        "and egress (rules for what they may call besides hypervisor, DNS and collector; not there: everything)",
    ] = ""
    tls_cert: Annotated[
        Path | None, "PEM file with the certificate for External providers whose object names no other"
    ] = None
    tls_key: Annotated[Path | None, "PEM file with its private key"] = None
    tls_ca: Annotated[Path | None, "PEM file with the authority that those providers' certificates must come from"] = (
        None
    )
    home: Annotated[Path, "directory of this controller: pki/, run/, logs/, images/"] = Path(
        "~/.local/state/virtrigaud"
    )
    owner: Annotated[str, "id of this installation on hypervisors; empty takes the UID of namespace kube-system"] = ""
    metrics_address: Annotated[str, "host:port for /metrics, /healthz and /readyz; empty serves none"] = "127.0.0.1:0"
    ready_file: Annotated[Path | None, "file that gets host:port of the metrics once the caches are filled"] = None
    concurrency: Annotated[int, "objects of one provider that are worked on at the same time"] = 16
    resync: Annotated[Seconds, "after how long a settled object is looked at again, at least"] = 600.0
    leader_elect: Annotated[bool, "act only while holding the Lease"] = True
    lease_namespace: Annotated[str, "namespace of the Lease"] = "kube-system"
    lease_name: Annotated[str, "name of the Lease"] = "virtrigaud-controller"
    lease_duration: Annotated[Seconds, "how long a silent leader is waited for"] = 15.0
    lease_renew_deadline: Annotated[Seconds, "after how long without a renewal a leader stops"] = 10.0
    lease_retry: Annotated[Seconds, "how often the Lease is renewed, or looked at"] = 2.0
    log_level: Annotated[str, "debug, info, warning or error"] = "info"
    log_format: Annotated[Literal["json", "text"], "format of the log"] = "json"
    otlp_endpoint: Annotated[str, "where traces go: http://host:4317; empty leaves tracing off"] = ""

    def __post_init__(self) -> None:
        files = (self.tls_cert, self.tls_key, self.tls_ca)
        if any(files) and not all(files):
            raise ValueError("tls_cert, tls_key and tls_ca belong together: give all three")
        if any(files) and self.runtime == "process":
            raise ValueError(
                "tls_cert: runtime process makes its own certificates; leave tls_cert, tls_key and tls_ca out"
            )
        if self.concurrency < 1:
            raise ValueError("concurrency: at least 1")
        if self.resync < 1:
            raise ValueError("resync: at least 1s")
        for each in self.provider_image or ():
            if not all(each.partition("=")):
                raise ValueError(f"provider_image: {each!r} is not TYPE=IMAGE")
        _ = self.network
        if not self.lease_duration > self.lease_renew_deadline > self.lease_retry > 0:
            raise ValueError(
                "lease_duration must be longer than lease_renew_deadline, and that longer than lease_retry"
            )

    @property
    def tls(self) -> TlsFiles | None:
        """The three files, where they are given."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def images(self) -> dict[str, str]:
        """`provider_image` by type."""
        return dict(each.split("=", 1) for each in self.provider_image or ())

    @property
    def network(self) -> Network:
        """`server_network`. Raises: ValueError: it is none."""
        return parsed(self.server_network)

    @property
    def root(self) -> Path:
        """`home`, absolute."""
        return self.home.expanduser().absolute()
