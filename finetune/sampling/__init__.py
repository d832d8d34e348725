"""Structures to label: samplers take frames and yield frames, and a recipe chains them."""

from finetune.sampling.core import Context, Limits, Recipe, Sampler
from finetune.sampling.crystals import Crystals, Rattled, Strained, Substituted, Swapped
from finetune.sampling.interfaces import Coherent, Matching
from finetune.sampling.melts import Melt, Packed, Relaxed, Stacked
from finetune.sampling.products import Products
from finetune.sampling.slabs import Face

__all__ = [
    "Coherent",
    "Context",
    "Crystals",
    "Face",
    "Limits",
    "Matching",
    "Melt",
    "Packed",
    "Products",
    "Rattled",
    "Recipe",
    "Relaxed",
    "Sampler",
    "Stacked",
    "Strained",
    "Substituted",
    "Swapped",
]
