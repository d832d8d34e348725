"""Errors on labelled frames: by family, element, size of the force, and distance from the interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.neighborlist import neighbor_list
from scipy.stats import spearmanr

from finetune.calculators import PotentialCalculator
from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, single_points
from finetune.comparison.recorded import Recorded
from finetune.data.checking import check
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.metrics import UNITS, Row, errors, force_errors
from finetune.properties import Properties, concatenate
from finetune.references import fit_references

WORDS = {
    "energy_mae": "energy MAE",
    "energy_rmse": "energy RMSE",
    "forces_mae": "forces MAE",
    "forces_rmse": "forces RMSE",
    "forces_slope": "forces slope",
    "forces_cosine": "forces cosine",
    "stress_mae": "stress MAE",
}
MANY = 3000  # points of a parity plot, beyond which a random part is drawn


@dataclass(frozen=True, kw_only=True)
class Errors(Observable):
    """Errors of energy, forces and stress on labelled frames.

    Energies of a model whose reference energies were fitted to DFT's count as they come. Those of any other have their
    own zero, so they are compared after the least-squares shift per element that fits these frames best. What they are
    the other way is told too.

    Attributes:
        files: labelled structures: files, folders, glob patterns.
        force_edges: sizes of the reference force, eV/Å, between which its error is told by size.
        metal: element of the metal, empty where there is no interface; an atom of it without other elements within
            `bond` belongs to the metal's side.
        bond: longest distance, Å, of such a neighbour.
        distance_edges: distances from the other side, Å, between which errors are told by distance from the interface.
        seed: of the choice of points that are drawn.
    """

    heading: ClassVar[str] = "Errors on labelled frames"
    about: ClassVar[str] = (
        "Against DFT. Energies of fine-tuned models count as they come, those of others after a shift per element that "
        "is fitted to these very frames. Slope of predicted against DFT forces below 1: too soft a potential."
    )
    points: ClassVar[bool] = True
    revision: ClassVar[int] = 2
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "energy MAE": Tolerance(3.0, target=0.0),
        "forces MAE": Tolerance(10.0, target=0.0),
        "stress MAE": Tolerance(1.0, target=0.0),
        "forces slope": Tolerance(0.02, target=1.0),
    }

    files: Sequence[str]
    force_edges: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 5.0)
    metal: str = ""
    bond: float = 3.2
    distance_edges: Sequence[float] = (0.0, 3.5, 5.0, 8.0)
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Errors over all frames, and of their parts."""
        frames = read(list(self.files))
        check(frames)
        said = single_points([frame.atoms for frame in frames], calculator)
        pairs = [(frame, point) for frame, point in zip(frames, said, strict=True) if point is not None]
        if not pairs:
            return Measured()
        chosen, predicted = [frame for frame, _ in pairs], concatenate([point for _, point in pairs])
        labels = concatenate([frame.labels for frame in chosen])
        aligned = isinstance(calculator, Recorded) or _aligned(calculator)
        figures = _by_family_and_element(chosen, predicted, labels, aligned)
        figures += self._by_size(predicted, labels) + self._by_distance(chosen, predicted, labels)
        spread, curves = self._spread(predicted, labels)
        curves = [*self._parity(chosen, predicted, labels, aligned), *curves]
        return Measured(figures + spread, curves, _notes(chosen, aligned))

    def _spread(self, predicted: Properties, labels: Properties) -> tuple[list[Figure], list[Curve]]:
        """How far the disagreement of a committee tells its error; nothing for what is no committee."""
        if predicted.forces_std is None:
            return [], []
        spread = predicted.forces_std.norm(dim=1).numpy()
        error = (predicted.forces - labels.forces).norm(dim=1).numpy()
        known = np.isfinite(error)
        spread, error = spread[known], error[known]
        some = np.sort(np.random.default_rng(self.seed).permutation(len(error))[:MANY])
        curve = Curve(
            *("Error against committee spread", spread[some].tolist(), error[some].tolist()),
            *("standard deviation of the force, eV/Å", "error of the force, eV/Å"),
            style="points",
        )
        rank = float(spearmanr(spread, error).statistic)
        return [Figure("", "rank correlation of spread and error", rank)], [curve]

    def _by_size(self, predicted: Properties, labels: Properties) -> list[Figure]:
        """Errors of forces by the size of the reference."""
        size = labels.forces.norm(dim=1).numpy()
        return _binned("|F|", "eV/Å", self.force_edges, size, predicted, labels)

    def _by_distance(self, frames: Sequence[Frame], predicted: Properties, labels: Properties) -> list[Figure]:
        """Errors of forces by the distance from the other side of the interface."""
        distance = np.concatenate([from_interface(frame.atoms, self.metal, self.bond) for frame in frames])
        return _binned("from the interface", "Å", self.distance_edges, distance, predicted, labels)

    def _parity(self, frames: Sequence[Frame], predicted: Properties, labels: Properties, aligned: bool) -> list[Curve]:
        """Predicted against reference forces and energies, these after a shift where the model has its own zero."""
        rng = np.random.default_rng(self.seed)
        x, y = labels.forces.numpy().ravel(), predicted.forces.numpy().ravel()
        some = np.sort(rng.permutation(len(x))[:MANY])
        numbers, sizes = [frame.atoms.numbers for frame in frames], np.array([len(frame.atoms) for frame in frames])
        energy, ours = labels.energy.numpy(), predicted.energy.numpy()
        common = fit_references(numbers, energy)
        shift = fit_references(numbers, energy - ours)
        zero = np.array([common.of(z) for z in numbers])
        ours = ours if aligned else ours + np.array([shift.of(z) for z in numbers])
        return [
            Curve(
                *("Forces", x[some].tolist(), y[some].tolist(), "DFT, eV/Å", "predicted, eV/Å"),
                style="points",
                diagonal=True,
            ),
            Curve(
                *("Energies", ((energy - zero) / sizes).tolist(), ((ours - zero) / sizes).tolist()),
                *("DFT, less energy per element, eV/atom", "predicted, eV/atom"),
                style="points",
                diagonal=True,
            ),
        ]


def from_interface(atoms: Atoms, metal: str, bond: float) -> np.ndarray:
    """Distance of each atom, Å, from the nearest atom of the other side; NaN where there is only one side.

    An atom of the metal without other elements within `bond` is on the metal's side, every other atom on the other.
    """
    i, j = neighbor_list("ij", atoms, bond)
    symbols = np.array(atoms.get_chemical_symbols())
    bound = np.zeros(len(atoms), dtype=bool)
    bound[i[symbols[j] != metal]] = True
    side = (symbols == metal) & ~bound
    if side.all() or not side.any():
        return np.full(len(atoms), np.nan)
    distances = atoms.get_all_distances(mic=True)
    return np.where(side, distances[:, ~side].min(axis=1), distances[:, side].min(axis=1))


def _aligned(calculator: BaseCalculator) -> bool:
    """Whether a calculator is a model of ours whose reference energies were fitted to labels."""
    return isinstance(calculator, PotentialCalculator) and calculator.potential.shifted


def _notes(frames: Sequence[Frame], aligned: bool) -> list[str]:
    """How many frames there are, and what their energies are compared after."""
    atoms = sum(len(frame.atoms) for frame in frames)
    told = f"{len(frames)} frames, {atoms:,} atoms; at most {MANY:,} components of forces are drawn"
    if aligned:
        return [told, "energies as they come: they are meant to be DFT's"]
    rank = fit_references([frame.atoms.numbers for frame in frames], np.zeros(len(frames))).rank
    text = f"energies after a shift of {rank} numbers, one per element, fitted to these {len(frames)} frames"
    return [told, text + (": nothing is left to judge" if len(frames) <= rank else " themselves")]


def _by_family_and_element(
    frames: Sequence[Frame], predicted: Properties, labels: Properties, aligned: bool
) -> list[Figure]:
    """Figures of all frames, per family and per element."""
    sizes = torch.tensor([len(frame.atoms) for frame in frames])
    numbers = torch.from_numpy(np.concatenate([frame.atoms.numbers for frame in frames]))
    families = [frame.family for frame in frames]
    found = errors(predicted, labels, sizes, families, numbers, shift=not aligned)
    other = errors(predicted, labels, sizes, families, numbers, shift=aligned)
    known = errors(labels, labels, sizes, families, numbers)
    figures = _figures("", found.all, known.all)
    words = "energy MAE after a shift" if aligned else "energy MAE without a shift"
    figures.append(Figure("", words, float(other.all["energy_mae"]), "meV/atom"))
    for name, row in found.family.items():
        figures += _figures(name, row, known.family[name])
    for name, row in found.element.items():
        figures += _figures(name, row, known.element[name])
    return figures


def _figures(subject: str, row: Row, known: Row) -> list[Figure]:
    """Errors of what labels are known for, as those of the labels themselves tell; NaN where a prediction is none."""
    return [
        Figure(subject, words, float(row[key]), "" if UNITS[key] == "1" else UNITS[key])
        for key, words in WORDS.items()
        if key in known and np.isfinite(known[key])
    ]


def _binned(
    what: str, unit: str, edges: Sequence[float], values: np.ndarray, predicted: Properties, labels: Properties
) -> list[Figure]:
    """MAE of the forces of atoms between edges; told, not judged: the parts add up to what is judged."""
    figures = []
    for low, high in zip(edges, [*edges[1:], np.inf], strict=True):
        chosen = (values >= low) & (values < high)
        if chosen.any():
            row = force_errors(predicted.forces.numpy()[chosen], labels.forces.numpy()[chosen])
            name = f"{what} {low:g} to {high:g} {unit}" if np.isfinite(high) else f"{what} above {low:g} {unit}"
            figures.append(Figure(f"{name}, {chosen.sum()} atoms", "forces MAE of a part", row["forces_mae"], "meV/Å"))
    return figures
