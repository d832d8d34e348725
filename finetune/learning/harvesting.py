"""What is kept of an exploration run: sound frames with their uncertainty, and what became of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator

from finetune.errors import InputError
from finetune.files import read_record
from finetune.learning.describing import SCORES, atom_scores, check_score, scored, worst
from finetune.learning.files import part_names, remedy, write_part
from finetune.md.guards import Alarm, Guard
from finetune.md.snapshot import Snapshot
from finetune.sampling.core import Limits


@dataclass(frozen=True)
class Thresholds:
    """Which frames are uncertain enough to ask DFT for, and which are too far gone.

    Attributes:
        score: result of the calculator that says how uncertain the force on an atom is: `gamma`, the extrapolation
            grade; `forces_error`, the calibrated error in eV/Å; `forces_std`, the spread of a committee in eV/Å.
        select: a frame whose most uncertain atom is below is not asked for; None for 1 (gamma) or 0.1 eV/Å.
        stop: from here on dynamics are stopped and frames left out; None for 2.5 (gamma) or 0.5 eV/Å.
    """

    score: str = "forces_std"
    select: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        """Fill in the defaults, and refuse what means nothing."""
        check_score(self.score)
        defaults = {"select": 1.0, "stop": 2.5} if self.score == "gamma" else {"select": 0.1, "stop": 0.5}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not 0 <= self.low < self.high:
            raise InputError(f"thresholds: select {self.select} must be 0 or more and below stop {self.stop}")

    @property
    def low(self) -> float:
        """Threshold of selection."""
        return float(self.select or 0.0)

    @property
    def high(self) -> float:
        """Threshold of the stop."""
        return float(math.inf if self.stop is None else self.stop)


@dataclass(frozen=True, kw_only=True)
class Unknown(Guard):
    """The uncertainty of an atom is beyond a threshold.

    Attributes:
        score: which uncertainty, see `Thresholds`.
        above: largest uncertainty of an atom.
    """

    score: str
    above: float

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """Compare; what the calculator has not worked out for this step is not asked for."""
        values = atom_scores(now.results, self.score)
        if values is None or (values < self.above).all():
            return None
        place = worst(now.atoms, values)
        return self.alarm(f"{self.score} is {values.max():.2f} {SCORES[self.score]} at {place} (limit {self.above:g})")


def harvest(
    frames: Sequence[Atoms], calculator: Calculator, thresholds: Thresholds, limits: Limits
) -> tuple[list[Atoms], dict[str, Any]]:
    """Sound frames below the stop threshold, with `score` and `worst` in info and `scores` of atoms, and the counts.

    Frames are evenly spaced in time, so that counts are shares of time.
    """
    kept: list[Atoms] = []
    counts = {"frames": len(frames), "absurd": 0, "beyond": 0, "uncertain": 0}
    for frame in frames:
        if limits.reason(frame):
            counts["absurd"] += 1
            continue
        values = scored(frame, calculator, thresholds.score)
        largest = float(values.max())
        counts["uncertain"] += largest >= thresholds.low
        if not largest < thresholds.high:
            counts["beyond"] += 1
            continue
        found = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=dict(frame.info))
        found.info |= {"score": round(largest, 6), "worst": worst(frame, values)}
        found.arrays["scores"] = values
        kept.append(found)
    return kept, counts


def finish(place: Path, name: str, frames: Sequence[Atoms], record: dict[str, Any]) -> None:
    """Write the frames of a run, then its record: a run with a record is over."""
    for frame in frames:
        frame.info["run"] = name
    write_part(place, name, frames, record)


def records(place: Path) -> list[dict[str, Any]]:
    """What became of the runs of a generation, in order."""
    return [read_record(place / f"{name}.json", remedy(name)) for name in part_names(place)]


def uncertain_share(runs: Sequence[dict[str, Any]]) -> float | None:
    """Share of the time of dynamics that was uncertain; what a stop has cut off counts. None without dynamics."""
    planned = sum(run["planned_ps"] for run in runs if "planned_ps" in run)
    if not planned:
        return None
    certain = 0.0
    for run in runs:
        if "planned_ps" in run and run["frames"]:
            certain += run["reached_ps"] * (1 - (run["uncertain"] + run["absurd"]) / run["frames"])
    return 1 - certain / planned
