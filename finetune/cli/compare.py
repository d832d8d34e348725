"""`finetune compare -c CONFIG --output DIR`: every potential beside DFT, in one report."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import Executor
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.cli import inputs
from finetune.comparison import wandb_record
from finetune.comparison.columns import Column
from finetune.comparison.compare import Comparison
from finetune.comparison.compare import compare as compare_all
from finetune.comparison.observable import Observable
from finetune.comparison.report import SYMBOLS, Told, write_report
from finetune.display import cell, message
from finetune.errors import InputError
from finetune.training.run import versions


def run(arguments: list[str]) -> int:
    """Compare with arguments as on the command line."""
    parser = inputs.parser(
        "compare",
        "Every potential beside DFT, in one report. Run it again to go on after it was stopped.",
        "-c CONFIG --output DIR [--OPTION VALUE ...]",
    )
    parser.add_function_arguments(compare, as_group=False, as_positional=False, skip={"told"})
    parsed = parser.parse_args(arguments[1:])
    config = parser.dump(parsed)
    told = Told(parsed.title, [shlex.join(["finetune", *arguments])], config, versions())
    return compare(**inputs.given(parser.instantiate(parsed)), told=told)


def compare(
    columns: dict[str, str | list[str] | Column | None],
    observables: list[Observable],
    output: Path,
    reference: str | None = None,
    executor: Executor | None = None,
    limit_s: float = 900.0,
    title: str = "Comparison with DFT",
    wandb_project: str | None = None,
    told: Told | None = None,
) -> int:
    """Measure every observable on every column and write report.html, report.json and report.md.

    Exit status 1 where no potential gave any result, 130 after a stop, which leaves a report on what is there.

    Args:
        columns: by name, a model name, run directory or checkpoint; a list of them for a committee; any ASE calculator
            (`class_path: finetune.comparison.Foreign`); labelled files as DFT (`finetune.comparison.Labels`).
        observables: what is measured, by `class_path`.
        output: directory of the report and of the cells, which are computed once.
        reference: name of the column that the others are compared with; null takes the only column of recorded labels.
        executor: where cells run, a `concurrent.futures.Executor` by `class_path`; null for processes here.
        limit_s: longest time of one cell, s.
        title: heading of the report.
        wandb_project: log the same tables and plots to this project of Weights & Biases.
        told: commands and configuration for the report.
    """
    wanted = {name: given for name, given in columns.items() if given is not None}
    for name in columns:
        if name not in wanted:
            raise InputError(f"the column {name} is empty; give a model name, a list of them, or a class_path")
    if wandb_project is not None:
        wandb_record.check_login()
    story = told or Told(title, versions=versions())
    try:
        comparison = compare_all(wanted, observables, output, reference, executor, limit_s)
    except KeyboardInterrupt:
        page = write_report(compare_all(wanted, observables, output, reference, computed=False), output, story)
        print(f"stopped; the same command goes on. Report on what is there: {page}", file=sys.stderr)
        return 130
    page = write_report(comparison, output, story)
    Console().print(table(comparison))
    others = {where: result for where, result in comparison.results.items() if where[1] != comparison.reference}
    failed = {where: result.error for where, result in others.items() if result.measured is None}
    for (row, name), error in failed.items():
        print(message(f"no result: {row}, {name}: {error}"))
    for (row, name), text in comparison.warnings.items():
        print(message(f"beware: {row}, {name}: {text}"))
    print(f"report: {page}")
    if wandb_project is not None:
        wandb_record.log(comparison, story, wandb_project, output)
    return 1 if others and len(failed) == len(others) else 0


def table(comparison: Comparison) -> Table:
    """The matrix of verdicts."""
    words = "Distance of the worst figure from the reference, in units of DFT's own uncertainty or of the floor"
    shown = Table(box=box.SIMPLE_HEAD, caption=words)
    names = [name for name in comparison.columns if name != comparison.reference]
    shown.add_column("")
    for name in names:
        shown.add_column(cell(name))
    for row in comparison.observables:
        cells: list[Text] = []
        for name in names:
            verdict = comparison.verdict(row, name)
            known = " ⚠" if (row, name) in comparison.warnings else ""
            cells.append(cell(f"{SYMBOLS[verdict.word]} {verdict.brief.strip('–')}{known}".strip()))
        shown.add_row(cell(row), *cells)
    return shown
