"""Permutation test of whether frames differ from those of a calibration: their groups change places.

Where both are alike, any division of all groups into as many calibration and test groups is as likely as the one at
hand. Each division is calibrated and tested anew, so no assumption on sizes of groups or shapes of errors is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from finetune.uncertainty.frames import FEW_GROUPS, Labelled, numbers_of

PERMUTATIONS = 999
LEAST = 199  # permutations of the largest data
WORK = 10**8  # atoms times permutations


@dataclass(frozen=True, eq=False)
class Record:
    """Errors and scores of labelled atoms, with the group and the frame that each belongs to.

    Attributes:
        errors: |F predicted - F label| of each atom, eV/Å.
        scores: raw score of each atom, see `Calibrated`.
        numbers: atomic number.
        groups: number of the group.
        frames: number of the frame.
    """

    errors: Float[np.ndarray, " atoms"]
    scores: Float[np.ndarray, " atoms"]
    numbers: Int[np.ndarray, " atoms"]
    groups: Int[np.ndarray, " atoms"]
    frames: Int[np.ndarray, " atoms"]

    def __len__(self) -> int:
        return len(self.errors)

    def __getitem__(self, chosen: np.ndarray) -> Record:
        return Record(*(getattr(self, field.name)[chosen] for field in fields(self)))


def record(errors: np.ndarray, scores: np.ndarray, frames: Sequence[Labelled]) -> Record:
    """The record of the atoms whose error and score are known."""
    sizes = [len(frame.atoms) for frame in frames]
    _, groups = np.unique(np.array([frame.group for frame in frames]), return_inverse=True)
    whole = Record(
        errors, scores, numbers_of(frames), np.repeat(groups, sizes), np.repeat(np.arange(len(frames)), sizes)
    )
    return whole[np.isfinite(errors) & np.isfinite(scores)]


def needed_atoms(level: float) -> int:
    """Atoms below which a quantile of a level is infinite."""
    return math.ceil(round(level / (1 - level), 9))


def floor_of(scores: np.ndarray) -> float:
    """The median score, or the smallest positive one where that is 0; 1 where all are 0."""
    floor = float(np.median(scores))
    if floor > 0:
        return floor
    return float(scores[scores > 0].min()) if scores.max() > 0 else 1.0


def shift_p_values(calibration: Record, test: Record, level: float, rng: np.random.Generator) -> dict[int, float]:
    """Probability of test errors that differ as much or more, if test and calibration groups could be exchanged.

    The share of covered errors and the mean rank of errors among those of the calibration are compared with all other
    divisions of the groups; the one that differs more, in standard deviations over the divisions, counts. Frames take
    the place of groups where either side has fewer than `FEW_GROUPS`.

    Args:
        calibration: atoms of the calibration.
        test: atoms that are to be like them.
        level: of the calibration.
        rng: draws the divisions.

    Returns:
        By atomic number, and for all atoms under 0; elements that one of the two lacks have none and do not count.
    """
    common = np.intersect1d(calibration.numbers, test.numbers)
    first, second = (part[np.isin(part.numbers, common)] for part in (calibration, test))
    if not len(common):
        return {}
    by = "groups" if min(len(np.unique(part.groups)) for part in (first, second)) >= FEW_GROUPS else "frames"
    ends = [np.unique(getattr(part, by), return_inverse=True)[1] for part in (first, second)]
    owner = np.concatenate([ends[0], ends[1] + ends[0].max() + 1])
    count = int(ends[0].max()) + 1
    both = Record(*(np.concatenate([getattr(p, field.name) for p in (first, second)]) for field in fields(Record)))
    total = int(owner.max()) + 1
    divisions = [np.arange(total) < count]
    for _ in range(int(np.clip(WORK // len(both), LEAST, PERMUTATIONS))):
        divisions.append(rng.permutation(divisions[0]))
    found = np.array([_means(both, chosen[owner], common, level) for chosen in divisions])
    names = [0, *(int(z) for z in common)]
    return {name: _unlikely(found[:, k]) for k, name in enumerate(names)}


def _means(both: Record, chosen: np.ndarray, elements: np.ndarray, level: float) -> np.ndarray:
    """Share covered and mean rank of the atoms that are not chosen, by those that are; for all, then each element."""
    sums = np.zeros((len(elements) + 1, 3))
    for k, z in enumerate(elements):
        own = both.numbers == z
        source = chosen & own
        if source.sum() < needed_atoms(level):
            source = chosen
        floor = floor_of(both.scores[source])
        ratios = np.sort(both.errors[source] / (both.scores[source] + floor))
        values = both.errors[own & ~chosen] / (both.scores[own & ~chosen] + floor)
        rank = math.ceil(round((len(ratios) + 1) * level, 9))
        covered = values <= ratios[rank - 1] if rank <= len(ratios) else np.ones(len(values), bool)
        places = (np.searchsorted(ratios, values) + 0.5) / (len(ratios) + 1)
        sums[k + 1] = len(values), covered.sum(), places.sum()
    sums[0] = sums.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[:, 1:] / sums[:, :1])


def _unlikely(found: np.ndarray) -> float:
    """Share of the divisions that are as far from their mean as the first one, or farther."""
    known = found[np.isfinite(found).all(axis=1)]
    spread = known.std(axis=0)
    far = np.abs(known - known.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    size = far.max(axis=1)
    return float((size >= size[0] * (1 - 1e-9)).mean())
