"""What a user sees while dynamics run, and how it is asked to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ase import Atoms
from tqdm import tqdm

LINE_S = 60.0  # between two lines where there is no terminal


class Wish:
    """The signal that asked to stop, once there is one."""

    signal: int | None = None


@contextmanager
def wishes() -> Iterator[Wish]:
    """Catch SIGINT and SIGTERM: the first is a wish that is met after the step, the second SIGINT ends at once."""
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def remember(number: int, frame: Any) -> None:
        if wish.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.signal = number

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A bar with ns/day and the time that is left; a line every minute where there is no terminal."""

    def __init__(self, total: int, wanted: bool) -> None:
        self.total, self.wanted = total, wanted
        self.terminal = wanted and sys.stderr.isatty()
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def start(self, step: int) -> None:
        """Begin at a step."""
        self.began, self.first = time.monotonic(), step
        self.first_ps: float | None = None
        self.told = self.began
        if self.terminal:
            self.bar = tqdm(total=self.total, initial=step, unit="step", mininterval=0.5, dynamic_ncols=True)

    def show(self, step: int, time_ps: float, atoms: Atoms) -> None:
        """One more step; drawn now and then."""
        if not self.wanted:
            return
        self.first_ps = time_ps if self.first_ps is None else self.first_ps
        if self.bar is not None:
            self.bar.update(1)
        now = time.monotonic()
        if now - self.told < (1.0 if self.terminal else LINE_S):
            return
        self.told = now
        per_day = (time_ps - self.first_ps) / 1000 / (now - self.began) * 86400
        words = f"{time_ps:.3f} ps, {atoms.get_temperature():.0f} K, {per_day:.3g} ns/day"
        if self.bar is not None:
            self.bar.set_postfix_str(words, refresh=False)
        else:
            left = (now - self.began) / max(step - self.first, 1) * (self.total - step)
            print(f"step {step} of {self.total}: {words}, {left / 60:.0f} min left", file=sys.stderr, flush=True)

    @staticmethod
    def tell(text: str) -> None:
        """A line that does not disturb the bar."""
        tqdm.write(text, file=sys.stderr)
