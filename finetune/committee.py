"""Several potentials as one: the mean of what they say, and how far they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from finetune import graph as graphs
from finetune.errors import InputError
from finetune.graph import Graph
from finetune.potential import Potential
from finetune.properties import Properties
from finetune.provenance import TrainingData, joined


class Committee(Potential):
    """The mean of potentials, with their standard deviation (n - 1 in the denominator) as `energy_std`, `forces_std`.

    Members may be of different backbones; their energies are compared as they are, so they share one zero of energy.

    Args:
        members: two potentials or more.
    """

    def __init__(self, members: Sequence[Potential]) -> None:
        super().__init__()
        if len(members) < 2:
            raise InputError(f"a committee has two members or more, not {len(members)}; give more models")
        self.members = nn.ModuleList(members)
        self.cutoff = max(member.cutoff for member in members)
        self.elements = frozenset.intersection(*(member.elements for member in members))
        self.licence = "; ".join(dict.fromkeys(member.licence for member in members))
        self.pretrained = all(member.pretrained for member in members)
        self.linear = all(member.linear for member in members)
        self.shifted = all(member.shifted for member in members)
        named = [(f"members.{k}.", member) for k, member in enumerate(members)]
        self.idle = tuple(start + name for start, member in named for name in member.idle)
        self.only_magmoms = tuple(start + name for start, member in named for name in member.only_magmoms)
        words = sorted({word for member in members for word in member.groups})
        self.groups = {
            word: tuple(start + name for start, member in named for name in member.groups.get(word, ()))
            for word in words
        }

    @property
    def training_data(self) -> TrainingData | None:
        """Structures that any member was fitted to, and elements that all of them were."""
        return joined([member.training_data for member in self._members()])

    @training_data.setter
    def training_data(self, value: TrainingData | None) -> None:
        for member in self._members():
            member.training_data = value

    def unseen(self, numbers: Iterable[int]) -> set[int]:
        """Elements that the training frames of at least one member do not contain."""
        wanted = list(numbers)
        return set[int]().union(*(member.unseen(wanted) for member in self._members()))

    def completed(self, graph: Graph) -> Graph:
        """The neighbours within the largest cutoff, and what differs for member k under names that begin with `k.`."""
        return _joined(graph, [member.completed(_within(graph, member.cutoff)) for member in self._members()])

    def collate(self, members: Sequence[Graph]) -> Graph:
        """One graph out of several, joined by each member in its own way."""
        plain = graphs.collate([{key: graph[key] for key in graph if "." not in key} for graph in members])
        own = [p.collate([_own(graph, k) for graph in members]) for k, p in enumerate(self._members())]
        return _joined(plain, own)

    def forward(self, graph: Graph) -> Properties:
        """Mean and standard deviation over the members, and the largest of their extrapolation grades."""
        return _of_all([member(_own(graph, k)) for k, member in enumerate(self._members())])

    def described(self, graph: Graph) -> tuple[Properties, Float[Tensor, "atoms d"]]:
        """What `forward` says, and the descriptors of all members side by side, each of the same pass."""
        parts = [member.described(_own(graph, k)) for k, member in enumerate(self._members())]
        return _of_all([said for said, _ in parts]), torch.cat([own.double() for _, own in parts], dim=1)

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Not given: each member has edges of its own."""
        raise InputError("a committee has no energies as a function of one set of edges; call it, or its members")

    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """Those of all members side by side."""
        parts = [member.descriptors(_own(graph, k)) for k, member in enumerate(self._members())]
        return torch.cat([part.double() for part in parts], dim=1)

    def core_distances(self) -> Mapping[tuple[int, int], tuple[float, float]]:
        """The largest among the members."""
        found: dict[tuple[int, int], tuple[float, float]] = {}
        for member in self._members():
            for pair, (begin, end) in member.core_distances().items():
                before = found.get(pair, (0.0, 0.0))
                found[pair] = (max(begin, before[0]), max(end, before[1]))
        return found

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args`, the members nested."""
        members = [member.config() for member in self._members()]
        return {"class_path": "finetune.committee.Committee", "init_args": {"members": members}}

    @property
    def kind(self) -> str:
        """What it is made of."""
        return " + ".join(member.kind for member in self._members())

    @classmethod
    def tiny(cls) -> Committee:
        """There is none: a test makes one of the potentials it has."""
        raise InputError("Committee has no tiny() of its own; use Committee([CHGNet.tiny(), CHGNet.tiny()])")

    def _members(self) -> list[Potential]:
        return list(self.members)  # type: ignore[arg-type]


def _of_all(said: Sequence[Properties]) -> Properties:
    """The mean of what the members say and how far they differ."""
    energy, forces = (torch.stack([getattr(part, name) for part in said]) for name in ("energy", "forces"))
    sites = [part.energies for part in said if part.energies is not None]
    grades = [part.gamma for part in said if part.gamma is not None]
    return Properties(
        energy=energy.mean(dim=0),
        forces=forces.mean(dim=0),
        stress=torch.stack([part.stress for part in said]).mean(dim=0),
        energies=torch.stack(sites).mean(dim=0) if len(sites) == len(said) else None,
        energy_std=energy.std(dim=0),
        forces_std=forces.std(dim=0),
        gamma=torch.stack(grades).amax(dim=0) if len(grades) == len(said) else None,
    )


def _within(graph: Graph, cutoff: float) -> Graph:
    """The neighbour graph of one structure with the edges shorter than a cutoff, Å."""
    near = (graphs.edge_vectors(graph).square().sum(dim=1) < cutoff**2).nonzero()[:, 0]
    if len(near) == len(graph["shifts"]):
        return graph
    count = torch.full_like(graph["n_edges"], len(near))
    return {**graph, "edge_index": graph["edge_index"][:, near], "shifts": graph["shifts"][near], "n_edges": count}


def _joined(plain: Graph, own: Sequence[Graph]) -> Graph:
    """One flat dict, with what is a member's own under `k.`."""
    shared = ("numbers", "positions", "cell", "batch", "n_atoms")
    named = {f"{k}.{key}": value for k, g in enumerate(own) for key, value in g.items() if key not in shared}
    return {**plain, **named}


def _own(graph: Graph, k: int) -> Graph:
    """The graph of member k."""
    start = f"{k}."
    plain = {key: value for key, value in graph.items() if "." not in key}
    return {**plain, **{key.removeprefix(start): value for key, value in graph.items() if key.startswith(start)}}
