"""What the data cover: compositions, temperatures, distances of pairs; and the frames that stick out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.units import GPa

from finetune.data.frames import Frame
from finetune.doctor.findings import Finding, by_source, short, some
from finetune.doctor.likeness import CUTOFF, pair_distances
from finetune.evaluation import Evaluation
from finetune.progress import through
from finetune.references import fit_references

STICKS_OUT = 7.0  # median absolute deviations as standard deviations; one normal value in 10^11 is beyond
LEAST_SPREAD = {"force": 0.2, "pressure": 0.3, "energy": 0.02}  # log, GPa, eV/atom: a smaller spread is taken as this
TOO_CLOSE = 0.6  # of the sum of the covalent radii
NEVER_NEAR = 1.5  # sums of the covalent radii within which a pair of elements should have been
MOST_TEMPERATURES = 6  # named one by one
MIN_FRAMES = 8  # fewer have no usual value to stick out from
SHELL = 0.1  # Å
EDGES = np.arange(0.0, CUTOFF + SHELL / 2, SHELL)
TEMPERATURE = re.compile(r"(?<![\w.])(?:T=)?(\d{2,5}(?:\.\d+)?) ?K(?![\w])|_(\d{2,5}) ?K(?![A-Za-z])")
TEMPERATURE_KEYS = ("temperature_K", "temperature")


@dataclass(frozen=True)
class Coverage:
    """What is in the data, for the table and the JSON.

    Attributes:
        compositions: number of frames by reduced formula, most frequent first.
        temperatures: number of frames by temperature in K, ascending.
        closest: shortest distance in Å by pair of elements.
        neighbours: by pair of elements and family, density in 1/Å³ of atoms of the second element around those of the
            first in shells of `SHELL` Å from 0 to 6 Å.
    """

    compositions: Mapping[str, int]
    temperatures: Mapping[float, int]
    closest: Mapping[str, float]
    neighbours: Mapping[str, Mapping[str, np.ndarray]]


def coverage(frames: Sequence[Frame]) -> Coverage:
    """Count what the frames cover."""
    formulas = Counter(formula(frame) for frame in frames)
    temperatures = Counter(t for frame in frames if (t := temperature_K(frame)) is not None)
    closest: dict[str, float] = {}
    counts: dict[str, dict[str, np.ndarray]] = {}
    atoms: Counter[tuple[str, str]] = Counter()
    for frame in through(frames, "distances", len(frames), "frames"):
        atoms.update((frame.family, symbol) for symbol in frame.atoms.symbols)
        for (a, b), d in pair_distances(frame.atoms).items():
            pair = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            closest[pair] = min(closest.get(pair, np.inf), float(d.min()))
            found = counts.setdefault(pair, {}).setdefault(frame.family, np.zeros(len(EDGES) - 1))
            found += np.histogram(d, EDGES)[0] * (2 if a == b else 1)
    shells = 4 / 3 * np.pi * np.diff(EDGES**3)
    neighbours = {
        pair: {family: n / shells / atoms[family, pair.split("-")[0]] for family, n in sorted(counts[pair].items())}
        for pair in sorted(counts)
    }
    return Coverage(dict(formulas.most_common()), dict(sorted(temperatures.items())), closest, neighbours)


def covered(frames: Sequence[Frame], seen: Coverage) -> list[Finding]:
    """Coverage in words, and what is missing for a reaction: elements of one part only, pairs that never come near."""
    listed = some(f"{name} {count}" for name, count in seen.compositions.items())
    words = f"{len(seen.compositions)} formulas in {len(frames)} frames, most of them {listed}"
    findings = [Finding("coverage: compositions", "good", words), *_strange_elements(frames)]
    if seen.temperatures:
        told = sum(seen.temperatures.values())
        words = f"{_told(seen.temperatures)}; {len(frames) - told} frames name none"
        findings.append(Finding("coverage: temperatures", "good", words))
    else:
        findings.append(Finding("coverage: temperatures", "skipped", "no frame names a temperature in info"))
    return [*findings, _pairs(frames, seen)]


def _told(temperatures: Mapping[float, int]) -> str:
    """Numbers of frames by temperature; by bins of a fifth of the range and at least 100 K where there are many."""
    if len(temperatures) <= MOST_TEMPERATURES:
        return ", ".join(f"{t:g} K {count}" for t, count in temperatures.items())
    low, high = min(temperatures), max(temperatures)
    width = max(100, 100 * int(np.ceil((high - low) / 500)))
    bins = Counter(int(t // width) * width for t in temperatures for _ in range(temperatures[t]))
    return ", ".join(f"{start} to {start + width} K {bins[start]}" for start in sorted(bins))


def outliers(frames: Sequence[Frame], evaluation: Evaluation | None) -> list[Finding]:
    """Frames whose forces, pressure, distances or energies stick out."""
    largest = [float(frame.labels.forces.norm(dim=1).max()) for frame in frames]
    pressure = [-float(frame.labels.stress[0].trace()) / 3 / GPa for frame in frames]
    with np.errstate(divide="ignore"):
        force = np.log(np.maximum(largest, 1e-3))
    findings = [
        _sticking_out("outliers: force", frames, force, "force", lambda i: f"{largest[i]:.1f} eV/Å", above=True),
        _sticking_out("outliers: pressure", frames, np.array(pressure), "pressure", lambda i: f"{pressure[i]:.1f} GPa"),
        too_close(frames),
    ]
    return [*findings, _energy(evaluation)] if evaluation is not None else findings


def too_close(frames: Sequence[Frame]) -> Finding:
    """Atoms closer than `TOO_CLOSE` times the sum of their covalent radii."""
    words = []
    for frame in frames:
        reach = TOO_CLOSE * 2 * float(covalent_radii[frame.atoms.numbers].max())
        for (a, b), d in pair_distances(frame.atoms, reach).items():
            if d.min() < TOO_CLOSE * (covalent_radii[a] + covalent_radii[b]):
                words.append(f"{frame.where()} {chemical_symbols[a]}-{chemical_symbols[b]} {d.min():.2f} Å")
    if not words:
        return Finding("outliers: distance", "good", f"no pair below {TOO_CLOSE} times the sum of its covalent radii")
    text = f"{len(words)} pairs of elements are very close: {some(words)}"
    remedy = "drop them if they are accidents; PAW spheres overlap and DFT itself is off there"
    return Finding("outliers: distance", "warning", text, remedy)


def formula(frame: Frame) -> str:
    """Reduced formula."""
    return str(frame.atoms.symbols.formula.reduce()[0].format("metal"))


def temperature_K(frame: Frame) -> float | None:
    """Temperature that `info` gives or the last step of `made_by` that has one, K; None where none is certain."""
    info = frame.atoms.info
    for key in TEMPERATURE_KEYS:
        if isinstance(info.get(key), int | float | np.number):
            return float(info[key])
    for step in reversed(f"{info.get('made_by', '')}".split(" > ")):
        found = TEMPERATURE.findall(step)
        if found:  # of a range, as in "1100 K to 300 K", nobody knows where the frame was taken
            return float(found[0][0] or found[0][1]) if len(found) == 1 else None
    return None


def _strange_elements(frames: Sequence[Frame]) -> list[Finding]:
    """Elements that the largest file has not."""
    parts = {name: {int(z) for i in part for z in frames[i].atoms.numbers} for name, part in by_source(frames).items()}
    largest = max(by_source(frames).values(), key=len)
    there = parts[frames[largest[0]].source]
    words = [
        f"{short(name)} has {some(chemical_symbols[z] for z in sorted(found - there))}"
        for name, found in parts.items()
        if found - there
    ]
    if not words:
        return []
    text = f"{'; '.join(words)}, which {short(frames[largest[0]].source)} has not"
    return [Finding("coverage: elements", "warning", text, "no element is learnt that is in no training frame")]


def _pairs(frames: Sequence[Frame], seen: Coverage) -> Finding:
    """Shortest distance of each pair of elements, and pairs that never come near each other."""
    elements = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    far = []
    for a, b in combinations_with_replacement(elements, 2):
        name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
        if seen.closest.get(name, np.inf) > NEVER_NEAR * (covalent_radii[a] + covalent_radii[b]):
            far.append(f"{name} {seen.closest[name]:.1f} Å" if name in seen.closest else f"{name} beyond {CUTOFF:g} Å")
    words = "shortest distances, Å: " + ", ".join(f"{pair} {d:.2f}" for pair, d in seen.closest.items())
    if not far:
        return Finding("coverage: distances", "good", words)
    remedy = "add frames where they meet (hot, packed or compressed), or dynamics may fall into an unknown well"
    return Finding("coverage: distances", "warning", f"{words}; never near each other: {', '.join(far)}", remedy)


def _sticking_out(
    check: str,
    frames: Sequence[Frame],
    values: np.ndarray,
    kind: str,
    told: Callable[[int], str],
    above: bool = False,
) -> Finding:
    """Frames far from the median in units of the median absolute deviation."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < MIN_FRAMES:
        return Finding(check, "skipped", f"known for {len(known)} frames only; it takes {MIN_FRAMES}")
    middle = np.median(values[known])
    spread = max(1.4826 * float(np.median(np.abs(values[known] - middle))), LEAST_SPREAD[kind])
    z = (values[known] - middle) / spread
    out = known[(z if above else np.abs(z)) > STICKS_OUT]
    far = known[np.argsort(-(z if above else np.abs(z)))]
    if not len(out):
        return Finding(check, "good", f"no frame sticks out; furthest {told(far[0])}, {frames[far[0]].where()}")
    listed = some(f"{frames[i].where()} {told(i)}" for i in far[: len(out)])
    return Finding(check, "warning", f"{len(out)} frames stick out: {listed}", "look at them; label again or drop them")


def _energy(evaluation: Evaluation) -> Finding:
    """Energies that are far from the potential, after the fit of one energy per element."""
    frames, n = evaluation.frames, evaluation.n_atoms.numpy()
    difference = (evaluation.labels.energy - evaluation.predicted.energy).numpy()
    fit = fit_references([frame.atoms.numbers for frame in frames], difference)
    left = (difference - [fit.of(frame.atoms.numbers) for frame in frames]) / n
    return _sticking_out("outliers: energy", frames, left, "energy", lambda i: f"{1e3 * left[i]:+.0f} meV/atom off")
