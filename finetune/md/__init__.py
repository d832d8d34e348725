"""Molecular dynamics in stages, with guards, exact restarts and frames to label where it goes wrong."""

from finetune.md.ensembles import NPT, NVE, Ensemble, Langevin, NoseHoover
from finetune.md.guards import Alarm, Ballistic, Energy, Extrapolating, Guard, Pressure, TooClose, TooHot, Uncertain
from finetune.md.run import simulate
from finetune.md.settings import GUARDS, FixedLayer, Outcome, Output, Stage
from finetune.md.structure_guards import Evaporated, LostBonding, PhaseSeparation, Voids

__all__ = [
    "GUARDS",
    "NPT",
    "NVE",
    "Alarm",
    "Ballistic",
    "Energy",
    "Ensemble",
    "Evaporated",
    "Extrapolating",
    "FixedLayer",
    "Guard",
    "Langevin",
    "LostBonding",
    "NoseHoover",
    "Outcome",
    "Output",
    "PhaseSeparation",
    "Pressure",
    "Stage",
    "TooClose",
    "TooHot",
    "Uncertain",
    "Voids",
    "simulate",
]
