"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from vrtg.api import Api
from vrtg.home import Home
from vrtg.kubeconfig import choose

Form = Literal["json", "yaml"]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Which API server, and which namespace."""

    namespace: Annotated[str | None, Parameter(name=["--namespace", "-n"])] = None
    """Namespace; the context's own, else "default"."""
    kubeconfig: Annotated[str | None, Parameter(name="--kubeconfig")] = None
    """Kubeconfig file; else $KUBECONFIG, the embedded stack's, ~/.kube/config."""
    context: Annotated[str | None, Parameter(name="--context")] = None
    """Context of the kubeconfig."""

    def connect(self) -> Api:
        return Api(choose(Home.from_environment(), self.kubeconfig, self.context))

    def within(self, api: Api) -> str:
        """The namespace to work in."""
        return self.namespace or api.target.namespace


HERE = Where()
