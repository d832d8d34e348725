"""Errors of predictions against labels, masked where a label is not known: of all frames, per family, per element."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch import Tensor

from finetune.properties import Properties
from finetune.references import fit_references

SMALL_FORCE = 0.05  # eV/Å; the direction of a smaller reference force is mostly noise

UNITS: Mapping[str, str] = {
    "energy_mae": "meV/atom",
    "energy_rmse": "meV/atom",
    "forces_mae": "meV/Å",
    "forces_rmse": "meV/Å",
    "forces_slope": "1",
    "forces_cosine": "1",
    "stress_mae": "meV/Å³",
    "stress_rmse": "meV/Å³",
}

Row = dict[str, float | int]


@dataclass(frozen=True)
class Errors:
    """Errors of a set of frames, in the units of `UNITS`; NaN where nothing is known.

    Attributes:
        all: errors over all frames.
        family: the same for the frames of each family, with their number as `frames`.
        element: errors of the forces on the atoms of each element, by symbol, with their number as `atoms`.
        frames: number of frames.
        energy_shifted: energies were compared after the best energy shift per element.
    """

    all: Row
    family: dict[str, Row]
    element: dict[str, Row]
    frames: int
    energy_shifted: bool

    def json(self) -> dict[str, Any]:
        """Plain numbers for a JSON file, null where nothing is known."""
        return {
            "all": _plain(self.all),
            "family": {name: _plain(row) for name, row in self.family.items()},
            "element": {name: _plain(row) for name, row in self.element.items()},
            "frames": self.frames,
            "energy_shifted": self.energy_shifted,
            "units": dict(UNITS),
        }


def errors(
    predicted: Properties,
    labels: Properties,
    n_atoms: Tensor,
    family: Sequence[str],
    numbers: Tensor,
    shift: bool = False,
) -> Errors:
    """Errors of energy per atom, forces and stress over all frames, per family, and of the forces per element.

    Args:
        predicted: predictions for all frames.
        labels: labels of the same frames, NaN where not known.
        n_atoms: atoms of each frame, shape (structures).
        family: family of each frame.
        numbers: atomic number of each atom, shape (atoms).
        shift: compare energies after the per-element shift that fits them best (least squares, minimum norm), for a
            model whose energy zero is not that of the labels; NaN where there are no more frames than elements.
    """
    sizes, z = _array(n_atoms).astype(int), _array(numbers).astype(int)
    p_energy, energy = _array(predicted.energy), _array(labels.energy)
    if shift:
        frames = np.split(z, np.cumsum(sizes)[:-1])
        references = fit_references(frames, energy - p_energy)
        p_energy = p_energy + [references.of(frame) for frame in frames]
        if len(frames) <= len(np.unique(z)):  # the shift can take up everything
            p_energy, energy = np.full(len(frames), np.nan), np.full(len(frames), np.nan)
    p_forces, forces = _array(predicted.forces), _array(labels.forces)
    p_stress, stress = _array(predicted.stress), _array(labels.stress)

    def row(frames: np.ndarray) -> Row:
        atoms = np.repeat(frames, sizes)
        return {
            **_spread("energy", p_energy[frames] / sizes[frames], energy[frames] / sizes[frames]),
            **force_errors(p_forces[atoms], forces[atoms]),
            **_spread("stress", p_stress[frames], stress[frames]),
        }

    names = np.asarray(family, dtype=object)
    return Errors(
        all=row(np.ones(len(sizes), dtype=bool)),
        family={str(f): {"frames": int((names == f).sum()), **row(names == f)} for f in sorted(set(family))},
        element={
            chemical_symbols[e]: {"atoms": int((z == e).sum()), **force_errors(p_forces[z == e], forces[z == e])}
            for e in np.unique(z)
        },
        frames=len(sizes),
        energy_shifted=shift,
    )


def force_errors(predicted: np.ndarray, reference: np.ndarray) -> Row:
    """MAE and RMSE of the components in meV/Å, slope and cosine of forces in eV/Å, shape (atoms, 3)."""
    return {
        **_spread("forces", predicted, reference),
        "forces_slope": forces_slope(predicted, reference),
        "forces_cosine": forces_cosine(predicted, reference),
    }


def forces_slope(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Least-squares slope through the origin of predicted against reference components; below 1 is softening.

    See arXiv 2405.07105. NaN where no reference component is known or all are 0.
    """
    known = np.isfinite(reference)
    square = (reference[known] ** 2).sum()
    return float((predicted[known] * reference[known]).sum() / square) if square else math.nan


def forces_cosine(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean cosine between predicted and reference force vectors of atoms whose reference force is above 0.05 eV/Å."""
    size = np.linalg.norm(reference, axis=1)
    clear = size > SMALL_FORCE  # False where a component is NaN
    if not clear.any():
        return math.nan
    norms = np.maximum(np.linalg.norm(predicted[clear], axis=1), np.finfo(float).tiny) * size[clear]
    return float(((predicted[clear] * reference[clear]).sum(axis=1) / norms).mean())


def mae(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute error over the components whose reference is known; NaN without any."""
    known = np.isfinite(reference)
    return float(np.abs(predicted[known] - reference[known]).mean()) if known.any() else math.nan


def rmse(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square error over the components whose reference is known; NaN without any."""
    known = np.isfinite(reference)
    return float(np.sqrt(((predicted[known] - reference[known]) ** 2).mean())) if known.any() else math.nan


def _spread(name: str, predicted: np.ndarray, reference: np.ndarray) -> Row:
    """MAE and RMSE in thousandths of the unit; stress counts all nine components, so shear twice."""
    return {f"{name}_mae": 1e3 * mae(predicted, reference), f"{name}_rmse": 1e3 * rmse(predicted, reference)}


def _array(values: Tensor) -> np.ndarray:
    """A tensor as a double precision array on the CPU."""
    return values.detach().cpu().double().numpy()


def _plain(row: Row) -> dict[str, float | int | None]:
    """A row with None for NaN."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
