"""Figures as PNG: parity of predictions and labels, training curves, learning curves; without pyplot's global state."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from finetune.display import in_plot
from finetune.errors import InputError
from finetune.evaluation import Evaluation
from finetune.files import whole
from finetune.metrics import mae
from finetune.references import fit_references
from finetune.uncertainty import Coverage

# Okabe and Ito's palette, told apart with every colour vision; the yellow, which is faint on white, is left out
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.45"
DPI = 150
LEGEND_COLUMNS = 6
MANY = 20_000  # points of a family, beyond which a random subset is drawn
LABELS = {"loss": "loss", "energy_mae": "energy MAE, meV/atom", "forces_mae": "forces MAE, meV/Å"}
LABELS |= {"stress_mae": "stress MAE, meV/Å³"}


def parity(evaluation: Evaluation, path: str | Path) -> None:
    """Predicted against DFT energy per atom, force components and stress components, coloured by family.

    Energies are shown relative to the best energy per element of the labels, or the scale would be that of composition;
    where the errors compare them after a shift per element they are shifted here too.

    Raises:
        InputError: the file cannot be written.
    """
    families = sorted({frame.family for frame in evaluation.frames})
    pairs = _parity_pairs(evaluation)
    height = 4.56 + 0.24 * math.ceil(len(families) / LEGEND_COLUMNS)
    figure = Figure(figsize=(12.0, height), layout="constrained")
    for axes, (title, unit, label, predicted, owner) in zip(np.ravel(figure.subplots(1, 3)), pairs, strict=True):
        known = np.isfinite(label) & np.isfinite(predicted)
        axes.set(title=title, xlabel=f"DFT, {unit}", ylabel=f"predicted, {unit}", box_aspect=1)
        bare(axes)
        if not known.any():
            axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center", color=GREY)
            axes.set(xticks=[], yticks=[])
            continue
        limits = _limits(label[known], predicted[known])
        axes.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
        for k, family in enumerate(families):
            chosen = _few(np.flatnonzero(known & (owner == family)))
            style = {"s": 7.0 if len(chosen) > 300 else 18.0, "alpha": 0.45 if len(chosen) > 300 else 0.85}
            axes.scatter(label[chosen], predicted[chosen], linewidths=0, zorder=2, **look(k), **style)
        axes.set(xlim=limits, ylim=limits)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        error = 1e3 * mae(predicted, label)
        text = f"MAE {error:.0f} m{unit}" if error >= 100 else f"MAE {error:.3g} m{unit}"
        if unit == "eV/atom" and evaluation.errors.energy_shifted:
            text += "\nafter a shift per element"
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 2.0}
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", bbox=box)
    _legend_of_families(figure, families)
    save(figure, path)


def curves(metrics: str | Path, path: str | Path) -> None:
    """Training curves: loss and mean absolute errors of training and validation against the epoch, on a log scale.

    Args:
        metrics: CSV with a column `epoch` and columns `train/loss`, `valid/loss`, `train/energy_mae` (eV/atom), ...;
            cells may be empty, as Lightning's CSVLogger leaves them.
        path: the PNG.

    Raises:
        InputError: there is no such table, it has none of these columns, or the file cannot be written.
    """
    columns = _read(Path(metrics))
    names = [name for name in LABELS if any(f"{stage}/{name}" in columns for stage in ("train", "valid"))]
    if not names:
        raise InputError(f"{metrics} has no column like train/loss or valid/forces_mae; give the metrics.csv of a fit")
    figure = Figure(figsize=(3.4 * len(names), 3.4), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, len(names), squeeze=False)), names, strict=True):
        scale = 1.0 if name == "loss" else 1e3
        for stage, colour, marker in (("train", COLOURS[0], "o"), ("valid", COLOURS[4], "s")):
            points = [(e, scale * y) for e, y in columns.get(f"{stage}/{name}", []) if y > 0]
            if points:
                size = 3.5 if len(points) <= 60 else 0.0
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=size, label=stage)
        axes.set(xlabel="epoch", title=LABELS[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _log(axes, "y")
        bare(axes)
    figure.axes[0].legend(frameon=False)
    save(figure, path)


def learning_curve(
    errors: Mapping[str, Sequence[tuple[int, float]]],
    path: str | Path,
    quantity: str = "forces MAE, meV/Å",
    levels: Mapping[str, float] | None = None,
) -> None:
    """Error against the number of labels, one line per model, both on log scales.

    Args:
        errors: for each model, pairs of number of labelled frames and error.
        path: the PNG.
        quantity: what the error is, with its unit.
        levels: errors of models that learn nothing from these labels, drawn as dashed lines.

    Raises:
        InputError: there is nothing to draw, or the file cannot be written.
    """
    if not any(errors.values()):
        raise InputError("a learning curve needs at least one model with one number of labels; none was given")
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(cycler(color=COLOURS) + cycler(marker=MARKERS))
    for name, points in errors.items():
        axes.plot(*np.array(sorted(points)).T, label=in_plot(name))
    for k, (name, value) in enumerate((levels or {}).items()):
        axes.axhline(value, color=GREY, linestyle=("--", ":", "-.")[k % 3], label=in_plot(name))
    axes.set(xlabel="labelled frames", ylabel=in_plot(quantity))
    _log(axes, "x")
    _log(axes, "y")
    counts = sorted({n for points in errors.values() for n, _ in points})
    axes.set_xticks(counts, labels=[str(n) for n in counts])
    bare(axes)
    axes.legend(frameon=False)
    save(figure, path)


def reliability(report: Coverage, path: str | Path) -> None:
    """Reliability diagram: share of true errors at or below the stated ones against the level that was promised.

    Args:
        report: see `finetune.uncertainty.coverage`.
        path: the PNG.

    Raises:
        InputError: the file cannot be written.
    """
    figure = Figure(figsize=(4.4, 4.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, zorder=1)
    axes.axvline(report.level, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    for k, (name, row) in enumerate(report.element.items()):
        axes.plot(report.levels, row.coverage, color=COLOURS[k % len(COLOURS)], label=f"{name} ({row.atoms} atoms)")
    axes.plot(report.levels, report.all.coverage, color="black", linewidth=2.2, label=f"all ({report.all.atoms})")
    axes.set(xlim=(0, 1), ylim=(0, 1), box_aspect=1)
    axes.set(title=f"{100 * report.all.covered:.1f} % of force errors covered at {100 * report.level:g} %")
    axes.set(xlabel="stated level", ylabel="share of errors covered")
    bare(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def _parity_pairs(evaluation: Evaluation) -> list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Title, unit, labels, predictions and family of every point of the three panels."""
    frames = evaluation.frames
    numbers = [frame.atoms.numbers for frame in frames]
    n, family = evaluation.n_atoms.numpy(), np.array([frame.family for frame in frames], dtype=object)
    label, predicted = (p.energy.numpy() for p in (evaluation.labels, evaluation.predicted))
    zero = fit_references(numbers, label)
    moved = predicted if evaluation.alignment is None else predicted + evaluation.alignment.shift
    base = np.array([zero.of(z) for z in numbers])
    energy = ("energy beyond composition", "eV/atom", (label - base) / n, (moved - base) / n, family)
    rows = []
    for name, unit, owner in (("forces", "eV/Å", np.repeat(family, n)), ("stress", "eV/Å³", family)):
        x, y = (getattr(p, name).numpy().reshape(len(owner), -1) for p in (evaluation.labels, evaluation.predicted))
        rows.append((name, unit, x.ravel(), y.ravel(), np.repeat(owner, x.shape[1])))
    return [energy, *rows]


def _limits(label: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Common limits of both axes, with a margin."""
    low, high = min(label.min(), predicted.min()), max(label.max(), predicted.max())
    margin = 0.05 * (high - low) or max(0.05 * abs(high), 1e-3)
    return float(low - margin), float(high + margin)


def _few(indices: np.ndarray) -> np.ndarray:
    """At most `MANY` of them, always the same."""
    return indices if len(indices) <= MANY else np.random.default_rng(0).choice(indices, MANY, replace=False)


def look(k: int) -> dict[str, Any]:
    """Colour and marker of family k; colours come again with another marker."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k // len(COLOURS) % len(MARKERS)]}


def _legend_of_families(figure: Figure, families: Sequence[str]) -> None:
    """One legend for all panels, below them."""
    panel = figure.axes[0]
    handles = [
        panel.scatter([], [], label=in_plot(family), linewidths=0, **look(k)) for k, family in enumerate(families)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(families), LEGEND_COLUMNS), frameon=False)


def _read(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Columns of a CSV of metrics as (epoch, value) pairs; of several values of an epoch the last counts."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("epoch")]
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}); give the metrics.csv of a fit") from error
    columns: dict[str, dict[float, float]] = {}
    for row in rows:
        for name, text in row.items():
            if text and name != "epoch" and math.isfinite(value := float(text)):
                columns.setdefault(name, {})[float(row["epoch"])] = value
    return {name: sorted(points.items()) for name, points in columns.items()}


def _log(axes: Axes, which: str) -> None:
    """A log scale with plain numbers at its ticks."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def bare(axes: Axes) -> None:
    """No frame above and to the right, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole(Path(path)) as partial:
        FigureCanvasAgg(figure).print_figure(partial, dpi=DPI, format="png")
