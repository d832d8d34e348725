"""DFT labels: labellers take structures and give them back with energy, forces and stress; any executor runs them."""

from finetune.labelling.calculated import Calculated
from finetune.labelling.core import Folders, Labeller, Outcome
from finetune.labelling.executors import Processes, dask
from finetune.labelling.kpoints import Grid
from finetune.labelling.vasp import VaspFolders

__all__ = ["Calculated", "Folders", "Grid", "Labeller", "Outcome", "Processes", "VaspFolders", "dask"]
