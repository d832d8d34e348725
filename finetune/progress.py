"""Progress of long steps: a bar on a terminal, a line at least every 30 s elsewhere, on standard error.

Lines read `noun: figures`, such as `evaluate: 120 of 500 frames, 31 s`. A thread prints them, so
that a step whose parts take minutes each is not silent either.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from finetune.display import message

INTERVAL_S = 25.0  # longest time without a line where there is no terminal
QUIET_S = 5.0  # before a bar appears on a terminal
T = TypeVar("T")
P = TypeVar("P", bound="Progress")

_open: list[Progress] = []  # outermost first
_last = 0.0  # time of the last line
_ticker: threading.Thread | None = None
_over = threading.Event()


class Progress:
    """A step whose progress is shown while the `with` block runs; steps may be nested.

    Args:
        noun: name of the step.
        total: number of its parts; None where there are none to count.
        unit: parts in words, plural.
        shown: False hides it. In worker processes it is hidden in any case: their parent reports.
        done: parts that were done before.
        delay: seconds before the bar appears on a terminal.
    """

    def __init__(
        self,
        noun: str,
        total: int | None = None,
        unit: str = "",
        shown: bool = True,
        done: int = 0,
        delay: float = QUIET_S,
    ) -> None:
        self.noun, self.total, self.unit, self.count, self.figures = noun, total, unit, done, ""
        self.done, self.delay = done, delay
        self.shown = shown and multiprocessing.parent_process() is None and os.environ.get("LOCAL_RANK", "0") == "0"
        self.terminal = terminal()
        self.bar: tqdm | None = None
        self.began = time.monotonic()

    def __enter__(self: P) -> P:
        self.began = time.monotonic()
        if self.shown and self.terminal and self.total is not None:
            self.bar = tqdm(
                total=self.total, initial=self.done, desc=self.noun, unit=self.unit.removesuffix("s"), delay=self.delay,
                dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip
        elif self.shown and not self.terminal:
            _enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        _leave(self)

    def update(self, count: int = 1, figures: str | None = None) -> None:
        """Add finished parts, and replace the figures behind the count."""
        self.count += count
        self.figures = self.figures if figures is None else figures
        if self.bar is not None:
            if figures is not None:
                self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(count)

    def text(self) -> str:
        """`noun: 12 of 45 frames, figures, 31 s`."""
        count = "" if self.total is None else f"{self.count} of {self.total} {self.unit}".strip()
        elapsed = f"{time.monotonic() - self.began:.0f} s"
        return f"{self.noun}: {', '.join(filter(None, [count, self.figures, elapsed]))}"

    def line(self, text: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        if self.shown:
            line(text)


def through(parts: Iterable[T], noun: str, total: int, unit: str, shown: bool = True) -> Iterator[T]:
    """The parts of a step one by one, with its progress."""
    with Progress(noun, total, unit, shown) as progress:
        for part in parts:
            yield part
            progress.update()


def terminal() -> bool:
    """Whether progress goes to a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def line(text: str) -> None:
    """Print a line on standard error that does not disturb a bar."""
    global _last
    _last = time.monotonic()
    tqdm.write(message(text), file=sys.stderr)
    sys.stderr.flush()


def _enter(progress: Progress) -> None:
    """Add a step to those that the thread reports, and start the thread with the first of them."""
    global _ticker, _last
    _open.append(progress)
    if _ticker is None or not _ticker.is_alive():
        _last = time.monotonic()
        _over.clear()
        _ticker = threading.Thread(target=_tick, name="progress", daemon=True)
        _ticker.start()


def _leave(progress: Progress) -> None:
    """Remove a step; the thread ends with the last one."""
    global _ticker
    if progress in _open:
        _open.remove(progress)
        if not _open and _ticker is not None:
            _over.set()
            _ticker.join()
            _ticker = None


def _tick() -> None:
    """Print the innermost step where there was no line for a while."""
    while not _over.wait(max(0.01, min(1.0, _last + INTERVAL_S - time.monotonic()))):
        steps = list(_open)
        if steps and time.monotonic() - _last >= INTERVAL_S:
            line(steps[-1].text())
