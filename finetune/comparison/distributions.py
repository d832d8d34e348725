"""Radial and angular distributions from dynamics, against those of DFT dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.neighborlist import neighbor_list
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, starts
from finetune.comparison.recorded import Recorded
from finetune.comparison.runs import frames_of, steps_between
from finetune.errors import InputError
from finetune.md import Langevin, Stage

BLOCKS = 4
SMOOTH = 1.5  # bins, of the g(r) whose peaks are looked for
FIRST = 0.75  # of the cutoff, within which a first peak is told: those beyond are the lattice's, not a bond's


@dataclass(frozen=True, kw_only=True)
class Distributions(Observable):
    """Pair distribution functions g(r), coordination numbers and bond angles of a structure in dynamics.

    Attributes:
        structures: the file to start from (its first frame), or the DFT trajectory itself, whose first frame it is.
        temperature_K: of the dynamics.
        ps: length of the dynamics, ps.
        settle_ps: time at the beginning that is left out, ps.
        timestep_fs: time step, fs.
        every_fs: time between two frames that count, fs.
        cutoff: largest distance, Å.
        bins: number of bins of distances.
        angle: elements A-B-C of the bond angle, B in the middle; empty for none.
        bond: longest bond of the angle, Å.
        trajectory: DFT dynamics of the same structure at the same temperature, for the reference column.
        trajectory_fs: time between two frames of it, fs.
        seed: of momenta and noise.
    """

    heading: ClassVar[str] = "Radial and angular distributions"
    about: ClassVar[str] = (
        "From dynamics at constant volume. Bands are standard errors over four blocks. The distance between two curves "
        "is the mean of |g - g(DFT)| over the mean of g(DFT). A coordination number counts up to the minimum behind "
        "the first peak; its difference from DFT counts both up to the minimum of DFT."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "distance from DFT": Tolerance(0.05, target=0.0),
        "first peak": Tolerance(0.03),
        "coordination, difference from DFT": Tolerance(0.2, target=0.0),
    }

    revision: ClassVar[int] = 2

    structures: Sequence[str]
    temperature_K: float = 600.0
    ps: float = 2.0
    settle_ps: float = 0.5
    timestep_fs: float = 1.0
    every_fs: float = 10.0
    cutoff: float = 6.0
    bins: int = 120
    angle: Sequence[str] = ()
    bond: float = 2.6
    trajectory: Sequence[str] = ()
    trajectory_fs: float = 2.0
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Run the dynamics and count."""
        stage = Stage(Langevin(temperature_K=self.temperature_K, timestep_fs=self.timestep_fs), ps=self.ps)
        every = steps_between(self.every_fs, self.timestep_fs)
        frames = frames_of(starts(self.structures)[0][1], calculator, [stage], place / "dynamics", every, self.seed)
        return self.count(frames[round(self.settle_ps * 1000 / (every * self.timestep_fs)) :])

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """Count the recorded dynamics."""
        if not self.trajectory:
            return Measured()
        frames = [atoms for _, atoms in starts(self.trajectory)]
        return self.count(frames[round(self.settle_ps * 1000 / self.trajectory_fs) :])

    def count(self, frames: Sequence[Atoms]) -> Measured:
        """Distributions of frames, with errors over blocks."""
        if len(frames) < BLOCKS:
            raise InputError(f"only {len(frames)} frames after the first {self.settle_ps} ps; take a longer run")
        figures, curves = [], []
        edges = np.linspace(0, self.cutoff, self.bins + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        elements = sorted(set(frames[0].get_chemical_symbols()))
        blocks = np.array_split(np.arange(len(frames)), BLOCKS)
        parts = [_radial([frames[k] for k in block], edges, elements) for block in blocks]
        for pair in combinations_with_replacement(elements, 2):
            name, values = "-".join(pair), np.array([part[pair][0] for part in parts])
            mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
            curves.append(_curve(f"g(r) {name}", middles, mean, error, "distance, Å", "g(r)"))
            figures += _of_pair(name, middles, mean, values, np.array([part[pair][1] for part in parts]))
        if len(self.angle) == 3:
            curves += self._angles(frames, blocks)
        return Measured(figures, curves)

    def _angles(self, frames: Sequence[Atoms], blocks: Sequence[np.ndarray]) -> list[Curve]:
        """Distribution of the bond angle; nothing where there is no such bond."""
        edges = np.linspace(0, 180, 61)
        counts = np.array(
            [sum(_angle_counts(frames[k], self.angle, self.bond, edges) for k in block) for block in blocks], float
        )
        if not counts.any():
            return []
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) / 3.0
        mean, error = shares.mean(axis=0), shares.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
        middles = (edges[1:] + edges[:-1]) / 2
        return [_curve(f"angle {'-'.join(self.angle)}", middles, mean, error, "angle, degrees", "share per degree")]

    def against(self, measured: Measured, reference: Measured) -> list[Figure]:
        """Distance of each curve from that of DFT."""
        known, found = {curve.panel: curve for curve in reference.curves}, []
        for curve in measured.curves:
            other = known.get(curve.panel)
            if other is not None and len(other.y) == len(curve.y):
                own, wanted = np.array(curve.y), np.array(other.y)
                distance = float(np.abs(own - wanted).mean() / wanted.mean()) if wanted.any() else np.nan
                noise = float(np.hypot(_half(curve), _half(other)).mean() / wanted.mean()) if wanted.any() else 0.0
                kind = "distance from DFT"
                found.append(Figure(curve.panel, kind, distance, "", distance - noise, distance + noise))
                found += _neighbours(curve, other, measured, reference)
        return found


def _neighbours(curve: Curve, other: Curve, measured: Measured, reference: Measured) -> list[Figure]:
    """Neighbours more than DFT has within DFT's first shell; density and cell are the same, so g(r) r^2 tells."""
    pair = curve.panel.removeprefix("g(r) ")
    name = f"{pair}: coordination"
    standard = reference.by_name().get(name)
    if standard is None or curve.panel == pair:
        return []
    shell = slice(0, _shell(np.array(other.y))[1] + 1)
    own, wanted = (float((np.array(c.y) * np.array(c.x) ** 2)[shell].sum()) for c in (curve, other))
    more = standard.value * (own / wanted - 1)
    there = measured.by_name().get(name)
    noise = float(np.hypot(standard.error, there.error if there is not None else 0.0))
    return [Figure(pair, "coordination, difference from DFT", more, "", more - noise, more + noise)]


def _half(curve: Curve) -> np.ndarray:
    return (np.array(curve.high) - np.array(curve.low)) / 2


def _curve(panel: str, x: np.ndarray, y: np.ndarray, error: np.ndarray, x_label: str, y_label: str) -> Curve:
    low, high = (y - error).tolist(), (y + error).tolist()
    return Curve(panel, x.tolist(), y.tolist(), x_label, y_label, low=low, high=high)


def _radial(
    frames: Sequence[Atoms], edges: np.ndarray, elements: Sequence[str]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """g(r) of each pair of elements, and the running number of neighbours B around an atom A."""
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    sums = {pair: np.zeros(len(shells)) for pair in combinations_with_replacement(elements, 2)}
    symbols = np.array(frames[0].get_chemical_symbols())
    volume = np.mean([atoms.get_volume() for atoms in frames])
    for atoms in frames:
        i, j, distances = neighbor_list("ijd", atoms, float(edges[-1]))
        for a, b in sums:
            chosen = (symbols[i] == a) & (symbols[j] == b)
            sums[a, b] += np.histogram(distances[chosen], edges)[0]
    found = {}
    for (a, b), counts in sums.items():
        per_atom = counts / len(frames) / (symbols == a).sum()
        density = (symbols == b).sum() / volume
        found[a, b] = per_atom / shells / density, np.cumsum(per_atom)
    return found


def _of_pair(name: str, r: np.ndarray, g: np.ndarray, blocks: np.ndarray, running: np.ndarray) -> list[Figure]:
    """First peak, and the coordination number up to the minimum behind it, with errors over blocks."""
    place, behind = _shell(g)
    if place is None:
        return []
    peaks = np.array([r[k] for part in blocks if (k := _first_peak(part)) is not None])
    found = [("first peak", float(r[place]), peaks, "Å"), ("coordination", None, running[:, behind], "")]
    figures = []
    for kind, given, values, unit in found:
        mean = float(values.mean()) if given is None else given
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        figures.append(Figure(name, kind, mean, unit, low=mean - error, high=mean + error))
    return figures


def _shell(g: np.ndarray) -> tuple[int | None, int]:
    """Places of the first peak and of the minimum behind it; None where there is none, or only a far one."""
    place = _first_peak(g)
    if place is None or place > FIRST * len(g):
        return None, 0
    return place, place + int(np.argmin(gaussian_filter1d(g, SMOOTH)[place : place + len(g) // 4]))


def _first_peak(g: np.ndarray) -> int | None:
    """Place of the first maximum of a smoothed g(r) above 1; None where there is none."""
    found = find_peaks(gaussian_filter1d(g, SMOOTH), height=1.0, prominence=0.3)[0]
    return int(found[0]) if len(found) else None


def _angle_counts(atoms: Atoms, elements: Sequence[str], bond: float, edges: np.ndarray) -> np.ndarray:
    """Histogram of the angles between bonds from atoms of the middle element."""
    i, j, vectors = neighbor_list("ijD", atoms, bond)
    symbols = np.array(atoms.get_chemical_symbols())
    counts = np.zeros(len(edges) - 1)
    for centre in np.flatnonzero(symbols == elements[1]):
        arms = [vectors[(i == centre) & (symbols[j] == end)] for end in (elements[0], elements[2])]
        units = [arm / np.linalg.norm(arm, axis=1, keepdims=True) for arm in arms]
        cosines = units[0] @ units[1].T
        if elements[0] == elements[2]:
            cosines = cosines[np.triu_indices(len(cosines), 1)]
        counts += np.histogram(np.degrees(np.arccos(np.clip(cosines, -1, 1))), edges)[0]
    return counts
