"""A potential against DFT: predictions for labelled frames, their errors, and tables and JSON of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from rich import box
from rich.table import Table
from torch import Tensor

from finetune.data.batching import collate_batch, plan
from finetune.data.caching import build_graphs
from finetune.data.frames import Frame
from finetune.display import cell
from finetune.errors import InputError
from finetune.graph import Graph
from finetune.metrics import Difference, Errors, Row, errors, paired
from finetune.potential import Potential
from finetune.progress import Progress
from finetune.properties import PER_STRUCTURE, Properties, concatenate
from finetune.references import Alignment, References, align, align_by, fit_references

CHUNK = 1000  # frames whose graphs are held at once
WIDE, NARROW = 100, 92  # columns of the table of errors, and those below which it goes without the RMSE
LARGE = 1e4  # values that are written as powers of ten, so that the table keeps its width
MEANING = (
    "Below each error its 95 % interval over the groups. Slope of predicted against DFT forces below 1: too soft a "
    "potential. Cosine 1: directions agree."
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of a potential for labelled frames, and their errors.

    Attributes:
        frames: the frames; the other attributes are in their order.
        predicted: predictions for all frames, float64, on the CPU; energies without any shift.
        labels: labels of all frames, NaN where not known.
        errors: over all frames, per family and per element.
        alignment: energy shifts under which energies are compared, None where they are compared as predicted.
    """

    frames: Sequence[Frame]
    predicted: Properties
    labels: Properties
    errors: Errors
    alignment: Alignment | None = None

    @property
    def n_atoms(self) -> Int[Tensor, " structures"]:
        """Number of atoms of each frame."""
        return torch.tensor([len(frame.atoms) for frame in self.frames])

    @property
    def numbers(self) -> Int[Tensor, " atoms"]:
        """Atomic number of each atom."""
        return torch.cat([torch.from_numpy(frame.atoms.get_atomic_numbers()) for frame in self.frames])

    def json(self) -> dict[str, Any]:
        """The errors as plain numbers, with their units; see `Errors.json`."""
        return self.errors.json()

    def table(self, width: int = WIDE) -> Table:
        """Return the errors as a table of at most 100 columns; below 92 without the RMSE."""
        return errors_table(self.errors, width)


def evaluate(
    potential: Potential,
    frames: Sequence[Frame],
    shift: bool | References = False,
    batch_edges: int = 8000,
    progress: bool = True,
    graphs: Sequence[Graph] | None = None,
) -> Evaluation:
    """Predict labelled frames and compare.

    Args:
        potential: any potential; it is evaluated as it stands, on its device, in its dtype.
        frames: labelled frames, already checked.
        shift: for a model whose energy zero is not that of the labels: compare energies after an energy shift per
            element fitted to the frames of other groups, or by the given references, fitted to other frames.
        batch_edges: largest number of edges in a batch.
        progress: show a bar if it takes long.
        graphs: the potential's graphs of the frames, where they have been built already.

    Raises:
        InputError: there are no frames, or the potential cannot take one of them.
    """
    if not frames:
        raise InputError("there are no frames to evaluate; give a file that has some")
    was_training = potential.training
    potential.eval()
    parts: list[Properties] = []
    try:
        with Progress("evaluate", len(frames), "frames", shown=progress) as bar:
            for start in range(0, len(frames), CHUNK):
                chunk = frames[start : start + CHUNK]
                known = build_graphs(potential, chunk) if graphs is None else graphs[start : start + CHUNK]
                parts += _predict(potential, chunk, known, batch_edges, bar)
    finally:
        potential.train(was_training)
    predicted = concatenate(parts)
    labels = concatenate([frame.labels for frame in frames])
    n_atoms = torch.tensor([len(frame.atoms) for frame in frames])
    numbers = torch.cat([torch.from_numpy(frame.atoms.get_atomic_numbers()) for frame in frames])
    alignment = _alignment(frames, labels.energy - predicted.energy, shift)
    families, groups = [frame.family for frame in frames], [frame.group for frame in frames]
    result = errors(predicted, labels, n_atoms, families, numbers, groups, alignment)
    return Evaluation(frames, predicted, labels, result, alignment)


def _alignment(frames: Sequence[Frame], difference: Tensor, shift: bool | References) -> Alignment | None:
    """Energy shifts of frames; None where energies are compared as predicted."""
    numbers = [frame.atoms.numbers for frame in frames]
    if isinstance(shift, References):
        return align_by(shift, numbers, f"{shift.frames} other frames")
    return align(numbers, difference.numpy(), [frame.group for frame in frames]) if shift else None


def fit_shift(potential: Potential, frames: Sequence[Frame], batch_edges: int = 8000) -> References:
    """Fit the energy shift per element of a potential to labelled frames, for `evaluate` on other frames.

    Raises:
        InputError: there are no frames, or the potential cannot take one of them.
    """
    found = evaluate(potential, frames, batch_edges=batch_edges)
    difference = (found.labels.energy - found.predicted.energy).numpy()
    return fit_references([frame.atoms.numbers for frame in frames], difference)


def _predict(
    potential: Potential, frames: Sequence[Frame], graphs: Sequence[Graph], batch_edges: int, bar: Progress
) -> list[Properties]:
    """Predictions for each frame, float64 on the CPU, in order of the frames whatever the batches are."""
    labels = [frame.labels for frame in frames]
    found: dict[int, Properties] = {}
    for indices in plan([int(graph["n_edges"].sum()) for graph in graphs], batch_edges):
        batch = collate_batch(potential.collate, graphs, labels, indices).to(potential.device)
        predicted = potential(batch.graph).detach().to("cpu").to(torch.float64)
        found |= zip(indices, _split(predicted, [len(frames[i].atoms) for i in indices]), strict=True)
        bar.update(len(indices))
    return [found[i] for i in range(len(frames))]


def _split(batch: Properties, sizes: Sequence[int]) -> Iterator[Properties]:
    """The structures of a batch one by one."""
    parts = {
        name: value.split([1] * len(sizes) if name in PER_STRUCTURE else list(sizes))
        for name, value in batch.known().items()
    }
    for k in range(len(sizes)):
        yield Properties(**{name: part[k] for name, part in parts.items()})


def errors_table(result: Errors, width: int = WIDE) -> Table:
    """Return a table of all frames, each family and each element: MAE and RMSE with intervals, slope and cosine.

    Args:
        result: the errors.
        width: columns of the terminal; below 92 the RMSE is left out.
    """
    columns = {
        "energy_mae": "energy\nMAE\nmeV/atom",
        "energy_rmse": "energy\nRMSE\nmeV/atom",
        "forces_mae": "forces\nMAE\nmeV/Å",
        "forces_rmse": "forces\nRMSE\nmeV/Å",
        "forces_slope": "forces\nslope\n",
        "forces_cosine": "forces\ncosine\n",
        "stress_mae": "stress\nMAE\nmeV/Å³",
    }
    if width < NARROW:
        columns = {key: header for key, header in columns.items() if not key.endswith("rmse")}
    table = _empty(f"{MEANING} {result.alignment}" if result.energy_shifted else MEANING)
    table.add_column("frames,\natoms", justify="right", no_wrap=True)
    for header in columns.values():
        table.add_column(header, justify="right", no_wrap=True)
    for block in _blocks(result):
        for name, row in block:
            count = row.get("atoms", row.get("frames", result.frames))
            table.add_row(cell(name), str(count), *(_with_interval(key, row) for key in columns))
        table.add_section()
    return table


def compare_table(before: Evaluation | Errors, after: Evaluation | Errors) -> Table:
    """Mean absolute errors of energy, forces and stress and the slope of forces, before and after fine-tuning."""
    first, second = (x.errors if isinstance(x, Evaluation) else x for x in (before, after))
    columns = {
        "energy_mae": "energy MAE, meV/atom\nbefore → after ratio",
        "forces_mae": "forces MAE, meV/Å\nbefore → after ratio",
        "stress_mae": "stress MAE, meV/Å³\nbefore → after ratio",
        "forces_slope": "forces slope\nbefore → after",
    }
    notes = [f"{x.alignment} ({word})" for word, x in (("before", first), ("after", second)) if x.energy_shifted]
    meaning = (
        "Ratio: error after over error before. Below: 95 % intervals over the groups of the error after and of the "
        "ratio, both errors over the same groups. Slope of predicted against DFT forces below 1: too soft a potential."
    )
    table = _empty(" ".join([meaning, *notes]))
    for header in columns.values():
        table.add_column(header, justify="right", no_wrap=True)
    for kind, old, new in zip(("all", "family", "element"), _blocks(first), _blocks(second), strict=True):
        later = dict(new)
        for name, row in old:
            family = name if kind == "family" else None
            pair = None if kind == "element" else {key: paired(first, second, key, family) for key in columns}
            table.add_row(cell(name), *(_change(key, row, later.get(name, {}), pair) for key in columns))
        table.add_section()
    return table


def _empty(caption: str) -> Table:
    """A table with its column of names."""
    note = cell(caption, "table.caption")
    table = Table(box=box.SIMPLE_HEAD, caption=note, caption_justify="left", padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=9)
    return table


def _blocks(result: Errors) -> list[list[tuple[str, Row]]]:
    """Named rows: all frames; families; elements."""
    return [[("all", result.all)], list(result.family.items()), list(result.element.items())]


def _number(key: str, value: float) -> str:
    """A value as it stands in a table; a dash where nothing is known."""
    if math.isnan(value):
        return "–"
    if abs(value) >= LARGE:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.2f}" if key in ("forces_slope", "forces_cosine") else f"{value:.1f}"


def _with_interval(key: str, row: Row) -> str:
    """A value with its interval on the next line; empty where the row has no such error."""
    if key not in row:
        return ""
    return f"{_number(key, row[key])}\n{_interval(key, row)}".rstrip("\n")


def _interval(key: str, row: Row) -> str:
    """`148–201`; empty without an interval."""
    low, high = (row.get(f"{key}_{end}", math.nan) for end in ("low", "high"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{_short(key, low)}–{_short(key, high)}"


def _short(key: str, value: float) -> str:
    """An end of an interval, without digits that mean nothing."""
    if abs(value) >= LARGE:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    if key in ("forces_slope", "forces_cosine"):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 20 else f"{value:.1f}"


def _change(key: str, before: Row, after: Row, pair: Mapping[str, Difference] | None) -> str:
    """`233.0 → 148.1 0.64`, without the ratio for the slope; nothing where there is nothing to compare."""
    if key not in before:
        return ""
    old, new = before[key], after.get(key, math.nan)
    text, ends = f"{_number(key, old):>6} → {_number(key, new):>6}", _interval(key, after)
    if key == "forces_slope":
        return f"{text}\n{ends}" if ends else text
    text = f"{text} {new / old:5.2f}" if old > 0 and math.isfinite(new) else f"{text}      "
    low, high = pair[key].ratio_interval if pair is not None else (math.nan, math.nan)
    ratio = f" {low:.2f}–{high:.2f}" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{text}\n{ends}{ratio}" if ends else text
