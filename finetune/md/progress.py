"""What a user sees while dynamics run, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ase import Atoms

from finetune.progress import Progress


class Stopped(KeyboardInterrupt):
    """A run that ended by a signal, after a checkpoint.

    Args:
        message: how to go on.
        signal: number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


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


class Steps(Progress):
    """Steps of dynamics with their time, temperature and speed (ns/day); hidden where they are not wanted."""

    def __init__(self, total: int, wanted: bool) -> None:
        super().__init__("md", total, "steps", wanted, delay=0.0)
        self.first_ps: float | None = None
        self.first = 0
        self.drawn = 0.0

    def start(self, step: int) -> None:
        """Begin at a step."""
        self.count = self.first = step
        if self.bar is not None:
            self.bar.n = self.bar.initial = step

    def show(self, time_ps: float, atoms: Atoms) -> None:
        """Count one more step; figures are renewed once a second."""
        if not self.shown:
            return
        now = time.monotonic()
        self.first_ps = time_ps if self.first_ps is None else self.first_ps
        if now - self.drawn < 1.0:
            self.update()
            return
        self.drawn = now
        per_day = (time_ps - self.first_ps) / 1000 / max(now - self.began, 1e-9) * 86400
        left = (now - self.began) / max(self.count - self.first, 1) * ((self.total or 0) - self.count) / 60
        figures = f"{time_ps:.3f} ps, {atoms.get_temperature():.0f} K, {per_day:.3g} ns/day, {left:.0f} min left"
        self.update(1, figures)
