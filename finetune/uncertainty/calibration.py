"""Calibrated errors of forces: split-conformal quantiles for each element, from held-out labels.

With the error e = |F predicted - F label| of an atom, its raw score s and the floor s_0 of its element,

    r = e / (s + s_0),   q = the ceil((n + 1) level)-th smallest r of the n calibration atoms of the element,

`forces_error = q (s + s_0)` covers the error of a further atom with probability `level` at least, whatever the score
is worth, if that atom and the calibration atoms could be exchanged for each other (Papadopoulos et al.,
10.1007/3-540-36755-1_29; Angelopoulos and Bates, arXiv 2107.07511).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float
from torch import Tensor

from finetune.errors import InputError, unknown
from finetune.graph import Graph
from finetune.potential import Potential
from finetune.properties import Properties
from finetune.uncertainty.frames import Labelled, clusters, force_errors, numbers_of, predictions
from finetune.uncertainty.shift import Record, floor_of, needed_atoms, record
from finetune.wrapper import Wrapper

ENOUGH_GROUPS = 20  # groups from which on a calibration has frames of its own, none of which chose the epoch
SCORES = ("forces_std", "energies_std", "gamma", "constant")
LEVELS = tuple(k / 100 for k in range(1, 100))  # of the reliability diagram


@dataclass(frozen=True, eq=False)
class Calibration:
    """What labels say of the errors of an element.

    Attributes:
        quantiles: of r at `LEVELS` and, last, at the stated level; float64, infinite where the atoms are too few.
        floor: s_0, in the unit of the score.
        atoms: labelled atoms that it rests on.
        pooled: they are of all elements, because the element has too few.
        scatter: standard error of the coverage at the stated level, and of the mean p-value, from the scatter among
            groups of related frames.
    """

    quantiles: Float[Tensor, " levels"]
    floor: float
    atoms: int
    pooled: bool
    scatter: tuple[float, float]


class Calibrated(Wrapper):
    """A potential that says how wrong its forces may be: `forces_error` of each atom, eV/Å.

    The promise holds for atoms like those of the calibration frames: label some frames of what is to be simulated, by
    groups that training has not seen, and calibrate anew when the simulation goes elsewhere. Errors belong to the
    weights; a potential that was trained further is to be calibrated anew. Where nothing is known of an element they
    are infinite.

    Args:
        potential: the potential underneath.
        calibrations: by atomic number or chemical symbol; in a checkpoint the plain numbers of each. See `calibrate`.
        score: raw score of an atom: `forces_std` (norm over directions), `energies_std`, `gamma`, or `constant`.
        level: probability with which the error stays below.
        record: the labelled atoms that it rests on, for the test of a shift; in a checkpoint their number.
    """

    def __init__(
        self,
        potential: Potential,
        calibrations: Mapping[Any, Any],
        score: str,
        level: float,
        record: Record | int = 0,
    ) -> None:
        super().__init__(potential)
        check_settings(score, level)
        self.score, self.level = score, level
        self.about: dict[int, dict[str, Any]] = {}
        for key, given in calibrations.items():
            number = atomic_numbers[key] if isinstance(key, str) else int(key)
            if not isinstance(given, Calibration):
                given = Calibration(torch.zeros(len(LEVELS) + 1, dtype=torch.float64), **_typed(given))
            plain = {name: getattr(given, name) for name in ("floor", "atoms", "pooled")}
            self.about[number] = {**plain, "scatter": list(given.scatter)}
            self.register_buffer(f"quantiles_{chemical_symbols[number]}", given.quantiles.double().to(self.device))

        self.recorded = record if isinstance(record, int) else len(record)
        for field in fields(Record) if self.recorded else ():  # calibrations of an older version have no record
            kind = torch.float64 if field.name in ("errors", "scores") else torch.int64
            values = [0] * record if isinstance(record, int) else getattr(record, field.name)
            self.register_buffer(f"record_{field.name}", torch.as_tensor(values, dtype=kind).to(self.device))

    @property
    def record(self) -> Record:
        """The labelled atoms that the calibration rests on; none in a calibration of an older version."""
        if not self.recorded:
            return Record(
                *(np.zeros(0, dtype=float if f.name in ("errors", "scores") else int) for f in fields(Record))
            )
        return Record(*(self.get_buffer(f"record_{field.name}").cpu().numpy() for field in fields(Record)))

    @property
    def calibrations(self) -> dict[int, Calibration]:
        """The calibration of each element, by atomic number."""
        return {number: Calibration(self._quantiles(number), **_typed(about)) for number, about in self.about.items()}

    def added(self, said: Properties, graph: Graph) -> Properties:
        """What is said underneath, and forces_error; not in training."""
        if self.training:
            return said
        scores, numbers = scores_of(said, self.score), graph["numbers"].to(said.forces.device)
        error = torch.full_like(scores, torch.inf)
        for number, about in self.about.items():
            value = self._quantiles(number)[-1] * (scores + about["floor"])
            error = torch.where(numbers == number, value, error)
        return replace(said, forces_error=error)

    def messages(self) -> list[str]:
        """What the calibration rests on, in words, and what is wrong with it."""
        lines = []
        for number, about in self.about.items():
            text = f"{chemical_symbols[number]}: {about['atoms']} labelled atoms, coverage good to "
            text += f"{100 * about['scatter'][0]:.0f} points"
            if about["pooled"]:
                text += f"; those of all elements, since its own are too few for a level of {self.level:g}"
            lines.append(text)
        return lines

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args`, the potential nested."""
        arguments = {
            "potential": self.potential.config(),
            "calibrations": {chemical_symbols[number]: about for number, about in self.about.items()},
            "score": self.score,
            "level": self.level,
            "record": self.recorded,
        }
        return {"class_path": "finetune.uncertainty.Calibrated", "init_args": arguments}

    def bare(self) -> Potential:
        """The potential underneath: its calibration is not true after training."""
        return self.potential.bare()

    def _quantiles(self, number: int) -> Tensor:
        return self.get_buffer(f"quantiles_{chemical_symbols[number]}")


def _typed(about: Mapping[str, Any]) -> dict[str, Any]:
    """Plain numbers of a calibration, as it holds them."""
    at_level, of_p_value = about["scatter"]
    return {**about, "scatter": (at_level, of_p_value)}


def calibrate(
    potential: Potential,
    frames: Sequence[Labelled],
    level: float = 0.9,
    score: str | None = None,
    pool: bool = True,
    batch_edges: int = 8000,
) -> Calibrated:
    """The potential with calibrated errors of its forces.

    Args:
        potential: any potential; a calibration that it has is replaced.
        frames: held-out labelled frames, like those to be predicted.
        level: probability with which the error of a force is to stay below what is stated.
        score: see `Calibrated`; None takes the first of `SCORES` that the potential says.
        pool: an element with too few labelled atoms takes the errors of all elements; otherwise it is refused.
        batch_edges: edges that are evaluated together.

    Raises:
        InputError: no labelled forces, too few of them, or a score that the potential does not say.
    """
    check_settings(score or "constant", level)
    if not len(frames):
        raise InputError("there are no frames to calibrate by; give held-out labelled ones")
    inner = potential.potential if isinstance(potential, Calibrated) else potential
    said = predictions(inner, frames, batch_edges)
    score = score or next(name for name in SCORES if name == "constant" or getattr(said, name) is not None)
    scores, errors = scores_of(said, score).numpy(), force_errors(said, frames)
    numbers, related = numbers_of(frames), clusters(frames)
    known = np.isfinite(errors) & np.isfinite(scores)
    needed = needed_atoms(level)
    if known.sum() < needed:
        raise InputError(f"{known.sum()} atoms have labelled forces and a score; a level of {level} needs {needed}")
    found: dict[int, Calibration] = {}
    for number in np.unique(numbers).tolist():
        own = known & (numbers == number)
        pooled = int(own.sum()) < needed
        if pooled and not pool:
            raise InputError(
                f"{own.sum()} labelled atoms of {chemical_symbols[number]} are too few for a level of {level}, which "
                f"needs {needed}; add frames, lower the level, or let it take the errors of all elements"
            )
        mine = known if pooled else own
        found[number] = _calibration(scores[mine], errors[mine], related[mine], level, pooled)
    return Calibrated(inner, found, score, level, record(errors, scores, frames)).eval()


def _calibration(
    scores: np.ndarray, errors: np.ndarray, related: np.ndarray, level: float, pooled: bool
) -> Calibration:
    """Floor, quantiles and their uncertainty from the atoms of an element; the floor is the median score."""
    floor = floor_of(scores)
    ratios = np.sort(errors / (scores + floor))
    ranks = np.ceil(np.round((len(ratios) + 1) * np.array([*LEVELS, level]), 9)).astype(int)
    quantiles = np.append(ratios, np.inf)[np.minimum(ranks, len(ratios) + 1) - 1]
    values = errors / (scores + floor)
    covered, p = values <= quantiles[-1], p_values(values, quantiles[:-1])
    scatter = (standard_error(covered, related), standard_error(p, related))
    return Calibration(torch.from_numpy(quantiles), floor, len(ratios), pooled, scatter)


def scores_of(said: Properties, score: str) -> Float[Tensor, " atoms"]:
    """The raw score of each atom, float64.

    Raises:
        InputError: the potential does not say it.
    """
    if score == "constant":
        return torch.ones(len(said.forces), dtype=torch.float64, device=said.forces.device)
    value: Tensor | None = getattr(said, score)
    if value is None:
        raise InputError(f"the potential says no {score}; {REMEDY[score]}, or take another score")
    value = value.detach().double()
    return torch.linalg.vector_norm(value, dim=1) if value.ndim == 2 else value


REMEDY = {
    "forces_std": "make a committee of several models",
    "energies_std": "give it shallow readouts",
    "gamma": "grade it first",
}


def p_values(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Level at which each value would just be covered, to 0.01: evenly distributed from 0 to 1 where all is well.

    Args:
        values: errors over their unit.
        quantiles: at `LEVELS`, the same for all values or a row for each.
    """
    below = (values[:, None] > quantiles).sum(axis=1)
    return (below + 0.5) / (quantiles.shape[-1] + 1)


def standard_error(values: np.ndarray, related: np.ndarray) -> float:
    """Standard error of a mean whose values are related within clusters; NaN from a single cluster.

    The sums of the deviations in each of G clusters count as independent, times G / (G - 1) (Liang and Zeger,
    10.1093/biomet/73.1.13).
    """
    _, numbered = np.unique(related, return_inverse=True)
    sums = np.bincount(numbered, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values)) if len(sums) > 1 else math.nan


def check_settings(score: str, level: float) -> None:
    """Raise `InputError` for a score that there is not, or a level that is no probability."""
    if score not in SCORES:
        raise unknown("score", score, SCORES)
    if not 0 < level < 1:
        raise InputError(f"the level is {level}; give a probability between 0 and 1, such as 0.9")
