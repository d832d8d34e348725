"""What knows the uncertainty of a generation's members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune import models
from finetune.calculators import PotentialCalculator
from finetune.data.frames import Frame, hash_fraction
from finetune.data.reading import read
from finetune.uncertainty import Graded, active_sets, calibrate
from finetune.uncertainty.calibration import ENOUGH_GROUPS

GRADED = "graded.ckpt"
SHARED = (
    "calibration: it uses the validation frames that chose the epoch too, so errors are stated somewhat too small. "
    f"Give {ENOUGH_GROUPS} validation groups or more; half of them are then kept for the calibration"
)


def apart(frames: Sequence[Frame]) -> tuple[list[int], list[int]] | None:
    """Return indices of the validation frames that choose the epoch and of those that calibrate.

    None below `ENOUGH_GROUPS` groups.

    The two share no group.
    """
    groups = sorted({frame.group for frame in frames}, key=lambda group: hash_fraction(0, group))
    if len(groups) < ENOUGH_GROUPS:
        return None
    chosen = set(groups[::2])
    first = [k for k, frame in enumerate(frames) if frame.group in chosen]
    return first, [k for k, frame in enumerate(frames) if frame.group not in chosen]


def grading(place: Path, score: str) -> PotentialCalculator:
    """The calculator that knows the uncertainty that is asked for: of a committee its spread, else `graded.ckpt`."""
    return PotentialCalculator(models.load(place if score == "forces_std" else place / GRADED))


def grade(place: Path, score: str, valid: Path) -> None:
    """Write `graded.ckpt`, which gives `gamma` or `forces_error`; nothing for the spread of a committee.

    Grades are those of the first member, whose dynamics cost no more than one potential, and which is fitted to all
    frames then; errors are those of the committee, calibrated on the validation frames.
    """
    path = place / GRADED
    if score == "forces_std" or path.exists():
        return
    if score == "gamma":
        member = models.load(models.members(place)[0])
        models.save(Graded(member, active_sets(member, read(place / "train.extxyz"))), path)
    else:
        models.save(calibrate(models.load(place), read(valid)), path)
