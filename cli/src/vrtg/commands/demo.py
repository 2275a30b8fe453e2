"""`vrtg demo`: the quickstart, live."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from vrtg.demonstration import Demo
from vrtg.home import Home
from vrtg.progress import Progress
from vrtg.terminal import table


def demo(
    *,
    image: Path | None = None,
    manifests: Path = Path("examples/quickstart"),
    libvirt: str | None = None,
) -> None:
    """Bring up the stack and the quickstart machine, and show what happens. May be repeated.

    Parameters
    ----------
    image
        Guest image to put where the manifests look for it.
    manifests
        Folder with the objects to apply.
    libvirt
        URI of the libvirt to use; else the one that runs here, else one of our own.
    """
    home = Home.from_environment()
    run = Demo(home, Progress(), image=image, manifests=manifests, uri=libvirt)
    run.run()
    print()
    _show(home)
    print()
    _times(run)
    print(_NEXT.format(kubeconfig=home.kubeconfig, vrtg=our_name(Path(sys.argv[0]), Path.cwd())))


_NEXT = """
The stack stays up. Look further:

  export KUBECONFIG={kubeconfig}
  kubectl get vm -o wide                # or: {vrtg} get vm -o wide
  kubectl describe vm web               # or: {vrtg} describe vm web
  kubectl patch vm web --type merge -p '{{"spec":{{"powerState":"Off"}}}}'
  {vrtg} console web           # Ctrl-] leaves
  {vrtg} status
  make down                             # ends it all
"""


def our_name(program: Path, here: Path) -> str:
    """What people type to run us: the virtual environment of a checkout is on nobody's path."""
    return str(program.relative_to(here)) if program.is_relative_to(here) else "vrtg"


def _show(home: Home) -> None:
    if kubectl := shutil.which("kubectl"):
        print("$ kubectl get vm -o wide")
        command = [kubectl, "--kubeconfig", str(home.kubeconfig), "get", "vm", "-o", "wide"]
        subprocess.run(command, timeout=30, check=False)  # noqa: S603 - kubectl, as found on PATH
        return
    from vrtg.commands.get import get
    from vrtg.commands.options import Where

    print("$ vrtg get vm -o wide")
    get("vm", where=Where(kubeconfig=str(home.kubeconfig)), output="wide")


def _times(run: Demo) -> None:
    """What each phase took, and when it was reached."""
    rows, before = [], 0.0
    for name, at in sorted(run.phases.reached.items(), key=lambda entry: entry[1]):
        rows.append([name, f"{at - before:6.1f} s", f"{at:6.1f} s"])
        before = at
    print(table(["PHASE", "TOOK", "REACHED AT"], rows))
