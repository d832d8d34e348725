"""Frames on their way through a potential."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int

from finetune.graph import Graph
from finetune.potential import Potential
from finetune.properties import Properties, concatenate

FEW_GROUPS = 5  # with fewer, the scatter among groups says little


@runtime_checkable
class Labelled(Protocol):
    """A frame with its labels, as `finetune.data` reads them.

    Attributes:
        atoms: the structure.
        labels: energy (eV), forces (eV/Å) and stress (eV/Å³); NaN where not known.
        group: frames of one group are related (one trajectory, say).
    """

    @property
    def atoms(self) -> Atoms:
        """The structure."""

    @property
    def labels(self) -> Properties:
        """Its labels."""

    @property
    def group(self) -> str:
        """Which frames are related."""


def structures_of(frames: Sequence[Any]) -> list[Atoms]:
    """The structures of frames; `ase.Atoms` are structures themselves."""
    return [frame if isinstance(frame, Atoms) else frame.atoms for frame in frames]


def batches(potential: Potential, structures: Sequence[Atoms], batch_edges: int) -> Iterator[Graph]:
    """Collated graphs of structures in their order, so many that the edges stay below a number."""
    members: list[Graph] = []
    edges = 0
    for atoms in structures:
        graph = potential.graph(atoms)
        more = int(graph["n_edges"].sum())
        if members and edges + more > batch_edges:
            yield potential.collate(members)
            members, edges = [], 0
        members.append(graph)
        edges += more
    if members:
        yield potential.collate(members)


def predictions(potential: Potential, frames: Sequence[Any], batch_edges: int = 8000) -> Properties:
    """What a potential says of frames, in their order, on the CPU; in evaluation mode, whatever mode it is in."""
    was_training = potential.training
    potential.eval()
    try:
        graphs = batches(potential, structures_of(frames), batch_edges)
        parts = [potential(graph).detach().to("cpu") for graph in graphs]
    finally:
        potential.train(was_training)
    return concatenate(parts)


def force_errors(predicted: Properties, frames: Sequence[Labelled]) -> Float[np.ndarray, " atoms"]:
    """|F predicted - F label| of each atom, eV/Å; NaN where there is no label."""
    labels = concatenate([frame.labels for frame in frames])
    return torch.linalg.vector_norm(predicted.forces.double() - labels.forces.double(), dim=1).numpy()


def clusters(frames: Sequence[Labelled]) -> Int[np.ndarray, " atoms"]:
    """Which atoms are not independent of each other: those of one group, or of one frame where groups are few."""
    groups: Sequence[Any] = [frame.group for frame in frames]
    if len(set(groups)) < FEW_GROUPS:
        groups = range(len(frames))
    _, numbered = np.unique(np.asarray(groups), return_inverse=True)
    return np.repeat(numbered, [len(frame.atoms) for frame in frames])


def numbers_of(frames: Sequence[Any]) -> Int[np.ndarray, " atoms"]:
    """Atomic numbers of all atoms."""
    return np.concatenate([atoms.numbers for atoms in structures_of(frames)])
