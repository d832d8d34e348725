"""How far calibrated errors can be believed: coverage at many levels, CRPS, rank correlation, signs of a shift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from rich import box
from rich.table import Table
from scipy import stats

from finetune.errors import InputError
from finetune.potential import Potential
from finetune.uncertainty.calibration import LEVELS, Calibrated, p_values, scores_of, standard_error
from finetune.uncertainty.frames import Labelled, clusters, force_errors, numbers_of, predictions

SURPRISE = 0.05  # probability of calling frames shifted that are not, for all atoms and again over the elements
SHARE = 0.03  # a smaller difference of coverage is of no interest


@dataclass(frozen=True)
class Reliability:
    """How stated and true errors go together for some atoms.

    Attributes:
        atoms: atoms with a label.
        coverage: share of true errors at or below what is stated, at `LEVELS`; NaN where nothing finite is stated.
        covered: the same at the level of the calibration.
        crps: continuous ranked probability score of the stated distribution, eV/Å: the mean absolute error of a
            forecast that is a distribution (Gneiting and Raftery, 10.1198/016214506000001437).
        rank_correlation: Spearman's, of stated with true errors; NaN where all stated errors are equal.
        stated: mean stated error, eV/Å.
        true: mean true error, eV/Å.
        p_value: mean level at which a true error would just be covered; 0.5 where all is well.
        unlikely: probability of coverage or p-values this far off if the atoms were like those of the calibration.
    """

    atoms: int
    coverage: tuple[float, ...]
    covered: float
    crps: float
    rank_correlation: float
    stated: float
    true: float
    p_value: float
    unlikely: float


@dataclass(frozen=True)
class Coverage:
    """A report on calibrated errors.

    Attributes:
        level: of the calibration.
        score: raw score that it rests on.
        levels: nominal levels of the reliability diagram.
        all: all atoms.
        element: the atoms of each element, by symbol.
        warnings: in plain words, where frames look unlike those of the calibration; empty where all is well.
    """

    level: float
    score: str
    levels: tuple[float, ...]
    all: Reliability
    element: dict[str, Reliability]
    warnings: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """Plain numbers for a JSON file, null where nothing is known."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def table(self) -> Table:
        """Coverage, stated and true errors in meV/Å, CRPS, rank correlation: all atoms and each element."""
        table = Table(
            box=box.SIMPLE_HEAD, caption=f"Score: {self.score}.", caption_justify="left", padding=(0, 1, 0, 0)
        )
        covered = f"covered, %\nof {100 * self.level:g}"
        for header in ("", "atoms\n", covered, "stated\nmeV/Å", "true\nmeV/Å", "CRPS\nmeV/Å", "rank\ncorrelation"):
            table.add_column(header, justify="right" if header else "left", no_wrap=True)
        for name, row in {"all": self.all, **self.element}.items():
            values = [f"{1e3 * x:.0f}" for x in (row.stated, row.true, row.crps)]
            table.add_row(name, str(row.atoms), f"{100 * row.covered:.1f}", *values, f"{row.rank_correlation:.2f}")
        return table


def coverage(potential: Potential, frames: Sequence[Labelled], batch_edges: int = 8000) -> Coverage:
    """Compare calibrated errors with the true ones of labelled frames.

    Frames look shifted where the coverage at the stated level, or the mean p-value, is farther from what was promised
    than the scatter among groups of related frames allows, here and in the calibration.

    Args:
        potential: a calibrated potential.
        frames: labelled frames that neither training nor calibration has seen.
        batch_edges: edges that are evaluated together.

    Raises:
        InputError: not a calibrated potential, or no labelled forces.
    """
    if not isinstance(potential, Calibrated):
        raise InputError("the potential states no errors; calibrate it first")
    said = predictions(potential, frames, batch_edges) if len(frames) else None
    errors = np.zeros(0) if said is None else force_errors(said, frames)
    if said is None or not np.isfinite(errors).any():
        raise InputError("no frame has forces to compare with; give labelled ones")
    numbers, related = numbers_of(frames), clusters(frames)
    calibrations = potential.calibrations
    scores = scores_of(said, potential.score).numpy()
    quantiles = np.full((len(errors), len(LEVELS) + 1), np.inf)
    units, scatter = np.ones(len(errors)), np.zeros((len(errors), 2))
    for number, calibration in calibrations.items():
        own = numbers == number
        quantiles[own], units[own] = calibration.quantiles.cpu().numpy(), scores[own] + calibration.floor
        scatter[own] = calibration.scatter
    chosen = np.isfinite(errors)
    names = {"all": chosen} | {chemical_symbols[z]: chosen & (numbers == z) for z in np.unique(numbers[chosen])}
    rows = {
        name: _reliability(errors[k], units[k], quantiles[k], related[k], scatter[k].mean(axis=0), potential.level)
        for name, k in names.items()
    }
    warnings = tuple(_doubts(rows, potential.level, {chemical_symbols[z] for z in calibrations}))
    return Coverage(potential.level, potential.score, LEVELS, rows.pop("all"), rows, warnings)


def _reliability(
    errors: np.ndarray, units: np.ndarray, quantiles: np.ndarray, related: np.ndarray, scatter: np.ndarray, level: float
) -> Reliability:
    """The figures of some atoms: true errors, units of their scores, quantiles of each at all levels."""
    values = errors / units
    stated = units * quantiles[:, -1]
    covered = values <= quantiles[:, -1]
    p = p_values(values, quantiles[:, :-1])
    finite = np.isfinite(quantiles[:, :-1]).any(axis=0)
    shares = np.where(finite, (values[:, None] <= quantiles[:, :-1]).mean(axis=0), math.nan)
    ranked = len(errors) > 2 and np.ptp(stated[np.isfinite(stated)], axis=0) > 0 if np.isfinite(stated).any() else False
    chances = [
        _chance(covered, level, related, scatter[0], SHARE),
        _chance(p, 0.5, related, scatter[1], SHARE),
    ]
    return Reliability(
        atoms=len(errors),
        coverage=tuple(shares.tolist()),
        covered=float(covered.mean()),
        crps=_crps(errors, units[:, None] * quantiles[:, :-1]),
        rank_correlation=float(stats.spearmanr(stated, errors).statistic) if ranked else math.nan,
        stated=float(stated.mean()),
        true=float(errors.mean()),
        p_value=float(p.mean()),
        unlikely=min(1.0, 2 * min(chances)),
    )


def _chance(values: np.ndarray, expected: float, related: np.ndarray, scatter: float, least: float) -> float:
    """Probability of a mean this far from what is expected, by Student's t with one degree less than clusters."""
    difference = abs(float(values.mean()) - expected)
    error = np.hypot(standard_error(values, related), scatter)
    if difference < least or not error > 0:
        return 1.0
    return float(2 * stats.t.sf(difference / error, df=len(np.unique(related)) - 1))


def _crps(errors: np.ndarray, stated: np.ndarray) -> float:
    """Twice the mean pinball loss over the levels at which something finite is stated, eV/Å."""
    finite = np.isfinite(stated)
    gap = errors[:, None] - np.where(finite, stated, 0.0)
    levels = np.array(LEVELS)
    loss = np.maximum(levels * gap, (levels - 1) * gap)
    return float(2 * loss[finite].mean()) if finite.any() else math.nan


def _doubts(rows: dict[str, Reliability], level: float, known: set[str]) -> list[str]:
    """Plain words for what looks unlike the calibration."""
    lines = []
    for name, row in rows.items():
        atoms = "the atoms" if name == "all" else f"the atoms of {name}"
        if name not in known and name != "all":
            lines.append(f"the calibration had no {name}; nothing is known of its errors")
        elif row.unlikely < (SURPRISE if name == "all" else SURPRISE / (len(rows) - 1)):
            side = "larger" if row.p_value > 0.5 else "smaller"
            lines.append(
                f"{atoms} look unlike those of the calibration: {100 * row.covered:.0f} % of errors are covered where "
                f"{100 * level:g} % were promised, and errors are {side} than stated; calibrate by frames of this kind"
            )
    return lines


def _plain(value: Any) -> Any:
    """Plain values with None for what is not a finite number."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
