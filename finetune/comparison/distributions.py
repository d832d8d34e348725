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
from ase.neighborlist import neighbor_list
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from scipy.stats import f as fisher
from scipy.stats import t as student

from finetune.comparison.figures import ERROR_RATE, Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, starts
from finetune.comparison.recorded import Recorded
from finetune.comparison.runs import frames_of, steps_between
from finetune.errors import InputError
from finetune.md import Langevin, Stage

LEAST = 5  # blocks that a verdict needs
BANDS = 4  # blocks of what is too short for a verdict, for the bands of its curves
MOST = 16  # blocks; longer ones are less correlated with each other
SMOOTH = 1.5  # bins, of the g(r) whose peaks are looked for
WINDOW = 0.3  # Å around a first peak of the reference, in which that of another curve is looked for
FIRST = 0.75  # of the cutoff, within which a first peak is taken: those beyond are the lattice's, not a bond's
AT_REST = 1e-5  # share of the sum of momenta, below which the total one is that of digits in a file
REMEMBERS = 0.8  # largest correlation of blocks that can be seen in a few of them
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
        parts = [_radial([frames[k] for k in block], edges, elements) for block in blocks]
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
            [sum(_angle_counts(frames[k], self.angle, self.bond, edges) for k in block) for block in blocks], float
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
                found.append(replace(_distance(there, curve, compared), short=short))
                found += [replace(figure, short=short) for figure in _differences(there, curve, reference)]
        return found


def _distance(curve: Curve, other: Curve, compared: int) -> Figure:
    """Mean difference of two curves over the mean of the second, without what their noise makes, and its floor.

    The squared difference of two noisy curves is on average that of the true ones plus the squared standard errors of
    both, which are taken away. For equal potentials the ratio of the squared difference to these errors follows
    Fisher's F with degrees of freedom by Box's approximation (Shen and Faraway, Stat. Sin. 14, 1239, 2004).
    """
    sides = [np.array(one.parts, dtype=float) for one in (curve, other)]
    difference = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    excess = [memory(side) for side in sides]
    square = float((difference**2).sum())
    noise = sum(float(squared_error(side, more).sum()) for side, more in zip(sides, excess, strict=True))
    if square == 0:
        return Figure(curve.panel, "distance from DFT", 0.0, floor=0.0)
    shape = float(np.abs(difference).mean() / sides[1].mean() / np.sqrt(square))
    rows = np.concatenate([(side - side.mean(axis=0)) / np.sqrt(len(side) * (len(side) - 1)) for side in sides])
    gram = rows @ rows.T
    left = min(map(len, sides)) - 1  # those of the shorter side: slow motions make blocks less than independent
    modes = float(np.trace(gram) ** 2 / (gram**2).sum()) if gram.any() else 1.0
    largest = float(fisher.ppf(1 - ERROR_RATE / compared, modes, modes * left))
    along = [side @ (difference / np.sqrt(square)) for side in sides]
    half = float(student.ppf(1 - ERROR_RATE / 2, left)) * float(
        np.sqrt(sum(squared_error(part, more) for part, more in zip(along, excess, strict=True)))
    )
    value = np.sqrt(max(0.0, square - noise))
    return Figure(
        *(curve.panel, "distance from DFT", shape * value, ""),
        low=shape * max(0.0, value - half),
        high=shape * (value + half),
        samples=left + 1,
        floor=shape * np.sqrt(noise * max(0.0, largest - 1)),
    )


def _differences(curve: Curve, other: Curve, reference: Measured) -> list[Figure]:
    """First peak, and neighbours within DFT's first shell, minus those of DFT; density and cell are the same."""
    pair = curve.panel.removeprefix("g(r) ")
    standard = reference.by_name().get(f"{pair}: coordination")
    if standard is None or curve.panel == pair:
        return []
    r, sides = np.array(other.x), [np.array(one.parts, dtype=float) for one in (curve, other)]
    place, behind = _shell(np.array(other.y))
    if place is None:
        return []
    shell = slice(0, behind + 1)
    neighbours = [(side * r**2)[:, shell].sum(axis=1) for side in sides]
    scale = standard.value / neighbours[1].mean()
    peaks = [np.array([_peak(part, r, place) for part in side]) for side in sides]
    whole = _peak(sides[0].mean(axis=0), r, place) - _peak(sides[1].mean(axis=0), r, place)
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


def squared_error(parts: np.ndarray, excess: float = 1.0) -> np.ndarray:
    """Squared standard error of the mean over blocks, shape (blocks, ...), that may be correlated with each other.

    The largest over groups of 1, 2, 4, ... neighbouring blocks, down to two groups (Flyvbjerg and Petersen, J. Chem.
    Phys. 91, 461, 1989): a slow motion shows as halves that differ more than blocks do. For a curve the grouping with
    the largest sum is taken.

    Args:
        parts: of each block.
        excess: factor for single blocks, see `memory`.
    """
    errors = []
    groups = len(parts)
    while groups >= 2:
        means = np.array([part.mean(axis=0) for part in np.array_split(parts, groups)])
        errors.append((excess if groups == len(parts) else 1.0) * means.var(axis=0, ddof=1) / groups)
        groups //= 2
    return np.asarray(max(errors, key=lambda error: error.sum()))


def memory(parts: np.ndarray) -> float:
    """Squared error of a mean over that of independent blocks, from the correlation of neighbouring ones, 1 or more.

    It is (1 + rho) / (1 - rho) for blocks that remember the one before by rho. All bins of a curve, shape
    (blocks, bins), count together. The correlation of few blocks comes out too low by one over their number: added.
    """
    apart = parts - parts.mean(axis=0)
    square = float((apart**2).sum())
    if square == 0:
        return 1.0
    count = len(parts)
    rho = float((apart[1:] * apart[:-1]).sum()) / square * count / (count - 1) + 1 / count
    rho = min(max(rho, 0.0), REMEMBERS)
    return (1 + rho) / (1 - rho)


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


def _of_pair(name: str, r: np.ndarray, blocks: np.ndarray, running: np.ndarray, short: str) -> list[Figure]:
    """First peak, and the coordination number up to the minimum behind it, with intervals over blocks."""
    mean = blocks.mean(axis=0)
    place, behind = _shell(mean)
    if place is None:
        return []
    peak = _with_interval(name, "first peak", np.array([_peak(part, r, place) for part in blocks]), "Å", short)
    shift = _peak(mean, r, place) - peak.value
    low, high = (peak.low or 0.0) + shift, (peak.high or 0.0) + shift
    peak = replace(peak, value=peak.value + shift, low=low, high=high)
    return [peak, _with_interval(name, "coordination", running[:, behind], "", short)]


def _peak(g: np.ndarray, r: np.ndarray, place: int) -> float:
    """Distance of the maximum of g(r) near a bin, interpolated between bins as that of a Gaussian."""
    width = r[1] - r[0]
    reach = max(2, round(WINDOW / width))
    first = max(1, place - reach)
    smooth = gaussian_filter1d(g, SMOOTH)
    k = first + int(np.argmax(smooth[first : min(len(g) - 1, place + reach + 1)]))
    before, top, after = (float(value) for value in smooth[k - 1 : k + 2])
    if not min(before, after) > 0 or not max(before, after) <= top:
        return float(r[k])  # at the end of the window
    before, top, after = np.log(before), np.log(top), np.log(after)
    bend = before - 2 * top + after
    return float(r[k] + (width * (before - after) / (2 * bend) if bend < 0 else 0.0))


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
