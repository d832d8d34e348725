"""Structures to label: samplers take frames and yield frames, and a recipe chains them."""

from finetune.sampling.core import Context, Limits, Recipe, Sampler
from finetune.sampling.crystals import Crystals, Rattled, Strained, Substituted, Swapped
from finetune.sampling.defects import EquationOfState, Interstitials, Vacancies
from finetune.sampling.diversity import Farthest
from finetune.sampling.dynamics import Densified, Dynamics, Melt, MeltQuench, Relaxed
from finetune.sampling.interfaces import Coherent, Matching
from finetune.sampling.listed import Dimers, Files, IsolatedAtoms
from finetune.sampling.packing import MixingLine, Packed
from finetune.sampling.polyatomic import Coordination, PackedUnits
from finetune.sampling.products import Products
from finetune.sampling.slabs import Face
from finetune.sampling.stacks import Stacked

__all__ = [
    "Coherent",
    "Context",
    "Coordination",
    "Crystals",
    "Densified",
    "Dimers",
    "Dynamics",
    "EquationOfState",
    "Face",
    "Farthest",
    "Files",
    "Interstitials",
    "IsolatedAtoms",
    "Limits",
    "Matching",
    "Melt",
    "MeltQuench",
    "MixingLine",
    "Packed",
    "PackedUnits",
    "Products",
    "Rattled",
    "Recipe",
    "Relaxed",
    "Sampler",
    "Stacked",
    "Strained",
    "Substituted",
    "Swapped",
    "Vacancies",
]
