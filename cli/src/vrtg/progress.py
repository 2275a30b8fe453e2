"""Steps as they happen: one line each, with the time since the start; a passing line on a terminal."""

from __future__ import annotations

import sys
import time

from vrtg.terminal import clean, colours, paint, warn


class Progress:
    """Writes to standard error."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._passing = False
        self._last = ""

    def say(self, text: str) -> None:
        self._line(" ", text, "dim")

    def done(self, text: str) -> None:
        self._line("✓", text, "")

    def warn(self, text: str) -> None:
        self.clear()
        warn(text)

    def waiting(self, text: str) -> None:
        """What is waited for: replaced in place on a terminal, else a line when it changes."""
        if colours(sys.stderr):
            print(f"\r\x1b[K{self._stamp()}   {clean(text)[:100]}", end="", file=sys.stderr, flush=True)
            self._passing = True
        elif text != self._last:
            self._last = text
            print(f"{self._stamp()}   {clean(text)}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._passing:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._passing = False

    def _line(self, mark: str, text: str, colour: str) -> None:
        self.clear()
        body = paint(clean(text), colour, sys.stderr) if colour else clean(text)
        print(f"{self._stamp()} {paint(mark, 'green', sys.stderr)} {body}", file=sys.stderr, flush=True)

    def _stamp(self) -> str:
        return f"[{time.monotonic() - self._began:5.1f} s]"
