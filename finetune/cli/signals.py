"""SIGTERM, as `kill` and the end of a job send it, ends a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` at SIGTERM; the list then holds its number. Handlers of others stay."""
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield received
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
