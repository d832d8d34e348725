"""How far a potential can be believed: extrapolation grades, calibrated errors, readouts that differ."""

from finetune.uncertainty.alignment import aligned
from finetune.uncertainty.calibration import Calibrated, Calibration, calibrate
from finetune.uncertainty.grading import ActiveSet, Graded, active_sets
from finetune.uncertainty.readouts import Shallow, shallow
from finetune.uncertainty.reliability import Coverage, Reliability, coverage

__all__ = [
    "ActiveSet",
    "Calibrated",
    "Calibration",
    "Coverage",
    "Graded",
    "Reliability",
    "Shallow",
    "active_sets",
    "aligned",
    "calibrate",
    "coverage",
    "shallow",
]
