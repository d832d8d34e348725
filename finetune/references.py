"""Reference energies: one energy per element that takes out the different energy zeros of two methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

RANK_TOLERANCE = 1e-8  # of the largest singular value; fractions of small integers have clear-cut ranks


@dataclass(frozen=True)
class References:
    """Reference energies fitted to energy differences of structures.

    Attributes:
        energies: eV per atom of each element, by atomic number; minimum norm where the data leave a choice.
        standard_errors: of `energies`, eV; NaN where the element is not determined or no data are left over to tell.
        undetermined: combinations of elements (coefficients by atomic number) of which the data say nothing.
        frames: number of energies that were used.
        rank: number of independent compositions among them.
        rms: residual that is left, root mean square, eV/atom; NaN without energies.
        reasons: why some elements are not determined, in plain words.
    """

    energies: Mapping[int, float]
    standard_errors: Mapping[int, float]
    undetermined: tuple[Mapping[int, float], ...]
    frames: int
    rank: int
    rms: float
    reasons: tuple[str, ...] = ()

    def of(self, numbers: np.ndarray) -> float:
        """Sum of the reference energies of a structure's atoms, eV; elements that were not fitted count 0."""
        return float(sum(self.energies.get(int(z), 0.0) for z in numbers))

    @property
    def undetermined_elements(self) -> tuple[int, ...]:
        """Atomic numbers of the elements whose own energy the data do not determine."""
        return tuple(sorted({z for direction in self.undetermined for z in direction}))

    def message(self) -> str:
        """What was fitted, and in plain words what could not be."""
        if not self.frames:
            return "reference energies: no frame has an energy, so they stay as the foundation model has them"
        parts = ", ".join(f"{chemical_symbols[z]} {value:+.4f}" for z, value in self.energies.items())
        text = f"reference energies from {self.frames} frames, eV per atom: {parts}"
        text += f"; {1e3 * self.rms:.1f} meV/atom rms is left"
        return f"{text}. {self._doubts()}" if self.undetermined else text

    def _doubts(self) -> str:
        """Which elements' energies the compositions do not determine, and why."""
        names = _enumerate([chemical_symbols[z] for z in self.undetermined_elements])
        why = "; ".join(self.reasons) or f"the frames have only {self.rank} independent compositions"
        return (
            f"The energies of {names} are not determined one by one, because {why}: the smallest change that fits was "
            "taken. Energies of other compositions carry this choice; add frames of other compositions to settle it"
        )


def fit_references(numbers: Sequence[np.ndarray], difference: Sequence[float] | np.ndarray) -> References:
    """Least-squares energy per element of an energy difference, minimum norm, each frame counted per atom.

    Minimises sum_k ((d_k - sum_z n_kz e_z) / n_k)² over e by singular value decomposition of the composition fractions
    n_kz / n_k, whose null space are the combinations of elements that the data cannot tell apart.

    Args:
        numbers: atomic numbers of each frame.
        difference: energy of each frame, label minus foundation model, eV; NaN where it is not known.
    """
    elements, counts = compositions(numbers)
    d = np.asarray(difference, dtype=float)
    known = np.isfinite(d)
    counts, d = counts[known], d[known]
    if not len(d):
        zero = {int(z): 0.0 for z in elements}
        alone = tuple({z: 1.0} for z in zero)
        return References(zero, dict.fromkeys(zero, math.nan), alone, frames=0, rank=0, rms=math.nan)
    n = counts.sum(axis=1)
    fractions, target = counts / n[:, None], d / n
    u, s, vt = np.linalg.svd(fractions, full_matrices=len(d) < len(elements))
    rank = int((s > RANK_TOLERANCE * s[0]).sum())
    inverse = vt[:rank].T / s[:rank]
    energies = inverse @ (u[:, :rank].T @ target)
    residual = target - fractions @ energies
    variance = (residual**2).sum() / (len(d) - rank) if len(d) > rank else math.nan
    errors = np.sqrt(variance * (inverse**2).sum(axis=1))
    null = np.where(np.abs(vt[rank:]) > 1e-7, vt[rank:], 0.0)
    errors[(null != 0).any(axis=0)] = math.nan
    return References(
        energies=dict(zip(elements.tolist(), energies.tolist(), strict=True)),
        standard_errors=dict(zip(elements.tolist(), errors.tolist(), strict=True)),
        undetermined=tuple({int(z): float(c) for z, c in zip(elements, row, strict=True) if c} for row in null),
        frames=len(d),
        rank=rank,
        rms=float(np.sqrt((residual**2).mean())),
        reasons=_reasons(elements, counts) if rank < len(elements) else (),
    )


def compositions(numbers: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers that occur, ascending, and how many atoms of each a frame has, shape (frames, elements)."""
    elements = np.unique(np.concatenate([np.zeros(0, dtype=int), *numbers])).astype(int)
    counts = [[(frame == z).sum() for z in elements] for frame in map(np.asarray, numbers)]
    return elements, np.array(counts, dtype=float).reshape(len(numbers), len(elements))


def _reasons(elements: np.ndarray, counts: np.ndarray) -> tuple[str, ...]:
    """Plain words for elements that are in no frame, or always come in one ratio."""
    symbols = [chemical_symbols[z] for z in elements]
    present = [i for i in range(len(elements)) if counts[:, i].any()]
    words = [f"no frame with an energy contains {symbols[i]}" for i in range(len(elements)) if i not in present]
    locked = []
    for i, j in itertools.combinations(present, 2):
        a, b = counts[:, i], counts[:, j]
        k = int(a.argmax())
        if b[k] and (a * b[k] == b * a[k]).all():
            common = math.gcd(int(a[k]), int(b[k]))
            locked.append(f"{symbols[i]} and {symbols[j]} always come {int(a[k]) // common}:{int(b[k]) // common}")
    if len(present) > 1 and len(locked) == math.comb(len(present), 2):
        locked = [f"all frames have the one composition {_formula(elements, counts[0])}"]
    return (*locked, *words)


def _formula(elements: np.ndarray, counts: np.ndarray) -> str:
    """Reduced formula of one composition."""
    formula = Formula.from_dict({chemical_symbols[z]: int(c) for z, c in zip(elements, counts, strict=True) if c})
    return str(formula.reduce()[0])


def _enumerate(names: Sequence[str]) -> str:
    """`Li, P and S`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
