"""How far a potential can be believed: extrapolation grades, calibrated errors, readouts that differ."""

from finetune.uncertainty.calibration import Calibrated, Calibration, calibrate
from finetune.uncertainty.grading import ActiveSet, Graded, active_sets
from finetune.uncertainty.reliability import Coverage, Reliability, coverage

__all__ = [
    "ActiveSet",
    "Calibrated",
    "Calibration",
    "Coverage",
    "Graded",
    "Reliability",
    "active_sets",
    "calibrate",
    "coverage",
]
