"""Pairs of atoms from contact to the cutoff, and crystals under pressure: where a potential has holes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from scipy.interpolate import CubicSpline
from scipy.signal import find_peaks

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, single_points, starts
from finetune.comparison.recorded import Recorded
from finetune.errors import InputError

RIPPLE = 0.005  # eV; a dip that is less deep than this is none
RESISTS_GPA = 1.0
NOISE = 1e-4  # eV/atom
FINE = 20  # points of the spline between two distances


@dataclass(frozen=True, kw_only=True)
class PairCurves(Observable):
    """Energy of two atoms alone against their distance: minimum, depth, repulsion, spurious minima.

    Energies are those above the largest distance. DFT's curves come from the recorded pairs of the same elements.

    Attributes:
        elements: pairs of all of these.
        shortest: first distance, Å.
        longest: last distance, Å.
        step: between distances, Å.
    """

    heading: ClassVar[str] = "Pair curves"
    about: ClassVar[str] = (
        "Two atoms alone. Depth from the largest distance; a spurious minimum is any beside the deepest, deeper than "
        "5 meV. Potentials have seldom been trained on pairs: read it for holes and repulsion first."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "distance of the minimum": Tolerance(0.05),
        "depth": Tolerance(0.15),
        "spurious minima": Tolerance(0.5, target=0.0),
        "repulsion at the shortest": Tolerance(1.0, 0.2),
    }

    elements: Sequence[str]
    shortest: float = 0.8
    longest: float = 6.0
    step: float = 0.05

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Every pair of elements on the grid of distances."""
        distances = np.arange(self.shortest, self.longest + self.step / 2, self.step)
        parts = []
        for pair in combinations_with_replacement(self.elements, 2):
            frames = [Atoms(list(pair), [(0, 0, 0), (r, 0, 0)]) for r in distances]
            energies = [float(p.energy[0]) for p in single_points(frames, calculator) if p is not None]
            parts.append(_pair("-".join(pair), distances, np.array(energies), self.shortest))
        return _joined(parts)

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """The recorded pairs, at the distances that they have; of several spin states the lowest."""
        parts = []
        for pair in combinations_with_replacement(self.elements, 2):
            known: dict[float, float] = {}
            for frame in calculator.frames:
                if len(frame.atoms) == 2 and sorted(frame.atoms.symbols) == sorted(pair) and _alone(frame.atoms):
                    distance = round(float(frame.atoms.get_distance(0, 1)), 6)
                    known[distance] = min(known.get(distance, np.inf), float(frame.labels.energy[0]))
            if len(known) > 3:
                distances = np.array(sorted(known))
                energies = np.array([known[r] for r in distances])
                parts.append(_pair("-".join(pair), distances, energies, self.shortest))
        return _joined(parts)


def _alone(atoms: Atoms) -> bool:
    """Whether a pair sees no images: there are none, or the cell is large."""
    return not atoms.pbc.any() or min(atoms.cell.lengths()) > 8.0


def _joined(parts: Sequence[Measured]) -> Measured:
    return Measured([figure for part in parts for figure in part.figures], [c for part in parts for c in part.curves])


def _pair(name: str, distances: np.ndarray, energies: np.ndarray, shortest: float) -> Measured:
    """Figures of one curve, from a cubic spline through its points."""
    energies = energies - energies[-1]
    fine = np.linspace(distances[0], distances[-1], FINE * len(distances))
    smooth = CubicSpline(distances, energies)(fine) if np.isfinite(energies).all() else np.full(len(fine), np.nan)
    k = int(np.argmin(smooth))
    deep = smooth[k] < -RIPPLE and 0 < k < len(fine) - 1
    figures = [
        Figure(name, "distance of the minimum", float(fine[k]) if deep else np.nan, "Å"),
        Figure(name, "depth", float(-smooth[k]) if deep else 0.0, "eV"),
        Figure(name, "spurious minima", float(max(0, minima(smooth) - 1))),
    ]
    if abs(distances[0] - shortest) < 0.01:
        figures.append(Figure(name, "repulsion at the shortest", float(energies[0]), "eV"))
    labels = ("distance, Å", "energy above the largest distance, eV")
    top = np.minimum(energies, 10.0)  # so that the well can be seen
    return Measured(figures, [Curve(name, distances.tolist(), top.tolist(), *labels, style="line")])


def minima(energies: np.ndarray) -> int:
    """Number of minima of a curve, eV, that are deeper than 5 meV; a beginning from which it rises is one."""
    if not np.isfinite(energies).all():
        return 0
    walled = np.concatenate([[energies.max() + 1.0], energies])  # so that a hole at contact is a minimum
    return len(find_peaks(-walled, prominence=RIPPLE)[0])


@dataclass(frozen=True, kw_only=True)
class Compression(Observable):
    """Share of structures, compressed step by step, whose energy goes down: holes in the potential.

    A structure is compressed evenly until the pressure is reached. Once it has begun to resist (1 GPa) its energy must
    rise at every step.

    Attributes:
        files: structures, such as frames of dynamics.
        most: largest number of them of each file, evenly spread.
        pressure_GPa: where it ends.
        step: linear strain of a step.
        smallest: length, over the start's, where it ends at the latest.
    """

    heading: ClassVar[str] = "Holes under compression"
    about: ClassVar[str] = (
        "Structures compressed evenly up to a pressure. A hole: the energy goes down after the structure has begun to "
        "resist, or it never resists. There is no DFT in it: the right share is 0."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {"share with a hole": Tolerance(0.5, target=0.0)}

    files: Sequence[str]
    most: int = 16
    pressure_GPa: float = 50.0
    step: float = 0.01
    smallest: float = 0.6

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Compress each structure."""
        chosen = [atoms for _, atoms in starts(self.files, self.most) if atoms.pbc.all()]
        if not chosen:
            raise InputError(f"no structure of {', '.join(self.files)} is periodic, so none can be compressed")
        curves, holes = [], 0
        for k, atoms in enumerate(chosen):
            lengths, energies, hole = self._compress(atoms, calculator)
            holes += hole
            name = f"{atoms.get_chemical_formula()} {k + 1}" + (" (hole)" if hole else "")
            if hole:
                labels = ("length over the start's", "energy above the start, eV/atom")
                curves.append(Curve(name, lengths, energies, *labels, style="both"))
        figures = [
            Figure("", "share with a hole", 100 * holes / len(chosen), "%"),
            Figure("", "structures", float(len(chosen))),
        ]
        return Measured(figures, curves[:6])

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """Nothing: DFT has no holes, and nobody has compressed these structures with it."""
        return Measured()

    def _compress(self, atoms: Atoms, calculator: BaseCalculator) -> tuple[list[float], list[float], bool]:
        """Lengths, energies and whether there is a hole."""
        lengths, energies, pressures = [], [], []
        scale = 1.0
        while scale >= self.smallest:
            squeezed = atoms.copy()
            squeezed.set_cell(atoms.cell * scale, scale_atoms=True)
            point = single_points([squeezed], calculator)[0]
            if point is None:
                break
            lengths.append(scale)
            energies.append(float(point.energy[0]) / len(atoms))
            pressures.append(-float(point.stress[0].trace()) / 3 / units.GPa)
            resisted = max(pressures[:-1], default=0.0) > RESISTS_GPA
            if not np.isfinite(energies[-1]) or (resisted and energies[-1] < energies[-2] - NOISE):
                return lengths, [e - energies[0] for e in energies], True
            if pressures[-1] > self.pressure_GPa:
                return lengths, [e - energies[0] for e in energies], False
            scale -= self.step
        return lengths, [e - energies[0] for e in energies], True
