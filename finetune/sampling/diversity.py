"""Diversity: of many candidates those that a potential finds least alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float

from finetune import models
from finetune.errors import InputError
from finetune.potential import Potential
from finetune.sampling.core import Context, Sampler


@dataclass(frozen=True)
class Farthest(Sampler):
    """Farthest-point sampling on a model's descriptors, averaged over atoms (Gonzalez, 10.1016/0304-3975(85)90224-5).

    Attributes:
        model: model name, run directory or checkpoint whose descriptors are compared.
        keep: frames that are kept out of each batch.
        out_of: candidates per batch; frames kept before count as taken.
    """

    model: str = "chgnet"
    keep: int = 5
    out_of: int = 20

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """`keep` of every `out_of` sound frames; absurd ones are handed on, to be counted."""
        if not 0 < self.keep <= self.out_of:
            raise InputError(f"Farthest cannot keep {self.keep} of {self.out_of} frames; lower `keep`")
        potential = loaded(self.model)
        kept: list[np.ndarray] = []
        candidates: list[Atoms] = []
        for atoms in parents:
            if context.limits.reason(atoms):
                yield atoms
                continue
            candidates.append(atoms)
            if len(candidates) < self.out_of:
                continue
            features = np.array([descriptor(potential, candidate) for candidate in candidates])
            for k in farthest(features, self.keep, np.array(kept).reshape(-1, features.shape[1])):
                kept.append(features[k])
                yield candidates[k]
            candidates = []


@lru_cache(maxsize=2)
def loaded(model: str) -> Potential:
    """The potential behind a model name, read once."""
    return models.load(model)


def descriptor(potential: Potential, atoms: Atoms) -> Float[np.ndarray, " d"]:
    """Descriptors of a structure, averaged over its atoms."""
    with torch.no_grad():
        features = potential.descriptors(potential.collate([potential.graph(atoms)]))
    return np.asarray(features.mean(dim=0).double().cpu().numpy())


def farthest(
    features: Float[np.ndarray, "candidates d"], budget: int, taken: Float[np.ndarray, "taken d"]
) -> list[int]:
    """Indices of candidates, each the farthest from all taken before; without any, from the mean."""
    if len(taken):
        distances = np.linalg.norm(features[:, None] - taken[None], axis=-1).min(axis=1)
    else:
        distances = np.linalg.norm(features - features.mean(axis=0), axis=1)
    chosen: list[int] = []
    for _ in range(budget):
        distances[chosen] = -1.0  # each once, even where candidates are alike
        k = int(np.argmax(distances))
        to_chosen = np.linalg.norm(features - features[k], axis=1)
        distances = np.minimum(distances, to_chosen) if chosen or len(taken) else to_chosen
        chosen.append(k)
    return chosen
