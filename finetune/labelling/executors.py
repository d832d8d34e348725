"""Where labels are computed: local processes that die with their parent, and a Dask cluster.

Any other `concurrent.futures.Executor` is named by its own `class_path`, such as `parsl.concurrent.ParslPoolExecutor`.
Nothing heavy is imported here, so that a worker can limit its threads before numerical libraries are loaded.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

from finetune.locks import temporary_folder

T = TypeVar("T")
CLUSTERS = ("parsl", "distributed", "executorlib")  # whose errors are not those of the work
DEAD = ("WorkerLost", "ManagerLost", "KilledWorker")  # but for those of a worker that died over it
LOOPBACK = "127.0.0.1"
FOLDER = "finetune-label-"  # beginning of the names of temporary folders


class Processes(ProcessPoolExecutor):
    """Processes on this machine, each with its own threads.

    They and the programs that they have started end when the command that started them is killed. Their temporary files
    lie in one folder with a lock, which is removed at the end, or by the next command where this one was killed.

    Args:
        workers: number of processes; default: one for each core over `threads`.
        threads: threads of each process (`OMP_NUM_THREADS`).
    """

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        workers = workers or max(1, len(os.sched_getaffinity(0)) // threads)
        self.folder, self.lock = temporary_folder(FOLDER)
        self.begun = partial(
            super().__init__,
            workers,
            multiprocessing.get_context("spawn"),
            initializer=begin,
            initargs=(threads, str(self.folder)),
        )
        self.begun()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Compute in a process; processes of which one died are begun anew."""
        try:
            return super().submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            super().shutdown(wait=False, cancel_futures=True)
            self.begun()
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop; without `wait`, frames that are being computed are given up at once."""
        processes = list((self._processes or {}).values())
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in [] if wait else processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(process.pid or 0), signal.SIGKILL)  # with the codes that it has started
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release()


def refused(error: BaseException) -> bool:
    """Whether an executor of a cluster has failed, rather than the work or the worker that was at it."""
    return type(error).__module__.partition(".")[0] in CLUSTERS and type(error).__name__ not in DEAD


def shortened(error: BaseException) -> str:
    """The first and the last line of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "no reason given"


def withdraw(futures: Iterable[Future[Any]]) -> None:
    """Take back what an executor has not begun yet."""
    for future in futures:
        with contextlib.suppress(NotImplementedError):  # Parsl cannot
            future.cancel()


def begin(threads: int, folder: str) -> None:
    """Limit the threads of a worker, and end it and its children as soon as its parent is no longer there."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    os.environ["TMPDIR"] = folder
    os.environ.pop("PYTHONSAFEPATH", None)  # was for the start of this process, not for the codes that it runs
    os.setpgid(0, 0)
    warnings.filterwarnings("ignore", "no training frame contains")  # the command itself warns
    end_with_parent()


def end_with_parent() -> None:
    """End this process, the leader of its group, and all in the group as soon as the one that made it is gone."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def dask(address: str | None = None, workers: int = 2) -> Executor:
    """The executor of a Dask cluster, or of `workers` processes on this machine.

    Args:
        address: of the scheduler, `tcp://host:8786`; None starts a cluster on this machine.
        workers: number of processes of a local cluster.

    The dashboard of a local cluster listens on this machine only.

    Raises:
        InputError: Dask is not installed, or a configuration names an address without `--allow`.
    """
    if address is not None:  # its answers are pickles
        from finetune import permissions

        permissions.check("finetune.labelling.dask")
    try:
        import dask.config
        from distributed import Client, LocalCluster
    except ImportError as error:
        from finetune.errors import InputError

        raise InputError(f"Dask is not installed ({error}); pip install 'finetune-interface[cluster]'") from error
    if address is None:
        dask.config.set({"distributed.worker.daemon": False})  # cells of a comparison are processes of their own
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, host=LOOPBACK, dashboard_address=f"{LOOPBACK}:0"
        )
        client = Client(cluster)
    else:
        client = Client(address)
    executor: Executor = client.get_executor(pure=False)
    return executor
