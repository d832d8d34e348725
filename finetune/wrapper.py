"""A potential around another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from finetune.errors import InputError
from finetune.graph import Graph
from finetune.potential import Exported, Potential, Tap
from finetune.properties import Properties
from finetune.provenance import TrainingData


class Wrapper(Potential):
    """A potential that adds something to what another one says, and is like it in all else.

    Its own buffers stay in double precision when it is moved.

    Args:
        potential: the potential underneath.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.cutoff, self.elements, self.licence = potential.cutoff, potential.elements, potential.licence
        self.offsets, self.pretrained, self.shifted = potential.offsets, potential.pretrained, potential.shifted
        self.linear, self.formats, self.elsewhere = potential.linear, potential.formats, potential.elsewhere
        self.formats_note = potential.formats_note
        self.idle = tuple("potential." + prefix for prefix in potential.idle)
        self.only_magmoms = tuple("potential." + prefix for prefix in potential.only_magmoms)
        self.groups = {name: tuple("potential." + p for p in prefixes) for name, prefixes in potential.groups.items()}

    def _apply(self, fn: Any, recurse: bool = True) -> Wrapper:
        """Move as every module does; own buffers keep their precision."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            before = kept[name]
            if before is not None and moved is not None:
                self._buffers[name] = before.to(moved.device)
        return self

    @property
    def training_data(self) -> TrainingData | None:
        """That of the potential underneath."""
        return self.potential.training_data

    @training_data.setter
    def training_data(self, value: TrainingData | None) -> None:
        self.potential.training_data = value

    def unseen(self, numbers: Iterable[int]) -> set[int]:
        """Those of the potential underneath."""
        return self.potential.unseen(numbers)

    def completed(self, graph: Graph) -> Graph:
        """The graph of the potential underneath."""
        return self.potential.completed(graph)

    def collate(self, members: Sequence[Graph]) -> Graph:
        """Joined as the potential underneath does."""
        return self.potential.collate(members)

    def forward(self, graph: Graph) -> Properties:
        """What the potential underneath says, with what is added to it."""
        return self.added(self.potential(graph), graph)

    def described(self, graph: Graph) -> tuple[Properties, Float[Tensor, "atoms d"]]:
        """What `forward` says, and the descriptors of the same pass."""
        said, features = self.potential.described(graph)
        return self.added(said, graph), features

    def added(self, said: Properties, graph: Graph) -> Properties:
        """What is said of a graph, from what the potential underneath says of it."""
        return said

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Those of the potential underneath."""
        return self.potential.energies(graph)

    def taps(self) -> Sequence[Tap]:
        """Those of the potential underneath."""
        return self.potential.taps()

    def core_distances(self) -> Mapping[tuple[int, int], tuple[float, float]]:
        """Those of the potential underneath."""
        return self.potential.core_distances()

    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """Those of the potential underneath."""
        return self.potential.descriptors(graph)

    def export(self, format: str, path: Path, references: Mapping[int, float] | None = None) -> Exported | None:
        """The potential underneath; what is added to it has no place in other programmes."""
        return self.potential.export(format, path, references)

    @property
    def kind(self) -> str:
        """Name of the backbone underneath."""
        return self.potential.kind

    @classmethod
    def tiny(cls) -> Wrapper:
        """There is none: a test wraps the tiny potential it has."""
        raise InputError(f"{cls.__name__} has no tiny() of its own; wrap one of a backbone, such as CHGNet.tiny()")
