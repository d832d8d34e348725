"""A potential against DFT: predictions for labelled frames, their errors, and tables and JSON of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
from finetune.errors import InputError
from finetune.graph import Graph
from finetune.metrics import Errors, Row, errors
from finetune.potential import Potential
from finetune.progress import Progress
from finetune.properties import PER_STRUCTURE, Properties, concatenate

CHUNK = 1000  # frames whose graphs are held at once
SHIFTED = (
    "Energies are compared after the shift per element that fits these very frames best: the model was not fitted to "
    "their zero, and one that was is not helped like that."
)
MEANING = "Slope of predicted against DFT forces below 1: too soft a potential. Cosine 1: directions agree."


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a potential predicts for labelled frames, and its errors.

    Attributes:
        frames: the frames, in the order of what follows.
        predicted: predictions for all frames, float64, on the CPU; energies without any shift.
        labels: labels of all frames, NaN where not known.
        errors: over all frames, per family and per element.
    """

    frames: Sequence[Frame]
    predicted: Properties
    labels: Properties
    errors: Errors

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

    def table(self) -> Table:
        """The errors as a table of at most 100 columns."""
        return errors_table(self.errors)


def evaluate(
    potential: Potential,
    frames: Sequence[Frame],
    shift: bool = False,
    batch_edges: int = 8000,
    progress: bool = True,
    graphs: Sequence[Graph] | None = None,
) -> Evaluation:
    """Predict labelled frames and compare.

    Args:
        potential: any potential; it is evaluated as it stands, on its device, in its dtype.
        frames: labelled frames, already checked.
        shift: compare energies after the per-element shift that fits them best, for a model that was not fine-tuned.
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
    result = errors(predicted, labels, n_atoms, [frame.family for frame in frames], numbers, shift)
    return Evaluation(frames, predicted, labels, result)


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


def errors_table(result: Errors) -> Table:
    """Rows: all frames, each family, each element; columns: MAE and RMSE with their units, slope and cosine."""
    columns = {
        "energy_mae": "energy\nMAE\nmeV/atom",
        "energy_rmse": "energy\nRMSE\nmeV/atom",
        "forces_mae": "forces\nMAE\nmeV/Å",
        "forces_rmse": "forces\nRMSE\nmeV/Å",
        "forces_slope": "forces\nslope\n",
        "forces_cosine": "forces\ncosine\n",
        "stress_mae": "stress\nMAE\nmeV/Å³",
    }
    table = _empty(f"{MEANING} {SHIFTED}" if result.energy_shifted else MEANING)
    table.add_column("frames,\natoms", justify="right", no_wrap=True)
    for header in columns.values():
        table.add_column(header, justify="right", no_wrap=True)
    for block in _blocks(result):
        for name, row in block:
            count = row.get("atoms", row.get("frames", result.frames))
            table.add_row(name, str(count), *(_number(key, row[key]) if key in row else "" for key in columns))
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
    times = [word for word, x in (("before", first), ("after", second)) if x.energy_shifted]
    note = f" {SHIFTED[:-1]} ({' and '.join(times)})." if times else ""
    table = _empty(f"Ratio: error after over error before. {MEANING.split(' Cosine')[0]}{note}")
    for header in columns.values():
        table.add_column(header, justify="right", no_wrap=True)
    for old, new in zip(_blocks(first), _blocks(second), strict=True):
        later = dict(new)
        for name, row in old:
            table.add_row(name, *(_change(key, row, later.get(name, {})) for key in columns))
        table.add_section()
    return table


def _empty(caption: str) -> Table:
    """A table with its column of names."""
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=9)
    return table


def _blocks(result: Errors) -> list[list[tuple[str, Row]]]:
    """Named rows: all frames; families; elements."""
    return [[("all", result.all)], list(result.family.items()), list(result.element.items())]


def _number(key: str, value: float) -> str:
    """A value as it stands in a table; a dash where nothing is known."""
    if math.isnan(value):
        return "–"
    return f"{value:.2f}" if key in ("forces_slope", "forces_cosine") else f"{value:.1f}"


def _change(key: str, before: Row, after: Row) -> str:
    """`233.0 → 148.1 0.64`, without the ratio for the slope; nothing where there is nothing to compare."""
    if key not in before:
        return ""
    old, new = before[key], after.get(key, math.nan)
    text = f"{_number(key, old):>6} → {_number(key, new):>6}"
    if key == "forces_slope":
        return text
    return f"{text} {new / old:5.2f}" if old > 0 and math.isfinite(new) else f"{text}      "
