"""What the user sees: plain aligned text everywhere, colours where a terminal shows them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

COLOURS = {
    "green": "32",
    "yellow": "33",
    "red": "31",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
}
STATES = {
    "green": {"Running", "Ready", "True", "ready", "On", "online", "Active", "Healthy"},
    "yellow": {
        "Pending", "Provisioning", "Reconfiguring", "Deleting", "Suspended", "Importing", "Downloading", "Converting",
        "Unknown", "starting", "stopping", "waiting", "restart", "Terminating",
    },
    "red": {"Failed", "False", "failed", "restarting", "unsupported", "recreate", "Unhealthy"},
}  # fmt: skip
COLOUR_OF = {word: colour for colour, words in STATES.items() for word in words}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def colours(stream: TextIO) -> bool:
    """Whether to colour: a terminal, no NO_COLOR, and not a dumb one."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    stream = stream or sys.stdout
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour and colours(stream) else text


def clean(value: object) -> str:
    """Text from elsewhere, without the control characters that could take over a terminal."""
    return CONTROL.sub("�", str(value))


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    show_header: bool = True,
    widths: Sequence[int] | None = None,
) -> str:
    """Columns like kubectl's, three blanks apart; states are coloured. `widths` are the least widths of the columns."""
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    lines = ([list(header)] if show_header else []) + cells
    least = widths or [0] * len(header)
    widths = [max([least[i], *(len(line[i]) for line in lines)]) for i in range(len(header))]
    out = []
    for number, line in enumerate(lines):
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        padded[-1] = line[-1]
        if number == 0 and show_header:
            out.append(paint("   ".join(padded).rstrip(), "bold"))
        else:
            out.append("   ".join(paint(p, COLOUR_OF.get(c, "")) for p, c in zip(padded, line, strict=True)).rstrip())
    return "\n".join(out)


def emit(value: Any, form: str) -> None:  # Any: whatever JSON can hold
    """Print a value as json or yaml."""
    if form == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml

    class Dumper(yaml.SafeDumper):
        """Several lines as a block; what YAML 1.1 would read as a boolean ("On") is quoted by PyYAML itself."""

    def text(dumper: yaml.SafeDumper, content: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", content, style="|" if "\n" in content else None)

    Dumper.add_representer(str, text)
    print(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120), end="")


def say(text: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    print(f"{paint('warning:', 'yellow', sys.stderr)} {clean(text)}", file=sys.stderr, flush=True)


def age(seconds: float) -> str:
    """Like kubectl: 12s, 5m30s, 3h20m, 9h, 4d."""
    total = max(0, int(seconds))
    if total < 120:
        return f"{total}s"
    if total < 600:
        minutes, rest = divmod(total, 60)
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if total < 3 * 3600:
        return f"{total // 60}m"
    if total < 8 * 3600:
        hours, rest = divmod(total // 60, 60)
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    if total < 48 * 3600:
        return f"{total // 3600}h"
    return f"{total // 86400}d"
