"""Calculators beside DFT: every observable on every column, through an executor, nothing computed twice."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from finetune.comparison import cells as one
from finetune.comparison.cells import Cell, Result
from finetune.comparison.columns import Column, Given, Labels, column
from finetune.comparison.figures import Figure
from finetune.comparison.observable import Observable
from finetune.comparison.verdicts import Judged, Verdict, judge
from finetune.data.zeros import zero_forces
from finetune.errors import InputError, unknown
from finetune.labelling.executors import withdraw
from finetune.locks import locked
from finetune.progress import Progress
from finetune.provenance import TrainingData, overlap_message, unseen_message

LONGEST_S = 1e6  # a time limit that can be waited for


@dataclass(frozen=True)
class Comparison:
    """Results by observable and column.

    Attributes:
        columns: the columns by name.
        observables: the rows by heading.
        results: what became of each cell, by heading and name of the column.
        reference: name of the column that the others are compared with; None without one.
        provenance: what each column is, by name.
        warnings: by heading and name of the column, how many frames of the cell its model was trained on.
    """

    columns: Mapping[str, Column]
    observables: Mapping[str, Observable]
    results: Mapping[tuple[str, str], Result]
    reference: str | None
    provenance: Mapping[str, Mapping[str, str]]
    warnings: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def judged(self, row: str, name: str, beside: str | None = None) -> list[Judged]:
        """Figures of a cell beside the reference; none where it failed or was not wanted.

        Args:
            row: heading of the observable.
            name: name of the column.
            beside: the column to compare with; None takes the reference.
        """
        result = self.results.get((row, name))
        if result is None or result.measured is None:
            return []
        beside = self.reference if beside is None else beside
        standard = self.results.get((row, beside)) if beside is not None else None
        reference = standard.measured if standard is not None else None
        own: list[Figure] = [*result.measured.figures]
        observable = self.observables[row]
        limits = observable.limits()
        if reference is not None:
            own += observable.against(result.measured, reference)
            there = {figure.name for figure in own}
            wanted = [f for f in reference.figures if f.kind in limits and f.kind not in observable.strict]
            lacking = [figure for figure in wanted if figure.name not in there]
            own += [replace(f, value=math.nan, low=None, high=None, floor=None, short="") for f in lacking]
        return judge(own, reference, limits, observable.strict)

    def verdict(self, row: str, name: str, beside: str | None = None) -> Verdict:
        """A cell in a few words: its class, its distance, the figure that decides; see `judged` for the arguments."""
        result = self.results.get((row, name))
        if result is None or result.error == one.NOTHING:
            return Verdict("none")
        if result.measured is None:
            return Verdict("failed", result.error.split(":")[0].split("(")[0][:48])
        if name == (self.reference if beside is None else beside):
            return Verdict("told", "–")
        return self.observables[row].verdict(result.measured, self.judged(row, name, beside))

    def alike(self, row: str) -> list[tuple[str, str]]:
        """Pairs of columns, the reference left out, that are not distinguishable from each other in a row."""
        names = [name for name in self.columns if name != self.reference]
        there = [name for name in names if (found := self.results.get((row, name))) and found.measured is not None]
        return [
            (a, b)
            for a, b in combinations(there, 2)
            if {self.verdict(row, a, b).word, self.verdict(row, b, a).word} == {"same"}
        ]


def compare(
    calculators: Mapping[str, Given],
    observables: Sequence[Observable],
    directory: str | Path,
    reference: str | None = None,
    executor: Executor | None = None,
    limit_s: float = 900.0,
    progress: bool = True,
    computed: bool = True,
) -> Comparison:
    """Measure every observable on every calculator.

    Each cell runs in a process of its own and is kept in DIRECTORY/cells under a hash of the calculator's weights or
    settings, the observable's settings and the contents of its files: the same call again computes only what is not
    there, what failed, and what has changed.

    Args:
        calculators: columns by name: a model name, a list of them (a committee), a potential, any picklable ASE
            calculator, or a `Model`, `Foreign` or `Labels`.
        observables: the rows.
        directory: where cells are kept.
        reference: name of the column that the others are compared with, usually DFT; None takes the only column of
            recorded labels, where there is one.
        executor: where cells run, any `concurrent.futures.Executor`; default: one process for each core here. It is
            shut down at the end.
        limit_s: longest time of a cell, s.
        progress: show a bar, or a line for each cell where there is no terminal.
        computed: compute what is not there; False takes what is kept, for a report on a part.

    Raises:
        InputError: a setting that cannot work, before anything is computed.
    """
    columns = {name: column(given) for name, given in calculators.items()}
    rows = _named(observables)
    labels = [name for name, maker in columns.items() if isinstance(maker, Labels)]
    reference = labels[0] if reference is None and len(labels) == 1 else reference
    _check(columns, rows, reference, limit_s)
    identities = {name: maker.identity() for name, maker in columns.items()}
    place = Path(directory) / "cells"
    cells = {
        (row, name): Cell(maker, rows[row], one.key(identities[name], rows[row]), _limit(rows[row], limit_s), place)
        for row in rows
        for name, maker in columns.items()
        if not rows[row].only or name in rows[row].only or name == reference
    }
    provenance = {name: maker.provenance() for name, maker in columns.items()}
    fitted = {name: data for name, maker in columns.items() if (data := maker.fitted_to()) is not None}
    warnings = _warnings(rows, columns, fitted)
    with locked(place):
        results = _run(cells, executor, progress) if computed else _kept(cells)
    return Comparison(columns, rows, results, reference, provenance, warnings)


def _warnings(
    rows: Mapping[str, Observable], columns: Mapping[str, Column], fitted: Mapping[str, TrainingData]
) -> dict[tuple[str, str], str]:
    """By row and column: frames that the model was fitted to, elements that its training set lacks, zeros as forces."""
    found: dict[tuple[str, str], str] = {}
    for row, observable in rows.items():
        frames = observable.learnable()
        zero = zero_forces(frames)
        numbers = observable.numbers()
        for name, maker in columns.items():
            strange = maker.unseen(numbers) if numbers else set()
            texts = [overlap_message(fitted.get(name), frames), unseen_message(strange) if strange else "", zero]
            found |= {(row, name): "; ".join(filter(None, texts))} if any(texts) else {}
    return found


def _kept(cells: Mapping[tuple[str, str], Cell]) -> dict[tuple[str, str], Result]:
    """What has been computed; the other cells say that they have not been."""
    later = Result(None, "not computed yet; the same command goes on")
    return {where: one.kept(cell) or later for where, cell in cells.items()}


def _run(
    cells: Mapping[tuple[str, str], Cell], executor: Executor | None, progress: bool
) -> dict[tuple[str, str], Result]:
    """The results of cells: those that are kept, and the others, each key once; those that want to be alone last."""
    distinct = {cell.key: (where, cell) for where, cell in cells.items()}
    found = {key: result for key, (_, cell) in distinct.items() if (result := one.kept(cell)) is not None}
    todo = [cell for key, (_, cell) in distinct.items() if key not in found]
    together: dict[Future[Result], str] = {}
    pool = executor or ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))
    with _Cells(len(distinct), len(found), progress) as bar:
        try:
            together |= {pool.submit(one.compute, cell): cell.key for cell in todo if not cell.observable.alone}
            for future in as_completed(together):
                key = together[future]
                found[key] = bar.told(distinct[key][0], _result(future))
            for cell in todo:
                if cell.observable.alone:
                    found[cell.key] = bar.told(distinct[cell.key][0], _result(pool.submit(one.compute, cell)))
        finally:
            withdraw(together)
            one.stop()
            pool.shutdown(wait=False)
    return {where: found[cell.key] for where, cell in cells.items()}


class _Cells(Progress):
    """Progress with a line for each cell where there is no terminal."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        super().__init__("compare", total, "cells", shown, done)
        if not self.terminal and done:
            self.line(f"compare: {done} of {total} cells are there already")

    def told(self, where: tuple[str, str], result: Result) -> Result:
        """Report one more cell, and return its result."""
        self.update(1, ", ".join(where))
        if not self.terminal:
            failed = result.measured is None and result.error != one.NOTHING
            end = f"no result: {result.error}" if failed else result.error or f"{result.wall_s:.0f} s"
            self.line(f"compare {self.count}/{self.total}: {', '.join(where)}: {end}")
        return result


def _result(future: Future[Result]) -> Result:
    """What a worker gives back, or why it did not."""
    error = future.exception()
    if isinstance(error, InputError):
        raise error  # a full disk
    return future.result() if error is None else Result(None, f"its worker failed: {type(error).__name__}: {error}")


def _named(observables: Sequence[Observable]) -> dict[str, Observable]:
    """Observables by heading; a heading that is there twice is numbered."""
    named: dict[str, Observable] = {}
    for observable in observables:
        name, count = observable.name(), 1
        while name in named:
            count += 1
            name = f"{observable.name()} {count}"
        named[name] = observable
    return named


def _check(
    columns: Mapping[str, Column], rows: Mapping[str, Observable], reference: str | None, limit_s: float
) -> None:
    """Refuse what cannot work before anything is computed."""
    if not columns or not rows:
        raise InputError("a comparison needs at least one column and one observable")
    if reference is not None and reference not in columns:
        raise unknown("reference column", reference, columns)
    for heading, observable in rows.items():
        for name in observable.only:
            if name not in columns:
                raise unknown("column", name, columns)
        for kind in observable.tolerances or {}:
            if kind not in observable.usual:
                raise unknown(f"quantity in the tolerances of {heading}", kind, observable.usual)
        if not 0 < _limit(observable, limit_s) < LONGEST_S:
            raise InputError(f"limit_s of {heading} is {_limit(observable, limit_s):g} s; give 0 to {LONGEST_S:g}")
        observable.check()


def _limit(observable: Observable, limit_s: float) -> float:
    return limit_s if observable.limit_s is None else observable.limit_s
