"""Radial and angular distributions from dynamics, against those of DFT dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from scipy.stats import t as student

from finetune.comparison.blocks import memory, squared_error, unbiased_distance
from finetune.comparison.figures import ERROR_RATE, Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, starts
from finetune.comparison.radial import angle_counts, first_shell, peak_distance, radial_distributions
from finetune.comparison.recorded import Recorded
from finetune.comparison.runs import frames_of, steps_between
from finetune.errors import InputError
from finetune.md import Langevin, Stage

LEAST = 5  # blocks that a verdict needs
BANDS = 4  # blocks of what is too short for a verdict, for the bands of its curves
MOST = 16  # blocks; longer ones are less correlated with each other
AT_REST = 1e-5  # share of the sum of momenta, below which the total one is that of digits in a file
APART_K = 0.02  # share of the temperature by which a reference may be off before a note says so


@dataclass(frozen=True, kw_only=True)
class Distributions(Observable):
    """Pair distribution functions g(r), coordination numbers and bond angles of a structure in dynamics.

    Attributes:
        structures: the file to start from (its first frame), or the DFT trajectory itself, whose first frame it is.
        temperature_K: of the dynamics.
        ps: length of a run, ps.
        settle_ps: time at the beginning that is left out, ps.
        timestep_fs: time step, fs.
        every_fs: time between two frames that count, fs.
        cutoff: largest distance, Å.
        bins: number of bins of distances.
        angle: elements A-B-C of the bond angle, B in the middle; empty for none.
        bond: longest bond of the angle, Å.
        trajectory: DFT dynamics of the same structure at the same temperature, for the reference column.
        trajectory_fs: time between two frames of it, fs.
        seeds: number of runs, each of this length.
        block_ps: shortest block, ps: longer than what the structure remembers. A verdict needs five of them.
        seed: of momenta and noise of the first run.
    """

    heading: ClassVar[str] = "Radial and angular distributions"
    about: ClassVar[str] = (
        "From dynamics at constant volume. Runs are cut into blocks of 1 ps or more; bands of curves and intervals "
        "of figures are 95 % from these blocks, or from the halves of the run where those differ more. The distance "
        "of two curves is the mean of |g - g(DFT)| over the mean of g(DFT), less the part that noise alone makes: "
        "its square is the square of the difference minus the squared standard errors of both curves. Its floor is "
        "the largest distance that two runs of the same potential reach in 95 of 100 comparisons, all curves "
        "together. First peaks are interpolated between bins. A coordination number counts up to the minimum behind "
        "the first peak; its difference from DFT counts both up to the minimum of DFT, and the peak's difference is "
        "from the maximum near that of DFT. Fewer than five blocks on either side give no verdict."
    )
    exact: ClassVar[str] = ""
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "distance from DFT": Tolerance(0.05, target=0.0),
        "first peak, difference from DFT": Tolerance(0.03, target=0.0),
        "coordination, difference from DFT": Tolerance(0.2, target=0.0),
    }

    revision: ClassVar[int] = 3

    structures: Sequence[str]
    temperature_K: float = 600.0
    ps: float = 6.0
    settle_ps: float = 1.0
    timestep_fs: float = 1.0
    every_fs: float = 10.0
    cutoff: float = 6.0
    bins: int = 120
    angle: Sequence[str] = ()
    bond: float = 2.6
    trajectory: Sequence[str] = ()
    trajectory_fs: float = 2.0
    seeds: int = 1
    block_ps: float = 1.0
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Run the dynamics, once for each seed, and count."""
        stage = Stage(Langevin(temperature_K=self.temperature_K, timestep_fs=self.timestep_fs), ps=self.ps)
        every = steps_between(self.every_fs, self.timestep_fs)
        apart_fs, start = every * self.timestep_fs, starts(self.structures)[0][1]
        runs = []
        for seed in range(self.seed, self.seed + self.seeds):
            frames = frames_of(start, calculator, [stage], place / f"dynamics-{seed}", every, seed)
            runs.append(frames[round(self.settle_ps * 1000 / apart_fs) :])
        return self.count(runs, apart_fs)

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """Count the recorded dynamics."""
        if not self.trajectory:
            return Measured()
        frames = [atoms for _, atoms in starts(self.trajectory)]
        found = self.count([frames[round(self.settle_ps * 1000 / self.trajectory_fs) :]], self.trajectory_fs)
        return Measured(found.figures, found.curves, [*found.notes, *self._warning(found)])

    def _warning(self, found: Measured) -> list[str]:
        """A note where the reference ran at another temperature than the dynamics that are compared with it."""
        kelvin = found.by_name().get("temperature")
        if kelvin is None:
            return [
                f"reference: temperature not known, as the frames have no momenta; taken for {self.temperature_K:g} K"
            ]
        off = abs(kelvin.value / self.temperature_K - 1)
        if off < APART_K:
            return []
        return [
            f"⚠ reference: got {kelvin.value:.0f} K ({kelvin.low:.0f} to {kelvin.high:.0f}) from its momenta, expected "
            f"{self.temperature_K:g} K as in the dynamics. Set temperature_K to the reference's, or take a longer run."
        ]

    def count(self, runs: Sequence[Sequence[Atoms]], apart_fs: float) -> Measured:
        """Distributions of the frames of one or more runs, with errors over blocks.

        Args:
            runs: frames of each run, after it has settled.
            apart_fs: time between two frames, fs.

        Raises:
            InputError: fewer than four frames.
        """
        frames = [atoms for run in runs for atoms in run]
        blocks, short = self._blocks([len(run) for run in runs], apart_fs)
        figures = _temperature([frames[k] for block in blocks for k in block], blocks, short)
        curves = []
        edges = np.linspace(0, self.cutoff, self.bins + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        elements = sorted(set(frames[0].get_chemical_symbols()))
        parts = [radial_distributions([frames[k] for k in block], edges, elements) for block in blocks]
        for pair in combinations_with_replacement(elements, 2):
            name, values = "-".join(pair), np.array([part[pair][0] for part in parts])
            curves.append(_curve(f"g(r) {name}", middles, values, "distance, Å", "g(r)"))
            figures += _of_pair(name, middles, values, np.array([part[pair][1] for part in parts]), short)
        if len(self.angle) == 3:
            curves += self._angles(frames, blocks)
        return Measured(figures, curves)

    def _blocks(self, lengths: Sequence[int], apart_fs: float) -> tuple[list[np.ndarray], str]:
        """Places of the frames of each block, and why they are too few for a verdict; empty where they are enough."""
        total_ps = sum(lengths) * apart_fs / 1000
        if sum(lengths) < BANDS:
            raise InputError(
                f"distributions: got {sum(lengths)} frames after the first {self.settle_ps:g} ps, expected at least "
                f"{BANDS}. Take a longer run."
            )
        most = max(1, MOST // len(lengths))
        counts = [min(int(n * apart_fs / 1000 / self.block_ps + 1e-9), most) for n in lengths]
        short = ""
        if sum(counts) < LEAST:
            short = (
                f"{total_ps:g} ps after the first {self.settle_ps:g} ps; a verdict needs {LEAST * self.block_ps:g} ps "
                f"({LEAST} blocks of {self.block_ps:g} ps)"
            )
            counts = [-(-BANDS // len(lengths)) for _ in lengths]
        ends = np.cumsum(lengths)
        runs = [np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        parts = [part for run, n in zip(runs, counts, strict=True) if n for part in np.array_split(run, n)]
        return [part for part in parts if len(part)], short

    def _angles(self, frames: Sequence[Atoms], blocks: Sequence[np.ndarray]) -> list[Curve]:
        """Distribution of the bond angle; nothing where there is no such bond."""
        edges = np.linspace(0, 180, 61)
        counts = np.array(
            [sum(angle_counts(frames[k], self.angle, self.bond, edges) for k in block) for block in blocks], float
        )
        if not counts.any():
            return []
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) / 3.0
        middles = (edges[1:] + edges[:-1]) / 2
        return [_curve(f"angle {'-'.join(self.angle)}", middles, shares, "angle, degrees", "share per degree")]

    def against(self, measured: Measured, reference: Measured) -> list[Figure]:
        """Distance of each curve from that of DFT, and differences of first peaks and of neighbours."""
        own, found = {curve.panel: curve for curve in measured.curves}, []
        mine = next((figure.short for figure in measured.figures if figure.short), "")
        other = next((figure.short for figure in reference.figures if figure.short), "")
        short = mine if other in ("", mine) else "; ".join([*([mine] if mine else []), f"the reference has {other}"])
        compared = sum(3 if curve.panel.startswith("g(r)") else 1 for curve in reference.curves)
        for curve in reference.curves:
            there = own.get(curve.panel)
            if there is None or len(there.y) != len(curve.y):
                found.append(Figure(curve.panel, "distance from DFT", np.nan))
            elif any(curve.y):
                found.append(replace(unbiased_distance(there, curve, compared), short=short))
                found += [replace(figure, short=short) for figure in _differences(there, curve, reference)]
        return found


def _differences(curve: Curve, other: Curve, reference: Measured) -> list[Figure]:
    """First peak, and neighbours within DFT's first shell, minus those of DFT; density and cell are the same."""
    pair = curve.panel.removeprefix("g(r) ")
    standard = reference.by_name().get(f"{pair}: coordination")
    if standard is None or curve.panel == pair:
        return []
    r, sides = np.array(other.x), [np.array(one.parts, dtype=float) for one in (curve, other)]
    place, behind = first_shell(np.array(other.y))
    if place is None:
        return []
    shell = slice(0, behind + 1)
    neighbours = [(side * r**2)[:, shell].sum(axis=1) for side in sides]
    scale = standard.value / neighbours[1].mean()
    peaks = [np.array([peak_distance(part, r, place) for part in side]) for side in sides]
    whole = peak_distance(sides[0].mean(axis=0), r, place) - peak_distance(sides[1].mean(axis=0), r, place)
    more = scale * float(neighbours[0].mean() - neighbours[1].mean())
    excess, scaled = [memory(side) for side in sides], [scale * one for one in neighbours]
    return [
        _difference(pair, "first peak, difference from DFT", whole, peaks, excess, "Å"),
        _difference(pair, "coordination, difference from DFT", more, scaled, excess, ""),
    ]


def _difference(
    pair: str, kind: str, value: float, sides: Sequence[np.ndarray], excess: Sequence[float], unit: str
) -> Figure:
    """A difference with its 95 % interval over the blocks of both sides."""
    left = min(map(len, sides)) - 1
    error = float(np.sqrt(sum(squared_error(side, more) for side, more in zip(sides, excess, strict=True))))
    half = float(student.ppf(1 - ERROR_RATE / 2, left)) * error
    return Figure(pair, kind, value, unit, value - half, value + half, left + 1)


def _temperature(frames: Sequence[Atoms], blocks: Sequence[np.ndarray], short: str) -> list[Figure]:
    """Temperature from momenta, K, with its interval over blocks; nothing where frames have none."""
    if not all(atoms.has("momenta") for atoms in frames):
        return []
    kelvin = np.array([2 * atoms.get_kinetic_energy() / units.kB for atoms in frames]) / _degrees(frames)
    parts = np.split(kelvin, np.cumsum([len(block) for block in blocks])[:-1])
    return [_with_interval("", "temperature", np.array([part.mean() for part in parts]), "K", short)]


def _degrees(frames: Sequence[Atoms]) -> int:
    """Degrees of freedom of the motion; three fewer where the centre of mass rests, as many thermostats have it."""
    first = frames[0]
    if first.constraints:
        return max(1, int(first.get_number_of_degrees_of_freedom()))
    rests = all(
        np.abs(atoms.get_momenta().sum(axis=0)).max() <= AT_REST * np.abs(atoms.get_momenta()).sum() for atoms in frames
    )
    return 3 * len(first) - 3 if rests and len(first) > 1 else 3 * len(first)


def _with_interval(subject: str, kind: str, parts: np.ndarray, unit: str, short: str) -> Figure:
    """The mean over blocks with its 95 % interval."""
    mean = float(parts.mean())
    half = float(student.ppf(1 - ERROR_RATE / 2, len(parts) - 1)) * float(np.sqrt(squared_error(parts)))
    return Figure(subject, kind, mean, unit, mean - half, mean + half, len(parts), short=short)


def _curve(panel: str, x: np.ndarray, parts: np.ndarray, x_label: str, y_label: str) -> Curve:
    """The mean over blocks with a band of 95 %."""
    y = parts.mean(axis=0)
    half = float(student.ppf(1 - ERROR_RATE / 2, len(parts) - 1)) * np.sqrt(squared_error(parts))
    low, high = (y - half).tolist(), (y + half).tolist()
    return Curve(panel, x.tolist(), y.tolist(), x_label, y_label, low=low, high=high, parts=parts.tolist())


def _of_pair(name: str, r: np.ndarray, blocks: np.ndarray, running: np.ndarray, short: str) -> list[Figure]:
    """First peak, and the coordination number up to the minimum behind it, with intervals over blocks."""
    mean = blocks.mean(axis=0)
    place, behind = first_shell(mean)
    if place is None:
        return []
    peak = _with_interval(name, "first peak", np.array([peak_distance(part, r, place) for part in blocks]), "Å", short)
    shift = peak_distance(mean, r, place) - peak.value
    low, high = (peak.low or 0.0) + shift, (peak.high or 0.0) + shift
    peak = replace(peak, value=peak.value + shift, low=low, high=high)
    return [peak, _with_interval(name, "coordination", running[:, behind], "", short)]
