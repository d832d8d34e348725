"""Ways to select, as settings; `finetune.learning.selection` has the functions behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from finetune.errors import InputError
from finetune.learning import selection


@dataclass(frozen=True)
class Candidates:
    """What selectors see of candidates.

    Attributes:
        scores: uncertainty of each, shape (candidates,), in the unit of the score.
        features: shape (candidates, d), scaled so that two candidates are about 1 apart.
        front: closeness to the reaction front, 0 to 1, shape (candidates,).
        taken: features of frames that are labelled already, shape (taken, d).
        runs: the exploration that each comes from, shape (candidates,); None counts each as a run of its own.
    """

    scores: np.ndarray
    features: np.ndarray
    front: np.ndarray
    taken: np.ndarray
    runs: np.ndarray | None = None

    def part(self, which: list[int]) -> Candidates:
        """Some of the candidates."""
        runs = None if self.runs is None else self.runs[which]
        return Candidates(self.scores[which], self.features[which], self.front[which], self.taken, runs)


@dataclass(frozen=True, kw_only=True)
class Selector(ABC):
    """Takes candidates and gives the indices of those to label.

    Attributes:
        apart: a candidate nearer than this to a labelled frame or to another candidate is a duplicate of it and refused
            (two candidates are about 1 apart); 0 refuses none.
    """

    apart: float = 0.005

    def __post_init__(self) -> None:
        """Refuse a distance that means nothing."""
        if self.apart < 0:
            raise InputError(f"{type(self).__name__}: apart is {self.apart}; give 0 or more")

    def __call__(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """Indices of at most `budget` candidates, duplicates refused; of duplicates the most uncertain one is kept."""
        order = selection.top(candidates.scores, len(candidates.scores))
        kept = [order[k] for k in selection.fresh(candidates.features[order], candidates.taken, self.apart)]
        kept = sorted(kept)
        return [kept[k] for k in self.choose(candidates.part(kept), budget, rng)] if kept else []

    @abstractmethod
    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """Indices of at most `budget` candidates."""


@dataclass(frozen=True, kw_only=True)
class Random(Selector):
    """All candidates alike: the control."""

    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """Drawn."""
        return selection.random_choice(len(candidates.scores), budget, rng)


@dataclass(frozen=True, kw_only=True)
class Top(Selector):
    """The most uncertain ones."""

    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """The highest scores."""
        return selection.top(candidates.scores, budget)


@dataclass(frozen=True, kw_only=True)
class MaxVol(Selector):
    """Those that determine the most coefficients: the largest volume of descriptors beyond what is labelled."""

    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """The largest volume."""
        return selection.maxvol(candidates.features, budget, candidates.taken)


@dataclass(frozen=True, kw_only=True)
class FarthestPoints(Selector):
    """Each the farthest from all labelled and chosen before."""

    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """Farthest points."""
        return selection.farthest_points(candidates.features, budget, candidates.taken)


@dataclass(frozen=True, kw_only=True)
class KDPP(Selector):
    """A random set that is likely where its frames are uncertain and unlike each other."""

    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """A sample of a k-determinantal point process."""
        likelihood = selection.kernel(candidates.features, candidates.scores)
        return selection.kdpp(likelihood, budget, rng)


@dataclass(frozen=True, kw_only=True)
class Batch(Selector):
    """Uncertainty x distance to what is known x closeness to the reaction front, one after the other.

    Attributes:
        uncertainty: power of the uncertainty.
        diversity: power of the distance.
        front: power of the closeness.
        share: at most this share of a batch comes from one run of the exploration, while others have candidates left:
            one run that has gone astray would ask for all labels else.
    """

    uncertainty: float = 1.0
    diversity: float = 1.0
    front: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a share that means nothing."""
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise InputError(f"share is the largest part of a batch that one run gives, got {self.share}; give 0 to 1")

    def choose(self, candidates: Candidates, budget: int, rng: np.random.Generator) -> list[int]:
        """Greedily."""
        powers = (self.uncertainty, self.diversity, self.front)
        known = (candidates.scores, candidates.features, candidates.front)
        most = max(1, round(self.share * budget))
        return selection.batch(*known, budget, candidates.taken, powers, candidates.runs, most)
