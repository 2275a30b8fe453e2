"""The recording of a real Proxmox VE: its steps, and how an answer of the simulator is compared with the one recorded.

What is compared: status, reason, refusals word by word, how tasks end, and every value of an answer that the requests
decide. What cannot be equal (times, random ids, sizes of the machine) is compared by type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Values that a run or a machine decides, not the requests: compared by type alone.
VOLATILE = frozenset({
    "CSRFPreventionToken", "available", "avail", "cert", "cpu", "ctime", "disk", "diskread", "diskwrite", "endtime",
    "free", "idle", "loadavg", "mem", "memhost", "n", "netin", "netout", "password", "pid", "port", "pstart",
    "snaptime", "ssl_fingerprint", "starttime", "ticket", "total", "uptime", "used", "used_fraction", "wait",
})  # fmt: skip
# Names that are drawn at random, or made of what is: each must stand for the same thing throughout a run.
DRAWN = re.compile(
    r"UPID:[^\s\"]*:"
    r"|\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"
    r"|\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b"
    r"|\b[0-9a-f]{40}\b"
)
# Parts of a text that differ from run to run without being a name of anything, and what stands for them.
BLURRED = (
    (re.compile(r"pveupload-[^\s']+"), "pveupload"),
    (re.compile(r"tmp_dwnl\.\d+"), "tmp_dwnl"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"127\.0\.0\.1:\d{4,5}\b"), "127.0.0.1:PORT"),
    (re.compile(r"port '\d+'"), "port 'N'"),
    (re.compile(r"ctime=\d+"), "ctime=N"),
    (re.compile(r"\b\d{4}-\d{2}-\d{2}\b"), "DATE"),
    (re.compile(r"^transferred .*"), "transferred"),
    (re.compile(r"^Linux .*"), "Linux <kernel>"),
    (re.compile(r"password: \S+"), "password: <hash>"),
)
LEFT_OUT = re.compile(r"<\w+>")  # stands in the recording for what is nobody's business
ROW_NAMES = ("volid", "t", "sid", "vmid", "key", "name", "iface", "poolid", "storage", "id")


@dataclass(frozen=True)
class Step:
    """One request and what came back.

    Attributes:
        caller: empty for root's ticket.
        exit: how the task ended that the answer named; None when the recording did not wait for one.
        cut: whether lists in the answer were shortened.
    """

    number: int
    name: str
    method: str
    path: str
    params: dict[str, Any]
    caller: str
    status: int
    reason: str
    body: Any
    exit: str | None
    cut: bool

    @property
    def upid(self) -> str:
        return upid_of(self.body)

    @property
    def pid(self) -> int:
        """Of the task that the answer names: the product served requests in this order. Those without come last."""
        return int(self.upid.split(":")[2], 16) if self.upid else 1 << 32

    @property
    def together(self) -> str:
        """The name that this step shares with others that ran at the same time; empty for one that ran alone."""
        base, mark, place = self.name.rpartition(" #")
        return base if mark and place.isdecimal() else ""


def upid_of(body: Any) -> str:
    """The task that an answer names, or nothing."""
    data = body.get("data") if isinstance(body, dict) else None
    return data if isinstance(data, str) and data.startswith("UPID:") else ""


def read(file: Path) -> Iterator[Step]:
    """The steps in the order they were made; what was only observed over time is left out."""
    for number, line in enumerate(map(json.loads, file.read_text().splitlines())):
        request = line["request"]
        if request is not None:
            yield Step(
                number=number,
                name=line["step"],
                method=request["method"],
                path=request["path"],
                params=dict(request["params"] or {}),
                caller=request.get("as", ""),
                status=line["status"],
                reason=line["reason"],
                body=line["body"],
                exit=line["task"]["exitstatus"] if line.get("task") else None,
                cut=line.get("note", "").startswith("list cut"),
            )


class Names:
    """What a drawn name of the recorded run (a task, a digest, a UUID, a MAC address) is called in this one.

    Each recorded name has one of ours and each of ours one that was recorded: an answer that shows another name than
    before, or the same where the product had changed it, differs.
    """

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}

    def given(self, text: str) -> None:
        """A client chose the names in this text, so they are the same in every run."""
        for name in DRAWN.findall(text):
            self.same(name, name)

    def same(self, recorded: str, ours: str) -> bool:
        """Whether two names may stand for one thing; from now on they do."""
        return self._ours.setdefault(recorded, ours) == ours and self._theirs.setdefault(ours, recorded) == recorded

    def translate(self, text: str) -> str:
        """A recorded text as it reads in this run."""
        return DRAWN.sub(lambda found: self._ours.get(found.group(), found.group()), text)

    def equal(self, recorded: str, ours: str) -> bool:
        """Whether two texts say the same."""
        theirs, mine = DRAWN.findall(recorded), DRAWN.findall(ours)
        if len(theirs) != len(mine) or not all(map(self.same, theirs, mine)):
            return False
        # Keys of a property string and content types of a storage have no order.
        return sorted(blur(recorded).split(",")) == sorted(blur(ours).split(","))


def blur(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, stand_in in BLURRED:
        text = pattern.sub(stand_in, text)
    return DRAWN.sub("NAME", text).strip()


@dataclass(frozen=True)
class Comparison:
    """How answers are compared.

    Attributes:
        left_out: keys that the simulator may lack.
        added: keys that it may have although the recorded installation lacked them.
        cut: whether lists may be longer than recorded.
    """

    names: Names
    left_out: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    cut: bool = False

    def differences(self, recorded: Any, ours: Any, where: str = "") -> Iterator[str]:
        """Every way in which our answer is not the recorded one."""
        if isinstance(recorded, dict) and isinstance(ours, dict):
            yield from self._keys(recorded, ours, where)
        elif isinstance(recorded, list) and isinstance(ours, list):
            yield from self._rows(recorded, ours, where)
        elif not self._equal(recorded, ours, where.rpartition(".")[2]):
            yield f"{where} is {ours!r}, recorded {recorded!r}"

    def _keys(self, recorded: dict[str, Any], ours: dict[str, Any], where: str) -> Iterator[str]:
        for name in sorted(recorded.keys() | ours.keys()):
            if name not in ours:
                if name not in self.left_out and not LEFT_OUT.fullmatch(str(recorded[name])):
                    yield f"{where}.{name} is missing, recorded {recorded[name]!r}"
            elif name not in recorded:
                if name not in self.added:
                    yield f"{where}.{name} is made up: {ours[name]!r}"
            else:
                yield from self.differences(recorded[name], ours[name], f"{where}.{name}")

    def _rows(self, recorded: list[Any], ours: list[Any], where: str) -> Iterator[str]:
        """Lists have no order; rows are matched by what names them."""
        theirs, mine = by_name(recorded), by_name(ours)
        for name in sorted(theirs.keys() | mine.keys()):
            if name not in mine:
                yield f"{where}[{name}] is missing"
            elif name not in theirs:
                if not self.cut:
                    yield f"{where}[{name}] is made up"
            else:
                yield from self.differences(theirs[name], mine[name], f"{where}[{name}]")

    def _equal(self, recorded: Any, ours: Any, key: str) -> bool:
        if isinstance(recorded, str) and LEFT_OUT.fullmatch(recorded):
            return True
        if kind(recorded) != kind(ours):
            return False
        return key in VOLATILE or (
            self.names.equal(recorded, ours) if isinstance(recorded, str) else bool(recorded == ours)
        )


def by_name(rows: list[Any]) -> dict[str, Any]:
    """Rows by the first of their keys that names one, in a way that survives another run."""
    named: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, Mapping):
            name = next((f"{key} {blur(str(row[key]))}" for key in ROW_NAMES if key in row), json.dumps(sorted(row)))
        else:
            name = blur(str(row))
        named[name] = row
    return named


def kind(value: Any) -> str:
    """Numbers are numbers, as in JSON."""
    return "number" if isinstance(value, int | float) else type(value).__name__
