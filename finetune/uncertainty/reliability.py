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

from finetune.display import cell
from finetune.errors import InputError
from finetune.potential import Potential
from finetune.uncertainty.calibration import LEVELS, Calibrated, p_values, scores_of
from finetune.uncertainty.frames import Labelled, force_errors, numbers_of, predictions
from finetune.uncertainty.shift import record, shift_p_values

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
        shift_p: probability of coverage or p-values this far off if the groups of these frames and those of the
            calibration could be exchanged, from a permutation test; NaN where it cannot be tested.
    """

    atoms: int
    coverage: tuple[float, ...]
    covered: float
    crps: float
    rank_correlation: float
    stated: float
    true: float
    p_value: float
    shift_p: float


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
        """Coverage, stated and true errors in meV/Å, CRPS, rank correlation, p: all atoms and each element."""
        caption = (
            f"Score: {self.score}. p: that the frames are like those of the calibration, by permutation of groups."
        )
        note = cell(caption, "table.caption")
        table = Table(box=box.SIMPLE_HEAD, caption=note, caption_justify="left", padding=(0, 1, 0, 0))
        covered = f"covered, %\nof {100 * self.level:g}"
        for header in (
            "",
            "atoms\n",
            covered,
            "stated\nmeV/Å",
            "true\nmeV/Å",
            "CRPS\nmeV/Å",
            "rank\ncorrelation",
            "p\n",
        ):
            table.add_column(header, justify="right" if header else "left", no_wrap=True)
        for name, row in {"all": self.all, **self.element}.items():
            values = [f"{1e3 * x:.0f}" for x in (row.stated, row.true, row.crps)]
            table.add_row(
                name,
                str(row.atoms),
                f"{100 * row.covered:.1f}",
                *values,
                f"{row.rank_correlation:.2f}",
                _p(row.shift_p),
            )
        return table


def coverage(
    potential: Potential,
    frames: Sequence[Labelled],
    batch_edges: int = 8000,
    rng: np.random.Generator | None = None,
) -> Coverage:
    """Compare calibrated errors with the true ones of labelled frames.

    Frames look shifted where the coverage at the stated level, or the mean p-value, is farther from what was promised
    than in most other divisions of all groups into calibration and test, see `finetune.uncertainty.shift`.

    Args:
        potential: a calibrated potential.
        frames: labelled frames in neither training nor calibration.
        batch_edges: edges that are evaluated together.
        rng: draws the divisions; None for one with the seed 0.

    Raises:
        InputError: not a calibrated potential, or no labelled forces.
    """
    if not isinstance(potential, Calibrated):
        raise InputError("the potential states no errors; calibrate it first")
    said = predictions(potential, frames, batch_edges) if len(frames) else None
    errors = np.zeros(0) if said is None else force_errors(said, frames)
    if said is None or not np.isfinite(errors).any():
        raise InputError("no frame has forces to compare with; give labelled ones")
    numbers = numbers_of(frames)
    calibrations = potential.calibrations
    scores = scores_of(said, potential.score).numpy()
    quantiles = np.full((len(errors), len(LEVELS) + 1), np.inf)
    units = np.ones(len(errors))
    for number, calibration in calibrations.items():
        own = numbers == number
        quantiles[own], units[own] = calibration.quantiles.cpu().numpy(), scores[own] + calibration.floor
    chosen = np.isfinite(errors)
    names = {"all": chosen} | {chemical_symbols[z]: chosen & (numbers == z) for z in np.unique(numbers[chosen])}
    rng = np.random.default_rng(0) if rng is None else rng
    tested = shift_p_values(potential.record, record(errors, scores, frames), potential.level, rng)
    p = {"all" if z == 0 else chemical_symbols[z]: value for z, value in tested.items()}
    rows = {name: _reliability(errors[k], units[k], quantiles[k], p.get(name, math.nan)) for name, k in names.items()}
    doubts = _doubts(rows, potential.level, {chemical_symbols[z] for z in calibrations})
    if not len(potential.record):
        doubts.append("a calibration of an older version cannot be tested for a shift; calibrate again")
    warnings = tuple(doubts)
    return Coverage(potential.level, potential.score, LEVELS, rows.pop("all"), rows, warnings)


def _reliability(errors: np.ndarray, units: np.ndarray, quantiles: np.ndarray, shift_p: float) -> Reliability:
    """The figures of some atoms: true errors, units of their scores, quantiles of each at all levels."""
    values = errors / units
    stated = units * quantiles[:, -1]
    covered = values <= quantiles[:, -1]
    p = p_values(values, quantiles[:, :-1])
    finite = np.isfinite(quantiles[:, :-1]).any(axis=0)
    shares = np.where(finite, (values[:, None] <= quantiles[:, :-1]).mean(axis=0), math.nan)
    ranked = len(errors) > 2 and np.ptp(stated[np.isfinite(stated)], axis=0) > 0 if np.isfinite(stated).any() else False
    return Reliability(
        atoms=len(errors),
        coverage=tuple(shares.tolist()),
        covered=float(covered.mean()),
        crps=_crps(errors, units[:, None] * quantiles[:, :-1]),
        rank_correlation=float(stats.spearmanr(stated, errors).statistic) if ranked else math.nan,
        stated=float(stated.mean()),
        true=float(errors.mean()),
        p_value=float(p.mean()),
        shift_p=shift_p,
    )


def _far(row: Reliability, level: float) -> bool:
    """The coverage or the mean p-value differs by enough to matter."""
    return abs(row.covered - level) >= SHARE or abs(row.p_value - 0.5) >= SHARE


def _p(value: float) -> str:
    """A p-value as it stands in a table; a dash where nothing was tested."""
    return "–" if math.isnan(value) else f"{value:.2g}" if value >= 0.001 else "< 0.001"


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
        elif _far(row, level) and row.shift_p < (SURPRISE if name == "all" else SURPRISE / (len(rows) - 1)):
            side = "larger" if row.p_value > 0.5 else "smaller"
            lines.append(
                f"{atoms} look unlike those of the calibration: {100 * row.covered:.0f} % of errors are covered where "
                f"{100 * level:g} % were promised, and errors are {side} than stated (p = {row.shift_p:.2g}); "
                "calibrate by frames of this kind"
            )
    return lines


def _plain(value: Any) -> Any:
    """Plain values with None for what is not a finite number."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
