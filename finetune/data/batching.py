"""Batches that fill an edge budget, and the loader that yields them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from finetune.errors import InputError
from finetune.graph import Graph
from finetune.properties import Properties, concatenate

Collate = Callable[[Sequence[Graph]], Graph]


@dataclass(frozen=True)
class Batch:
    """Structures that are evaluated together.

    Attributes:
        graph: the potential's collated graph.
        labels: float64, NaN where not known.
        frames: number of each structure in its dataset.
    """

    graph: Graph
    labels: Properties
    frames: Int[Tensor, " structures"]

    @property
    def n_atoms(self) -> Int[Tensor, " structures"]:
        """Number of atoms of each structure."""
        return self.graph["n_atoms"]

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.frames)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        graph = {key: value.to(device, non_blocking=True) for key, value in self.graph.items()}
        return Batch(graph, self.labels.to(device), self.frames.to(device))


def collate_batch(
    collate: Collate, graphs: Sequence[Graph], labels: Sequence[Properties], indices: Sequence[int]
) -> Batch:
    """The batch of the structures numbered `indices`; `collate` is that of the potential."""
    graph = collate([graphs[i] for i in indices])
    return Batch(graph, concatenate([labels[i] for i in indices]), torch.tensor(list(indices), dtype=torch.int64))


def plan(
    edges: Sequence[int],
    budget: int,
    rng: np.random.Generator | None = None,
    world_size: int = 1,
    rank: int = 0,
) -> list[list[int]]:
    """Batches of frame numbers that hold as many edges as the budget allows, never more.

    Frames go one by one, the largest first, into the batch with the fewest edges so far, out of as few batches as will
    hold them; so all batches cost about the same and none is a small rest. `rng` multiplies each size by a number
    between 0.5 and 1 for this order, which mixes batches anew in every epoch and packs as well. A frame beyond the
    budget is a batch of its own. Every process gets the same number of batches, and the batches of one step cost about
    the same; the smallest batches are repeated where there is no other way.

    Args:
        edges: directed edges of each frame.
        budget: largest number of edges in a batch.
        rng: mixes frames and batches; None gives the same batches every time, in order of frames.
        world_size: number of processes.
        rank: whose batches, from 0.

    Raises:
        InputError: the budget is not positive.
    """
    if budget < 1:
        raise InputError(f"batch_edges {budget} must be positive; 8000 holds about 8 structures of 30 atoms within 6 Å")
    noise = np.ones(len(edges)) if rng is None else rng.uniform(0.5, 1.0, size=len(edges))
    order = np.argsort(-noise * np.asarray(edges), kind="stable").tolist()
    large = [[i] for i in order if edges[i] >= budget]
    batches = large + _fill([i for i in order if edges[i] < budget], edges, budget, len(large), world_size)
    if rng is None:
        batches = [sorted(batch) for batch in batches]
    ranked = sorted(batches, key=lambda batch: sum(edges[i] for i in batch))
    ranked = [ranked[k % len(ranked)] for k in range(-len(ranked) % world_size)] + ranked
    steps = [ranked[k : k + world_size] for k in range(0, len(ranked), world_size)]
    steps = sorted(steps) if rng is None else [steps[k] for k in rng.permutation(len(steps))]
    return [step[rank] for step in steps]


def _fill(frames: list[int], edges: Sequence[int], budget: int, taken: int, world_size: int) -> list[list[int]]:
    """Distribute frames, in order, over the fewest batches that divide evenly among processes, with `taken` others."""
    least = -(-sum(edges[i] for i in frames) // budget)
    for count in range(max(least, min(1, len(frames))), len(frames) + 1):
        if (count + taken) % world_size and count < len(frames):
            continue
        bins: list[list[int]] = [[] for _ in range(count)]
        heap = [(0, 0, k) for k in range(count)]
        for i in frames:
            load, held, k = heap[0]
            if load + edges[i] > budget:
                break
            bins[k].append(i)
            heapq.heapreplace(heap, (load + edges[i], held + 1, k))
        else:
            return bins
    return []


class Loader:
    """Yields the batches of a plan, once per epoch; it can be stopped and taken up again in mid-epoch.

    Args:
        plan: frame numbers of each batch.
        make: frame numbers -> batch.
        epoch: a state saved in another epoch is not taken up.
    """

    def __init__(self, plan: Sequence[Sequence[int]], make: Callable[[Sequence[int]], Batch], epoch: int = 0) -> None:
        self.plan = plan
        self.make = make
        self.epoch = epoch
        self._done = 0
        self._start = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        self._done, self._start = self._start, 0
        for indices in self.plan[self._done :]:
            self._done += 1
            yield self.make(indices)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches have been yielded."""
        return {"epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that a saved state has seen."""
        same = state["epoch"] == self.epoch
        self._start = state["done"] % len(self) if same and len(self) else 0
