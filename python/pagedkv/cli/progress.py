"""A progress display on standard error: one line that redraws itself on a terminal, and a plain
line every few seconds anywhere else, so that a log stays readable.

    serve [#########...........] 29/64   1,204 tok/s   pages 141/160   batch 24   waiting 9
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

TERMINAL_PERIOD_S = 0.1
LOG_PERIOD_S = 5.0
BAR_COLUMNS = 20


class ProgressBar:
    """Use as a context manager; call `update` as often as you like, it draws when it is time."""

    def __init__(
        self,
        label: str,
        total: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.is_terminal = self.stream.isatty()
        self.period = TERMINAL_PERIOD_S if self.is_terminal else LOG_PERIOD_S
        self._next = clock() + (0.0 if self.is_terminal else LOG_PERIOD_S)
        self._drawn = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.is_terminal and self._drawn:
            self.stream.write("\n")
            self.stream.flush()

    def update(self, done: int, details: str) -> None:
        """Show `done` of the total, and `details` behind it."""
        now = self.clock()
        if now < self._next and done != self.total:
            return
        self._next = now + self.period
        filled = BAR_COLUMNS * done // max(self.total, 1)
        bar = "#" * filled + "." * (BAR_COLUMNS - filled)
        width = len(str(self.total))
        line = f"{self.label} [{bar}] {done:>{width}}/{self.total}   {details}"
        if self.is_terminal:
            columns = shutil.get_terminal_size().columns - 1
            # Erase to the end of the line, as the one before may have been longer.
            self.stream.write("\r" + line[:columns] + "\x1b[K")
        else:
            self.stream.write(line + "\n")
        self.stream.flush()
        self._drawn = True


class Rate:
    """A counter's speed over the last few seconds: what a live display should show."""

    def __init__(self, span_s: float = 2.0) -> None:
        self.span_s = span_s
        self._points: deque[tuple[float, int]] = deque([(0.0, 0)])

    def update(self, seconds: float, count: int) -> float:
        """Per second, over at most the last `span_s` before `seconds`."""
        self._points.append((seconds, count))
        while len(self._points) > 2 and self._points[1][0] < seconds - self.span_s:
            self._points.popleft()
        begin, base = self._points[0]
        return (count - base) / (seconds - begin) if seconds > begin else 0.0
