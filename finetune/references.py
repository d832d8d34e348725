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
NORMAL_TOLERANCE = 1e-10  # the same for the eigenvalues of the normal equations, which are squares
INSIDE = 1e-5  # largest part of a composition outside of the fitted ones that is rounding
ALIGNED = "Energies are compared after an energy shift per element"  # with what it was fitted to behind it


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

    def determines(self, numbers: np.ndarray) -> bool:
        """Return whether the fitted compositions determine the sum of the reference energies of a structure."""
        counts = {int(z): int((np.asarray(numbers) == z).sum()) for z in np.unique(numbers)}
        size = math.sqrt(sum(count**2 for count in counts.values()))
        if not counts.keys() <= self.energies.keys():
            return False
        return all(
            abs(sum(direction.get(z, 0.0) * count for z, count in counts.items())) < INSIDE * size
            for direction in self.undetermined
        )

    @property
    def undetermined_elements(self) -> tuple[int, ...]:
        """Atomic numbers of the elements whose own energy the data do not determine."""
        return tuple(sorted({z for direction in self.undetermined for z in direction}))

    def message(self) -> str:
        """Return the fitted energies, and those that could not be determined, in a sentence."""
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


@dataclass(frozen=True, eq=False)
class Alignment:
    """Energy shifts that put a model with another energy zero on that of the labels.

    The shift of a frame is never fitted to its own label, so that it cannot flatter the model.

    Attributes:
        shift: energy to add to the prediction of each frame, eV, shape (structures); NaN where no other frame
            determines it.
        source: what the shifts were fitted to.
        by_frame: number of frames whose shift had to be fitted to other frames of their own group too.
    """

    shift: np.ndarray
    source: str
    by_frame: int = 0

    def message(self) -> str:
        """Return how energies were aligned, in a sentence."""
        text = f"{ALIGNED} fitted to {self.source}"
        if self.by_frame:
            text += f"; for {self.by_frame} frames also to the other frames of their own group"
        missing = int(np.isnan(self.shift).sum())
        if missing:
            text += f"; {missing} of {len(self.shift)} frames have a composition that these do not determine"
        return text + "."


def align(numbers: Sequence[np.ndarray], difference: Sequence[float] | np.ndarray, group: Sequence[str]) -> Alignment:
    """Fit the energy shift per element of each group to the frames of all other groups (leave one group out).

    A frame whose composition the other groups do not determine takes the shift that all other frames give; where these
    do not determine it either, it has none.

    Args:
        numbers: atomic numbers of each frame.
        difference: energy of each frame, label minus prediction, eV; NaN where it is not known.
        group: group of each frame.
    """
    _, counts = compositions(numbers)
    n = counts.sum(axis=1)
    x, d = counts / n[:, None], np.asarray(difference, dtype=float) / n
    known = np.isfinite(d)
    names = np.asarray(group, dtype=object)
    xx, xy = x[known].T @ x[known], x[known].T @ d[known]
    scale = float(np.trace(xx))
    shift = np.full(len(n), math.nan)
    for name in sorted(set(map(str, group))):
        own = names == name
        shift[own] = _held_out(xx, xy, x[own], d[own], x[own], scale)
    left = np.flatnonzero(np.isnan(shift) & known)
    for k in left:
        shift[k] = _held_out(xx, xy, x[[k]], d[[k]], x[[k]], scale)[0]
    by_frame = int(np.isfinite(shift[left]).sum())
    return Alignment(shift * n, "the frames of the other groups (leave one group out)", by_frame)


def align_by(references: References, numbers: Sequence[np.ndarray], source: str) -> Alignment:
    """Take the energy shifts of frames from reference energies that were fitted to others, such as training frames.

    Args:
        references: fitted to labels minus predictions of those frames.
        numbers: atomic numbers of each frame that is to be aligned.
        source: the frames that the references were fitted to, in words.
    """
    shifts = [references.of(z) if references.determines(z) else math.nan for z in numbers]
    return Alignment(np.array(shifts, dtype=float), source)


def _held_out(
    xx: np.ndarray, xy: np.ndarray, x_out: np.ndarray, d_out: np.ndarray, x: np.ndarray, scale: float
) -> np.ndarray:
    """Shift per atom of compositions x by a least-squares fit to all frames but some; NaN where not determined."""
    known = np.isfinite(d_out)
    gone = x_out[known]
    values, vectors = np.linalg.eigh(xx - gone.T @ gone)
    kept = values > NORMAL_TOLERANCE * max(scale, np.finfo(float).tiny)
    inside = vectors[:, kept]
    energies = inside @ ((inside.T @ (xy - gone.T @ d_out[known])) / values[kept])
    outside = np.linalg.norm(x @ vectors[:, ~kept], axis=1)
    return np.where(outside < INSIDE, x @ energies, math.nan)


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
