"""DFT labels: labellers take structures and give them back with energy, forces and stress; any executor runs them."""

from finetune.labelling.calculated import Calculated
from finetune.labelling.core import Labeller, Outcome
from finetune.labelling.executors import Processes, dask
from finetune.labelling.kpoints import Grid

__all__ = ["Calculated", "Grid", "Labeller", "Outcome", "Processes", "dask"]
