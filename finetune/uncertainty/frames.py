"""Frames on their way through a potential."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from ase import Atoms

from finetune.graph import Graph
from finetune.potential import Potential
from finetune.properties import Properties


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
