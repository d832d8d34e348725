"""Radial and angular distributions of frames, and the first peak of a radial one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

SMOOTH = 1.5  # bins, of the g(r) whose peaks are looked for


WINDOW = 0.3  # Å around a first peak of the reference, in which that of another curve is looked for


FIRST = 0.75  # of the cutoff, within which a first peak is taken: those beyond are the lattice's, not a bond's


def radial_distributions(
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


def peak_distance(g: np.ndarray, r: np.ndarray, place: int) -> float:
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


def first_shell(g: np.ndarray) -> tuple[int | None, int]:
    """Places of the first peak and of the minimum behind it; None where there is none, or only a far one."""
    place = first_peak(g)
    if place is None or place > FIRST * len(g):
        return None, 0
    return place, place + int(np.argmin(gaussian_filter1d(g, SMOOTH)[place : place + len(g) // 4]))


def first_peak(g: np.ndarray) -> int | None:
    """Place of the first maximum of a smoothed g(r) above 1; None where there is none."""
    found = find_peaks(gaussian_filter1d(g, SMOOTH), height=1.0, prominence=0.3)[0]
    return int(found[0]) if len(found) else None


def angle_counts(atoms: Atoms, elements: Sequence[str], bond: float, edges: np.ndarray) -> np.ndarray:
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
