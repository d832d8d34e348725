"""One cell of the comparison: an observable measured on a calculator, in a process of its own, kept by its content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from finetune.comparison.columns import Column
from finetune.comparison.figures import Measured
from finetune.comparison.observable import Observable
from finetune.comparison.recorded import Recorded
from finetune.errors import InputError
from finetune.files import new_file, write_text
from finetune.labelling.executors import end_with_parent

END_S = 10.0  # that a process may take to end after its answer
HEAVY = ("torch", "ase.io", "chgnet.model", "pymatgen.core", "finetune.comparison")
NOTHING = "nothing is recorded of it"
_running: set[Any] = set()  # processes of cells that this process has started


@dataclass(frozen=True)
class Cell:
    """An observable and what makes a calculator.

    Attributes:
        maker: makes the calculator.
        observable: what is measured.
        key: hash of what decides the figures.
        limit_s: longest time that it may take, s.
        directory: where cells are kept.
    """

    maker: Column
    observable: Observable
    key: str
    limit_s: float
    directory: Path

    @property
    def path(self) -> Path:
        """The file that holds its result."""
        return self.directory / f"{self.key}.json"

    @property
    def place(self) -> Path:
        """What it works in while it is not finished."""
        return self.directory / f"{self.key}.work"


@dataclass(frozen=True)
class Result:
    """What became of a cell.

    Attributes:
        measured: what was found; None where it failed.
        error: why it failed, in words.
        wall_s: how long it took, s.
    """

    measured: Measured | None
    error: str = ""
    wall_s: float = 0.0


def key(identity: str, observable: Observable) -> str:
    """Hash of a calculator's identity, the settings of the observable, the contents of its files."""
    digest = hashlib.sha256(identity.encode())
    digest.update(json.dumps(observable.settings(), sort_keys=True).encode())
    for path in observable.inputs():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def kept(cell: Cell) -> Result | None:
    """The result of a cell that has been computed; None where it has not, or its file is damaged."""
    try:
        content = json.loads(cell.path.read_text())
        return Result(Measured.from_json(content["measured"]), wall_s=content["wall_s"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def compute(cell: Cell) -> Result:
    """Measure in a process of its own and keep what is found; a calculator that fails, dies or hangs costs only this.

    What failed is not kept: the same command tries it again.
    """
    begin = time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*HEAVY])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(cell, theirs))
    cell.place.mkdir(parents=True, exist_ok=True)
    process.start()
    _running.add(process)
    theirs.close()
    try:
        answer = _answer(cell, ours, process)
        process.join(0 if answer.measured is None else END_S)
    finally:
        _kill(process)
        ours.close()
    result = replace(answer, wall_s=time.monotonic() - begin)
    if result.measured is not None:
        content = {"settings": cell.observable.settings(), "measured": result.measured.json()}
        text = json.dumps({**content, "wall_s": round(result.wall_s, 2)}, ensure_ascii=False)
        write_text(cell.path, text + "\n")
        shutil.rmtree(cell.place, ignore_errors=True)
    return result


def stop() -> None:
    """End the processes of all cells that are being computed."""
    for process in list(_running):
        _kill(process)


def _kill(process: Any) -> None:
    """End a process and the programs that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    _running.discard(process)


def _answer(cell: Cell, pipe: Connection, process: Any) -> Result:
    """What the process says, or why it says nothing."""
    if not pipe.poll(cell.limit_s):
        return Result(None, f"not finished after {cell.limit_s:g} s, and stopped; raise limit_s, or look why it hangs")
    try:
        kind, content = pipe.recv()
    except (EOFError, OSError):
        process.join(END_S)
        return Result(None, _death(process.exitcode))
    return Result(Measured.from_json(content)) if kind == "measured" else Result(None, content)


def _death(status: int | None) -> str:
    """Why a process ended without an answer."""
    if status is not None and status < 0:
        return f"its process died by signal {-status}, for want of memory or by a crash"
    return (
        f"its process ended with status {status} before it began; in a script, call compare() under "
        "if __name__ == '__main__', and give calculators of your own as Foreign('module.Class')"
    )


def _child(cell: Cell, pipe: Connection) -> None:
    """Measure, and send what is found."""
    os.setsid()
    end_with_parent()
    with (
        io.TextIOWrapper(io.BufferedWriter(new_file(cell.place / "log.txt"))) as log,
        contextlib.suppress(BrokenPipeError),
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            importlib.import_module("torch").set_num_threads(threads())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                measured = measure(cell)
        except KeyboardInterrupt:  # the command was stopped, and what it has begun goes on next time
            os._exit(130)
        except InputError as error:
            pipe.send(("error", str(error)))
        except Exception as error:  # noqa: BLE001  a calculator may raise anything; the cell says what
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:300] or "no message"
            pipe.send(("error", f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"))
        else:
            pipe.send(("measured", measured.json()))


def threads() -> int:
    """Threads of a cell: `OMP_NUM_THREADS`, or one, since cells fill the cores."""
    first = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return int(first) if first.isdigit() and int(first) > 0 else 1


def measure(cell: Cell) -> Measured:
    """Measure here.

    Raises:
        InputError: the observable finds nothing, or numbers that are none.
    """
    calculator = cell.maker.calculator()
    if isinstance(calculator, Recorded):
        measured = cell.observable.recorded(calculator, cell.place)
    else:
        measured = cell.observable.measure(calculator, cell.place)
    if not measured.figures and not measured.curves:
        raise InputError(NOTHING if isinstance(calculator, Recorded) else "it found nothing")
    numbers = [figure.value for figure in measured.figures] + [y for curve in measured.curves for y in curve.y]
    if not any(math.isfinite(number) for number in numbers):
        raise InputError("none of its figures is a number")
    return measured
