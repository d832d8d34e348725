"""Extrapolation grades: how far an atom's descriptors lie outside those that the potential was trained on.

With A the square matrix of the descriptors of an element's active set,

    gamma_i = max_j |(b_i A^-1)_j|

is the largest factor by which |det A| grows when atom i takes the place of a member: up to 1 it is interpolation
(Podryabinkin and Shapeev, 10.1016/j.commatsci.2017.08.031; Lysogorskiy et al., 10.1103/PhysRevMaterials.7.043801).

Where a core repulsion replaces the expansion its descriptors fade out, so they would look familiar: there gamma is
infinite. That begins at the distance below which the repulsion fades in, or at the closest pair of the training frames
if that is shorter, but not below the distance at which nothing that was fitted is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finetune.errors import InputError
from finetune.graph import Graph, edge_vectors
from finetune.potential import Potential
from finetune.properties import Properties
from finetune.uncertainty.frames import batches, structures_of
from finetune.uncertainty.maxvol import MaxVol, Spread
from finetune.wrapper import Wrapper

RESOLUTION = {torch.float32: 1e-6, torch.float64: 1e-10}  # of descriptors: smaller spreads are round-off
PASSES = 50  # over the frames; a few are enough
KINDS = 120  # atomic numbers
ROUND = 1e-4  # Å, by which a distance of the training frames may be off after it was written to a file
KEPT = 2**30  # bytes of descriptors that are kept in memory instead of being worked out in each pass


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """The active set of an element.

    Attributes:
        inverse: A^-1, float64, shape (features, features).
        atoms: atoms of the element among the frames that it was chosen from.
        spanned: directions of descriptors that these atoms are taken to span: all of them, or fewer where descriptors
            depend on each other or are more than the atoms. Each of the others has a made-up member, as long as the
            smallest spread along a spanned one, unless an atom reaches farther.
        closest: distance (Å) of the nearest neighbour of each element among these atoms, by atomic number.
        members: frame and atom of each member, -1 for a made-up one; empty where it is not known any more.
    """

    inverse: Float[Tensor, "d d"]
    atoms: int
    spanned: int
    closest: Mapping[int, float] = field(default_factory=dict)
    members: tuple[tuple[int, int], ...] = ()

    @property
    def features(self) -> int:
        """Number of descriptors."""
        return len(self.inverse)

    def message(self, symbol: str) -> str:
        """In words, with what is missing."""
        text = f"{symbol}: active set of {self.features} out of {self.atoms} atoms"
        if self.spanned == self.features:
            return text
        if self.atoms >= self.features:
            return f"{text}; their descriptors span {self.spanned} directions"
        return (
            f"{symbol}: {self.atoms} atoms are too few for {self.features} descriptors, so {self.spanned} directions "
            f"are taken as known and grades are coarse; add frames with {symbol}, or take fewer descriptors"
        )


class Graded(Wrapper):
    """A potential that grades how far each atom is outside of its training: `gamma` in what it says.

    Grades belong to the weights that they were made with: they are not given in training, and a potential that was
    trained further is to be graded anew. Atoms of an element without active set have an infinite grade, and so have
    pairs of atoms within the core repulsion of the potential (`cores`).

    Args:
        potential: the potential underneath.
        active_sets: by atomic number or chemical symbol, see `active_sets`; in a checkpoint the plain numbers of each.
    """

    core: Tensor

    def __init__(self, potential: Potential, active_sets: Mapping[Any, Any]) -> None:
        super().__init__(potential)
        self.about: dict[int, dict[str, Any]] = {}
        for key, given in active_sets.items():
            number = atomic_numbers[key] if isinstance(key, str) else int(key)
            if not isinstance(given, ActiveSet):
                empty = torch.zeros(given["features"], given["features"], dtype=torch.float64)
                closest = {atomic_numbers[symbol]: float(d) for symbol, d in given.get("closest", {}).items()}
                given = ActiveSet(empty, given["atoms"], given["spanned"], closest)
            named = {chemical_symbols[z]: float(d) for z, d in given.closest.items()}
            plain = {"features": given.features, "atoms": given.atoms, "spanned": given.spanned}
            self.about[number] = plain | ({"closest": named} if named else {})
            self.register_buffer(f"inverse_{chemical_symbols[number]}", given.inverse.to(self.device))
        if not self.about:
            raise InputError("there is no active set to grade by; make them from the training frames")
        limits = torch.zeros(KINDS, KINDS, dtype=torch.float64)
        for (a, b), distance in self.cores.items():
            limits[a, b] = distance
        self.register_buffer("core", limits.to(self.device), persistent=False)

    @property
    def active_sets(self) -> dict[int, ActiveSet]:
        """The active sets by atomic number."""
        return {
            number: ActiveSet(self._inverse(number), about["atoms"], about["spanned"], self._closest(number))
            for number, about in self.about.items()
        }

    @property
    def cores(self) -> dict[tuple[int, int], float]:
        """Distance (Å) of each pair of elements below which grades are infinite; empty without core repulsion."""
        found: dict[tuple[int, int], float] = {}
        for (a, b), (begin, end) in self.potential.core_distances().items():
            closest = min(self._closest(a).get(b, begin), self._closest(b).get(a, begin))
            found[a, b] = max(min(begin, closest - ROUND), end)
        return found

    def grades(self, numbers: Int[Tensor, " atoms"], descriptors: Float[Tensor, "atoms d"]) -> Float[Tensor, " atoms"]:
        """Extrapolation grade of atoms of the given atomic numbers, float64."""
        gamma = torch.full(numbers.shape, torch.inf, dtype=torch.float64, device=descriptors.device)
        for number in self.about:
            chosen = (numbers == number).nonzero()[:, 0]
            if len(chosen):
                rows = descriptors.index_select(0, chosen).double()
                gamma[chosen] = (rows @ self._inverse(number)).abs().amax(dim=1)
        return gamma

    def forward(self, graph: Graph) -> Properties:
        """What the potential underneath says, and gamma."""
        said: Properties = self.potential(graph) if self.training else self.described(graph)[0]
        return said

    def described(self, graph: Graph) -> tuple[Properties, Float[Tensor, "atoms d"]]:
        """What the potential underneath says, gamma, and the descriptors, all of one pass."""
        said, features = self.potential.described(graph)
        gamma = self.grades(graph["numbers"].to(features.device), features)
        return replace(said, gamma=gamma.masked_fill(self.within_cores(graph).to(gamma.device), torch.inf)), features

    def within_cores(self, graph: Graph) -> Bool[Tensor, " atoms"]:
        """Atoms that have a neighbour closer than `cores`."""
        numbers = graph["numbers"]
        found = torch.zeros(len(numbers), dtype=torch.bool, device=numbers.device)
        if self.core.any():
            i, j = graph["edge_index"]
            limits = self.core.to(numbers.device)[numbers[i], numbers[j]]
            found[i[edge_vectors(graph).norm(dim=1) < limits]] = True
        return found

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args`, the potential nested, of the active sets their sizes."""
        sets = {chemical_symbols[number]: about for number, about in self.about.items()}
        arguments = {"potential": self.potential.config(), "active_sets": sets}
        return {"class_path": "finetune.uncertainty.Graded", "init_args": arguments}

    def bare(self) -> Potential:
        """The potential underneath: its grades are not true after training."""
        return self.potential.bare()

    def _closest(self, number: int) -> dict[int, float]:
        found = self.about.get(number, {}).get("closest", {})
        return {atomic_numbers[symbol]: distance for symbol, distance in found.items()}

    def _inverse(self, number: int) -> Tensor:
        return self.get_buffer(f"inverse_{chemical_symbols[number]}")


def active_sets(
    potential: Potential, frames: Sequence[Any], tolerance: float = 1.001, batch_edges: int = 8000
) -> dict[int, ActiveSet]:
    """The active set of each element, by MaxVol over the descriptors of all its atoms.

    The frames stream by, first to see how far descriptors spread, then until a pass exchanges nothing, so that gamma is
    at most `tolerance` for all of them. Descriptors beyond `KEPT` bytes are worked out anew in each pass.

    Args:
        potential: any potential with descriptors.
        frames: what it was trained on: frames of a data set, or `ase.Atoms`.
        tolerance: factor by which an exchange has to enlarge the determinant, above 1.
        batch_edges: edges that are evaluated together.

    Returns:
        Active sets by atomic number.

    Raises:
        InputError: no frames, or a tolerance that never ends.
    """
    if not len(frames):
        raise InputError("there are no frames to choose active sets from; give those that the potential was trained on")
    if not tolerance > 1:
        raise InputError(f"the tolerance of MaxVol is {tolerance}; give a little more than 1, such as 1.001")
    rows = _Rows(potential, frames, batch_edges)
    spreads: dict[int, Spread] = {}
    for numbers, features, _ in rows:
        for number in np.unique(numbers).tolist():
            spreads.setdefault(number, Spread(features.shape[1])).add(features[numbers == number])
    resolution = RESOLUTION.get(potential.dtype, RESOLUTION[torch.float32])
    whitenings = {number: spread.whitening(resolution) for number, spread in sorted(spreads.items())}
    chosen = {number: MaxVol(*found, tolerance) for number, found in whitenings.items()}
    for _ in range(PASSES):
        if not sum(_offered(chosen, *part) for part in rows):
            break
    else:
        text = (
            f"MaxVol has not come to an end in {PASSES} passes: gamma may exceed {tolerance:g} on the training frames"
        )
        warnings.warn(text, stacklevel=2)
    return {
        number: ActiveSet(
            torch.from_numpy(found.inverse),
            spreads[number].rows,
            whitenings[number][1],
            rows.closest.of(number),
            rows.named(found.members),
        )
        for number, found in chosen.items()
    }


def _offered(chosen: Mapping[int, MaxVol], numbers: np.ndarray, features: np.ndarray, names: np.ndarray) -> int:
    """Exchanges that the atoms of some frames bring about."""
    kinds = {number: numbers == number for number in np.unique(numbers).tolist()}
    return sum(chosen[number].offer(features[kind], names[kind]) for number, kind in kinds.items())


class _Closest:
    """Shortest distance of each pair of elements among the neighbours of some graphs, Å."""

    def __init__(self) -> None:
        self.distances = np.full((KINDS, KINDS), np.inf)

    def add(self, graph: Graph) -> None:
        """Take the neighbours of a graph into account."""
        i, j = graph["numbers"][graph["edge_index"]].cpu().numpy()
        np.minimum.at(self.distances, (i, j), edge_vectors(graph).norm(dim=1).cpu().numpy())

    def of(self, number: int) -> dict[int, float]:
        """The distance of the nearest neighbour of each element, by atomic number."""
        row = self.distances[number]
        return {int(z): float(row[z]) for z in np.flatnonzero(np.isfinite(row))}


class _Rows:
    """Atomic numbers, descriptors (float64) and running numbers of the atoms of frames, some frames at a time."""

    def __init__(self, potential: Potential, frames: Sequence[Any], batch_edges: int) -> None:
        self.potential, self.structures, self.batch_edges = potential, structures_of(frames), batch_edges
        self.starts = np.cumsum([0, *(len(atoms) for atoms in self.structures)])
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.closest = _Closest()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        yield from self.kept
        seen = sum(len(numbers) for numbers, _, _ in self.kept)
        following = self.structures[int(np.searchsorted(self.starts, seen)) :]
        size = sum(part[1].nbytes for part in self.kept)
        whole = True  # what is kept is the beginning, without gaps
        for graph in batches(self.potential, following, self.batch_edges):
            self.closest.add(graph)
            features = self.potential.descriptors(graph).detach().cpu().double().numpy()
            part = (graph["numbers"].cpu().numpy(), features, np.arange(seen, seen + len(features)))
            seen, size = seen + len(features), size + features.nbytes
            whole = whole and size <= KEPT
            if whole:
                self.kept.append(part)
            yield part

    def named(self, members: np.ndarray) -> tuple[tuple[int, int], ...]:
        """Frame and atom of running numbers; (-1, -1) of a made-up one."""
        frames = np.searchsorted(self.starts, members, side="right") - 1
        return tuple(
            (int(f), int(m - self.starts[f])) if m >= 0 else (-1, -1) for f, m in zip(frames, members, strict=True)
        )
