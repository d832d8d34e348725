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
from ase.data import atomic_numbers
from scipy.interpolate import PchipInterpolator
from scipy.signal import find_peaks

from finetune.comparison.figures import FEWEST, Curve, Figure, Measured, Tolerance, binomial
from finetune.comparison.observable import Observable, single_points, starts
from finetune.comparison.recorded import Recorded
from finetune.comparison.states import free_atoms
from finetune.comparison.verdicts import SAME, Judged, Verdict, overall
from finetune.errors import InputError

RIPPLE = 0.025  # eV, kT at room temperature; a dip that is less deep than this is none
RESISTS_GPA = 1.0
NOISE = 1e-4  # eV/atom
FINE = 20  # points between two distances
TOP = 10.0  # eV, where the plots end, so that wells can be seen
LACKS = 0.5  # Å, that a recorded curve may end before the longest distance
IMAGE = 5.0  # Å, smallest distance of an atom from the images of the other one, which are twice as far as itself


@dataclass(frozen=True, kw_only=True)
class PairCurves(Observable):
    """Energy of two atoms alone against their distance: minimum, depth, repulsion, spurious minima.

    Energies are those above the separate atoms: for a potential, which ends at its cutoff, above the largest distance.
    DFT's curves come from the recorded pairs of the same elements, their zero from the recorded atoms if there are any.

    Attributes:
        elements: pairs of all of these.
        shortest: first distance, Å.
        longest: last distance, Å.
        step: between distances, Å.
        reach_eV: a minimum or hole behind a higher wall, above the atoms apart, is told and does not fail.
    """

    heading: ClassVar[str] = "Pair curves"
    about: ClassVar[str] = (
        "Two atoms alone. Depth from the separate atoms; a spurious minimum is any beside the deepest, deeper than "
        "25 meV (kT at room temperature); a curve that falls at contact has a hole. Both fail where the wall before "
        "them can be climbed; the notes give place, energy and wall of each. Potentials have seldom been trained on "
        "pairs: read it for holes and repulsion first. The plots end at 10 eV."
    )
    revision: ClassVar[int] = 3
    strict: ClassVar[Sequence[str]] = ("spurious minima", "falls at contact")
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "distance of the minimum": Tolerance(0.05),
        "depth": Tolerance(0.15),
        "spurious minima": Tolerance(0.05, target=0.0),
        "falls at contact": Tolerance(0.05, target=0.0),
        "repulsion at the shortest": Tolerance(1.0, 0.2),
    }

    elements: Sequence[str]
    shortest: float = 0.8
    longest: float = 6.0
    step: float = 0.05
    reach_eV: float = 5.0

    def check(self) -> None:
        """Refuse what is no element."""
        super().check()
        for element in self.elements:
            if element not in atomic_numbers:
                raise InputError(f"'{element}' of PairCurves is no element; give symbols such as Li")

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Every pair of elements on the grid of distances."""
        distances = np.arange(self.shortest, self.longest + self.step / 2, self.step)
        parts = []
        for pair in combinations_with_replacement(self.elements, 2):
            frames = [Atoms(list(pair), [(0, 0, 0), (r, 0, 0)]) for r in distances]
            energies = [float(p.energy[0]) for p in single_points(frames, calculator) if p is not None]
            parts.append(self._pair("-".join(pair), distances, np.array(energies) - energies[-1]))
        return _joined(parts)

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """The recorded pairs, at the distances that they have; of several spin states the lowest."""
        parts = []
        free = free_atoms(calculator.frames, [float(frame.labels.energy[0]) for frame in calculator.frames])
        for pair in combinations_with_replacement(self.elements, 2):
            known: dict[float, float] = {}
            for frame in calculator.frames:
                if len(frame.atoms) == 2 and sorted(frame.atoms.symbols) == sorted(pair) and _alone(frame.atoms):
                    distance, energy = round(float(frame.atoms.get_distance(0, 1)), 6), float(frame.labels.energy[0])
                    if np.isfinite(energy):
                        known[distance] = min(known.get(distance, np.inf), energy)
            name, distances = "-".join(pair), np.array(sorted(known))
            separate = sum(free.get(symbol, np.inf) for symbol in pair)
            if len(known) > 3 and not np.isfinite(separate) and distances[-1] > self.longest - LACKS:
                separate = known[distances[-1]]
            if len(known) > 3 and np.isfinite(separate):
                parts.append(self._pair(name, distances, np.array([known[r] for r in distances]) - separate))
            else:
                parts.append(Measured([], [], [self._missing(name, distances)]))
        return _joined(parts) if any(part.figures for part in parts) else Measured()

    def _missing(self, name: str, distances: np.ndarray) -> str:
        """Why there is no recorded curve of a pair."""
        if len(distances) == 0:
            return f"{name}: no pair is recorded"
        span = f"{len(distances)} distances from {distances[0]:.2f} to {distances[-1]:.2f} Å are recorded"
        return f"{name}: {span}; a curve needs 4, and both atoms alone"

    def _pair(self, name: str, distances: np.ndarray, energies: np.ndarray) -> Measured:
        """Figures of one curve; between its points it is monotonic (PCHIP), so that there are no minima but theirs."""
        labels = ("distance, Å", "energy above the separate atoms, eV")
        curve = Curve(name, distances.tolist(), energies.tolist(), *labels, limits=(-TOP, TOP))
        kinds = {"distance of the minimum": "Å", "depth": "eV"}
        sound = bool(np.isfinite(energies).all())
        values = _values(distances, energies) if sound else dict.fromkeys(kinds, np.nan)
        figures = [Figure(name, kind, values[kind], unit) for kind, unit in kinds.items()]
        dips = _dips(energies) if sound else []
        near = [place for place, wall in dips if wall <= self.reach_eV]
        counts = {
            "spurious minima": float(sum(place > 0 for place in near)),
            "falls at contact": float(0 in near),
            "dips out of reach": float(len(dips) - len(near)),
        }
        figures += [Figure(name, kind, count if sound else np.nan) for kind, count in counts.items()]
        if abs(distances[0] - self.shortest) < 0.01:
            figures.append(Figure(name, "repulsion at the shortest", float(energies[0]), "eV"))
        return Measured(figures, [curve], [self._dip(name, distances[k], energies[k], k, wall) for k, wall in dips])

    def _dip(self, name: str, distance: float, energy: float, place: int, wall: float) -> str:
        """A spurious minimum or a hole in words."""
        what = f"spurious minimum at {distance:.2f} Å" if place else f"falls towards contact at {distance:.2f} Å"
        reach = "" if wall <= self.reach_eV else ", out of reach"
        return (
            f"{name}: {what}, {energy:+.2g} eV, behind {f'a wall of {wall:.2g} eV' if wall > 0 else 'no wall'}{reach}"
        )


def _alone(atoms: Atoms) -> bool:
    """Whether images are twice as far from a pair as its atoms from each other: there are none, or a large cell."""
    distance = float(atoms.get_distance(0, 1))
    along = atoms.positions[1] - atoms.positions[0]
    return not atoms.pbc.any() or all(
        length - abs(along @ vector) / length > max(2 * distance, IMAGE) - 1e-6
        for vector, length in zip(atoms.cell.array, atoms.cell.lengths(), strict=True)
    )


def _joined(parts: Sequence[Measured]) -> Measured:
    return Measured(
        [figure for part in parts for figure in part.figures],
        [curve for part in parts for curve in part.curves],
        [note for part in parts for note in part.notes],
    )


def _values(distances: np.ndarray, energies: np.ndarray) -> dict[str, float]:
    """Distance of the deepest minimum, Å, and its depth, eV."""
    where = minima(energies)
    wells = [k for k in where if k > 0]
    fine = np.linspace(distances[0], distances[-1], FINE * len(distances))
    smooth = PchipInterpolator(distances, energies)(fine)
    best, depth = np.nan, 0.0
    if wells:
        well = min(wells, key=lambda k: energies[k])
        near = (fine >= distances[well - 1]) & (fine <= distances[min(well + 1, len(distances) - 1)])
        if energies[well] < -RIPPLE:
            parabola = np.polyfit(distances[well - 1 : well + 2] - distances[well], energies[well - 1 : well + 2], 2)
            best = float(distances[well] - parabola[1] / (2 * parabola[0]))
            depth = float(-min(smooth[near].min(), np.polyval(parabola, best - distances[well])))
    elif energies[0] == energies.min() and energies[0] < -RIPPLE:
        depth = np.nan  # it begins in the well, or in a hole
    return {"distance of the minimum": best, "depth": depth}


def _dips(energies: np.ndarray) -> list[tuple[int, float]]:
    """Places of minima beside the deepest, 0 for a fall towards contact, each with the wall before it, eV.

    The wall is the highest energy between it and the deepest minimum, or the largest distance where there is none.
    """
    where = minima(energies)
    wells = [k for k in where if k > 0]
    home = min(wells, key=lambda k: energies[k]) if wells else len(energies) - 1
    return [(k, float(energies[min(k, home) : max(k, home) + 1].max())) for k in where if k != home]


def minima(energies: np.ndarray) -> list[int]:
    """Places of the minima of a curve, eV, that are deeper than 25 meV; 0 where it rises from its beginning."""
    walled = np.concatenate([[energies.max() + 1.0], energies])
    return [int(k) - 1 for k in find_peaks(-walled, prominence=RIPPLE)[0]]


@dataclass(frozen=True, kw_only=True)
class Compression(Observable):
    """Share of structures, compressed step by step, whose energy goes down: holes in the potential.

    A structure is compressed evenly until the pressure, -dE/dV between two steps, is reached. Once it has begun to
    resist (1 GPa) its energy must rise at every step. No stress is needed.

    Attributes:
        files: structures, such as frames of dynamics.
        most: largest number of them of each file, evenly spread.
        pressure_GPa: where it ends.
        step: linear strain of a step.
        smallest: length, over the start's, where it ends at the latest.
    """

    heading: ClassVar[str] = "Holes under compression"
    about: ClassVar[str] = (
        "Structures compressed evenly up to a pressure. A hole: the energy goes down after the structure has begun "
        "to resist, or it never resists. There is no DFT in it: the right share is 0, and one hole is certain, so "
        "it fails. None in few structures leaves room for some elsewhere, which the 95 % interval (Clopper and "
        "Pearson) shows; fewer than five without a hole give no verdict."
    )
    exact: ClassVar[str] = "The same structures give the same holes in every run."
    revision: ClassVar[int] = 3
    strict: ClassVar[Sequence[str]] = ("share with a hole",)
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
        enough = holes or len(chosen) >= FEWEST
        short = "" if enough else f"none of {len(chosen)} structures has a hole; a verdict needs {FEWEST}"
        interval = binomial(holes, len(chosen))  # for other structures; these have the same holes in every run
        figures = [
            Figure("", "share with a hole", 100 * holes / len(chosen), "%", *interval, floor=0.0, short=short),
            Figure("", "structures", float(len(chosen))),
        ]
        return Measured(figures, curves[:6])

    def verdict(self, measured: Measured, judged: Sequence[Judged]) -> Verdict:
        """How many structures have a hole."""
        share, structures = measured.figures[:2]
        count, of = round(share.value * structures.value / 100), int(structures.value)
        word = overall(judged).word
        if word == "told":
            return Verdict(word, f"none of {of}: too few for a verdict", f"holes in up to {share.high:.0f} % (95 %)")
        brief = f"{count or 'none'} of {of} {'has' if count < 2 else 'have'} a hole"
        brief = f"{SAME}: {brief}" if word == "same" else brief
        return Verdict(word, brief, f"{share.low:.0f} to {share.high:.0f} % (95 %)")

    def _compress(self, atoms: Atoms, calculator: BaseCalculator) -> tuple[list[float], list[float], bool]:
        """Lengths, energies and whether there is a hole."""
        lengths: list[float] = []
        energies: list[float] = []
        scale, resists, volume = 1.0, False, atoms.get_volume() / len(atoms)
        while scale >= self.smallest:
            squeezed = atoms.copy()
            squeezed.set_constraint()
            squeezed.set_cell(atoms.cell * scale, scale_atoms=True)
            point = single_points([squeezed], calculator)[0]
            if point is None:
                break
            lengths.append(scale)
            energies.append(float(point.energy[0]) / len(atoms))
            if not np.isfinite(energies[-1]):
                return _above(lengths, energies, True)
            if len(energies) > 1:
                work = energies[-1] - energies[-2]
                pressure = work / (volume * (lengths[-2] ** 3 - scale**3)) / units.GPa
                if resists and work < -NOISE:
                    return _above(lengths, energies, True)
                resists = resists or pressure > RESISTS_GPA
                if pressure > self.pressure_GPa:
                    return _above(lengths, energies, False)
            scale -= self.step
        return _above(lengths, energies, True)


def _above(lengths: list[float], energies: list[float], hole: bool) -> tuple[list[float], list[float], bool]:
    return lengths, [energy - energies[0] for energy in energies], hole
