"""Slow and independent work through an executor that lives as long as the campaign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from typing import Any

from finetune.errors import InputError
from finetune.labelling.executors import refused, shortened, withdraw
from finetune.progress import Progress


class Kept(Executor):
    """An executor that those who borrow it cannot shut down.

    Args:
        executor: the one behind it.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand on."""
        return self.executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the owner does it."""


def fan_out(executor: Executor, work: Sequence[Callable[[], None]], word: str) -> None:
    """Do all of the work, with a bar; what has not begun is withdrawn when something fails.

    Args:
        executor: where.
        work: functions without arguments that pickle, such as partial ones; each writes its own files.
        word: what it is, for the bar.

    Raises:
        InputError: a worker died, or what one of them says.
    """
    pending = [executor.submit(one) for one in work]
    try:
        with Progress(word, len(pending), "tasks") as bar:
            for future in as_completed(pending):
                future.result()
                bar.update()
    except BrokenExecutor as error:
        raise InputError(
            f"a worker died ({error}); what was finished is on disk. Run the same command again to go on, with fewer "
            "workers if memory is short"
        ) from error
    except Exception as error:
        if not refused(error):
            raise
        raise InputError(
            f"the executor gave up ({type(error).__name__}: {shortened(error)}); what was finished is on disk. Mend "
            "its settings, and the same command goes on"
        ) from error
    finally:
        withdraw(pending)
