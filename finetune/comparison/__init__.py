"""Any number of calculators beside DFT: observables, a matrix of verdicts, a report."""

from finetune.comparison.columns import Column, Foreign, Instance, Labels, Model
from finetune.comparison.compare import Comparison, compare
from finetune.comparison.cost import Cost
from finetune.comparison.crystals import Elasticity, Phonons
from finetune.comparison.distributions import Distributions
from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.forgetting import Forgetting
from finetune.comparison.labelled import Errors
from finetune.comparison.observable import Observable
from finetune.comparison.pairs import Compression, PairCurves
from finetune.comparison.recorded import Recorded
from finetune.comparison.report import write_report
from finetune.comparison.stability import Stability
from finetune.comparison.states import Energies, EquationOfState
from finetune.comparison.transport import Transport

__all__ = [
    "Column",
    "Comparison",
    "Compression",
    "Cost",
    "Curve",
    "Distributions",
    "Elasticity",
    "Energies",
    "EquationOfState",
    "Errors",
    "Figure",
    "Foreign",
    "Forgetting",
    "Instance",
    "Labels",
    "Measured",
    "Model",
    "Observable",
    "PairCurves",
    "Phonons",
    "Recorded",
    "Stability",
    "Tolerance",
    "Transport",
    "compare",
    "write_report",
]
