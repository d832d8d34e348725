"""How far a potential can be believed: extrapolation grades, calibrated errors, readouts that differ."""

from finetune.uncertainty.grading import ActiveSet, Graded, active_sets

__all__ = ["ActiveSet", "Graded", "active_sets"]
