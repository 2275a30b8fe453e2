"""Named points at which tests make the world fail; no-ops in production.

Code declares a point where a crash or a failure would be worst, and passes it:

    AFTER_DEFINE = faults.declare("libvirt.create.after-define", "the domain exists, its disks are not yet complete")
    ...
    await faults.point(AFTER_DEFINE)

A test installs a plan for its own context and those it starts (`with FaultPlan().raises(...).installed()`), or starts a
real process with VIRTRIGAUD_FAULT="name:kill|hang|raise[:n]", which strikes at the n-th pass (1 unless given); several
are separated by commas.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.errors import HypervisorUnavailableError

ENVIRONMENT = "VIRTRIGAUD_FAULT"

POINTS: dict[str, str] = {}
"""Every declared point and what is true when it is passed; complete once the modules that declare them are imported."""


def declare(name: str, description: str) -> str:
    """Make a point known; answers with its name."""
    if POINTS.setdefault(name, description) != description:
        raise ValueError(f"two fault points are called {name}")
    return name


class InjectedFaultError(HypervisorUnavailableError):
    """A test asked for this failure."""


@dataclass
class _Fault:
    strike: Callable[[str], object]
    """Called at the point; an awaitable that it returns is awaited."""
    on_pass: int
    passes: int = 0


@dataclass
class FaultPlan:
    """Which points fail, and how; counts every pass."""

    passed: dict[str, int] = field(default_factory=dict)
    """How often each point was passed."""
    _faults: dict[str, list[_Fault]] = field(default_factory=dict)

    def raises(self, name: str, error: Exception | None = None, *, on_pass: int = 1) -> FaultPlan:
        """Raise at the n-th pass."""

        def strike(point: str) -> None:
            raise error if error is not None else InjectedFaultError(f"fault injected at {point}")

        return self.does(name, strike, on_pass=on_pass)

    def hangs(self, name: str, *, on_pass: int = 1) -> FaultPlan:
        """Never go on from the n-th pass (until cancelled)."""
        return self.does(name, lambda _: asyncio.Event().wait(), on_pass=on_pass)

    def kills(self, name: str, *, on_pass: int = 1) -> FaultPlan:
        """SIGKILL this process at the n-th pass."""
        return self.does(name, lambda _: os.kill(os.getpid(), signal.SIGKILL), on_pass=on_pass)

    def does(self, name: str, strike: Callable[[str], object], *, on_pass: int = 1) -> FaultPlan:
        """Call this at the n-th pass; an awaitable that it returns is awaited."""
        if on_pass < 1:
            raise ValueError(f"a fault strikes at the first pass or later, not at {on_pass}")
        self._faults.setdefault(name, []).append(_Fault(strike, on_pass))
        return self

    @contextmanager
    def installed(self) -> Iterator[FaultPlan]:
        """Hold for this context and for the tasks that are started in it."""
        token = _plan.set(self)
        try:
            yield self
        finally:
            _plan.reset(token)

    async def strike(self, name: str) -> None:
        """Pass the point."""
        self.passed[name] = self.passed.get(name, 0) + 1
        for fault in self._faults.get(name, ()):
            fault.passes += 1
            if fault.passes == fault.on_pass:
                outcome = fault.strike(name)
                if asyncio.iscoroutine(outcome) or isinstance(outcome, asyncio.Future):
                    await outcome


_plan: contextvars.ContextVar[FaultPlan | None] = contextvars.ContextVar("virtrigaud_fault_plan", default=None)


async def point(name: str) -> None:
    """Pass a fault point; costs a lookup when no plan is installed."""
    plan = _plan.get()
    if plan is not None:
        await plan.strike(name)


def install_from_environment(environ: Mapping[str, str] = os.environ) -> FaultPlan | None:
    """Install what VIRTRIGAUD_FAULT asks for, in this context and all that it starts; called by a service's `__main__`.

    Raises:
        ValueError: the variable cannot be understood.
    """
    wish = environ.get(ENVIRONMENT, "").strip()
    if not wish:
        return None
    plan = FaultPlan()
    makers = {"kill": plan.kills, "hang": plan.hangs, "raise": plan.raises}
    for part in wish.split(","):
        name, _, rest = part.strip().partition(":")
        how, _, count = rest.partition(":")
        if not name or how not in makers or not (count or "1").isdigit() or int(count or "1") < 1:
            raise ValueError(
                f'{ENVIRONMENT}={wish!r}: expected "name:kill|hang|raise[:n]" with n >= 1, got {part.strip()!r}'
            )
        makers[how](name, on_pass=int(count or "1"))
    _plan.set(plan)
    return plan
