"""DFT labels: labellers take structures and give them back with energy, forces and stress; any executor runs them."""

from finetune.labelling.calculated import Calculated
from finetune.labelling.core import Labeller, Outcome
from finetune.labelling.executors import Processes, dask

__all__ = ["Calculated", "Labeller", "Outcome", "Processes", "dask"]
