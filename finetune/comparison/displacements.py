"""Displacements of atoms through periodic boundaries, and their moments over time lags."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from finetune.errors import InputError

Floats = NDArray[np.float64]


LAGS = 40  # time differences, evenly spaced on a logarithmic scale, up to half of the run


AMBIGUOUS = 0.45  # of the cell: a step between two frames beyond which the nearest image may be the wrong one


@dataclass(frozen=True)
class Moments:
    """Moments of the displacements at each lag; `by_sample` is <r²> per atom and axis, times the number of axes."""

    lags_ps: Floats
    independent: Floats  # displacements that do not overlap: atoms * run / lag
    squares: Floats
    variances: Floats  # of r², Å⁴
    non_gaussian: Floats
    non_gaussian_errors: Floats
    by_sample: Floats
    dimension: int

    def estimate(self, function: Callable[[Floats], Floats]) -> tuple[float, float]:
        """A function of the mean squared displacements, and its standard error (jackknife over atoms and axes)."""
        samples = self.by_sample.shape[1]
        value = float(function(self.squares[:, None])[0])
        if samples < 3:
            return value, math.inf
        without = (self.by_sample.sum(axis=1, keepdims=True) - self.by_sample) / (samples - 1)
        return value, float(np.sqrt((samples - 1) * np.var(function(without))))


def unwrap(frames: Sequence[Atoms], element: str) -> Floats:
    """Return displacements of the atoms of an element since the first frame, Å, without those of the framework.

    Steps between frames are taken to the nearest image in fractional coordinates, so cells may be triclinic and may
    change. Then the mean displacement of the framework is subtracted: of all atoms of other elements, as kinisi does,
    or, if there are no others, of the centre of mass.

    Args:
        frames: of one run, in order, with the same atoms; wrapped or not.
        element: symbol of the diffusing element.

    Returns:
        Displacements, shape (frames, atoms of the element, 3).

    Raises:
        InputError: no atom of the element, or steps of nearly half of the cell.
    """
    chosen = np.array(frames[0].symbols) == element
    if not chosen.any():
        present = ", ".join(sorted(set(frames[0].symbols)))
        raise InputError(f"diffusion: got element {element}, expected one of {present}. Name an element of the cell.")
    cells = np.array([atoms.cell.complete().array for atoms in frames])
    places = np.array([atoms.positions for atoms in frames]) @ np.linalg.inv(cells)
    steps = np.diff(places, axis=0)
    steps -= np.where(frames[0].pbc, np.round(steps), 0.0)
    farthest = float(np.abs(steps[..., frames[0].pbc]).max(initial=0.0))
    if farthest > AMBIGUOUS:
        raise InputError(
            f"trajectory: got steps of {farthest:.2f} of the cell between two frames, expected less than {AMBIGUOUS}, "
            "so the image that an atom moved to is not known. Write frames more often, or repeat the cell."
        )
    moved = np.concatenate([np.zeros_like(places[:1]), np.cumsum(steps @ cells[1:], axis=0)])
    if chosen.all():
        masses = frames[0].get_masses()
        drift = np.einsum("a,fad->fd", masses / masses.sum(), moved)
    else:
        drift = moved[:, ~chosen].mean(axis=1)
    displacements: Floats = moved[:, chosen] - drift[:, None]
    return displacements


def moments_of(displacements: Floats, frame_ps: float) -> Moments:
    """Return the moments of displacements over time lags spaced evenly on a log scale."""
    frames, atoms, dimension = displacements.shape
    lags = np.unique(np.geomspace(1, max(1, (frames - 1) // 2), LAGS).round().astype(int))
    by_sample, second, fourth = [], [], []
    for lag in lags:
        squared = (displacements[lag:] - displacements[:-lag]) ** 2
        far = squared.sum(axis=2)
        by_sample.append(squared.mean(axis=0).ravel() * dimension)
        second.append(far.mean(axis=0))
        fourth.append((far**2).mean(axis=0))
    r2, r4 = np.array(second), np.array(fourth)
    share = dimension / (dimension + 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        parameter = share * r4.mean(axis=1) / r2.mean(axis=1) ** 2 - 1
        errors = np.full(len(lags), math.inf)
        if atoms > 2:
            left2, left4 = ((r.sum(axis=1, keepdims=True) - r) / (atoms - 1) for r in (r2, r4))
            errors = np.sqrt((atoms - 1) * np.var(share * left4 / left2**2 - 1, axis=1))
    return Moments(
        lags_ps=lags * frame_ps,
        independent=atoms * (frames - 1) / lags,
        squares=r2.mean(axis=1),
        variances=np.maximum(r4.mean(axis=1) - r2.mean(axis=1) ** 2, 0.0),
        non_gaussian=parameter,
        non_gaussian_errors=errors,
        by_sample=np.array(by_sample),
        dimension=dimension,
    )
